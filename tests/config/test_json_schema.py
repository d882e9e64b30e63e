"""The JSON schema, tested with a small validator for the keywords that it uses."""

import json
import re
import subprocess
import sys

import pytest

from mcir.config import json_schema, schema_path
from mcir.config.files import FOR_EDITORS, shipped
from mcir.config.yaml_loader import read_file
from mcir.registry import ARCHS, LOSSES, MODELS


@pytest.fixture(scope="module")
def schema():
    """The schema of all registered components."""
    return json_schema()


def is_valid(value, schema, definitions=None):
    """Return whether a value is valid under a schema.

    Args:
        value: value to check.
        schema: schema of the value.
        definitions: targets of references. Default: those of ``schema``, which is then the schema of the whole file.
    """
    definitions = schema["$defs"] if definitions is None else definitions
    if "$ref" in schema:
        return is_valid(value, definitions[schema["$ref"].rpartition("/")[2]], definitions)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = schema.get("type")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "integer" and not (is_number and float(value).is_integer()):
        return False
    if kind == "number" and not is_number:
        return False
    if kind in kinds and not isinstance(value, kinds[kind]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if is_number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    if "anyOf" in schema and not any(is_valid(value, option, definitions) for option in schema["anyOf"]):
        return False
    if any(not is_valid(value, part, definitions) for part in schema.get("allOf", ())):
        return False
    applies = "if" in schema and is_valid(value, schema["if"], definitions)
    if applies and not is_valid(value, schema["then"], definitions):
        return False
    if isinstance(value, list) and ("items" in schema or "prefixItems" in schema):
        items = schema.get("prefixItems") or [schema["items"]] * len(value)
        has_length = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return has_length and all(is_valid(entry, item, definitions) for entry, item in zip(value, items, strict=False))
    if isinstance(value, dict):
        if not set(schema.get("required", ())) <= value.keys():
            return False
        for key, entry in value.items():
            patterns = [part for regex, part in schema.get("patternProperties", {}).items() if re.search(regex, key)]
            matching = [*patterns, *([schema["properties"][key]] if key in schema.get("properties", {}) else [])]
            if not matching:
                additional = schema.get("additionalProperties", True)
                matching = [additional] if isinstance(additional, dict) else []
                if additional is False:
                    return False
            if not all(is_valid(entry, part, definitions) for part in matching):
                return False
    return True


def test_the_schema_is_json_and_its_references_exist(schema):
    text = json.dumps(schema)
    assert {name.rpartition("/")[2] for name in re.findall(r'"\$ref": "([^"]+)"', text)} <= schema["$defs"].keys()


def test_every_component_is_a_variant_with_types_and_defaults(schema):
    variants = {variant["title"]: variant for variant in schema["$defs"]["architecture"]["anyOf"]}
    assert set(variants) == set(ARCHS.names())
    edsr = variants["EDSR"]
    assert set(edsr["properties"]) == {"type", *ARCHS.parameters("EDSR")}
    assert edsr["properties"]["num_feat"] == {"type": "integer", "minimum": 1, "maximum": 4096, "default": 64}
    assert edsr["properties"]["rgb_mean"]["default"] == [0.4488, 0.4371, 0.4040]
    assert "required" not in edsr
    assert {variant["title"] for variant in schema["$defs"]["loss"]["anyOf"]} == set(LOSSES.names())


def test_the_training_options_depend_on_the_model(schema):
    assert schema["properties"]["model_type"]["enum"] == MODELS.names()
    targets = {
        part["if"]["properties"]["model_type"]["const"]: part["then"]["properties"]["train"] for part in schema["allOf"]
    }
    assert list(targets) == MODELS.names()
    train = {
        name: schema["$defs"][target["anyOf"][0]["$ref"].rpartition("/")[2]]["properties"]
        for name, target in targets.items()
    }
    assert "negatives" in train["ContrastiveModel"]
    assert "negatives" not in train["RestorationModel"]
    assert "seed" not in train["RestorationModel"]
    assert "total_iter" in train["RestorationModel"]


def test_fixed_options_have_descriptions(schema):
    assert schema["properties"]["scale"]["description"] == "Output size divided by input size."
    assert schema["properties"]["scale"]["minimum"] == 1
    assert schema["properties"]["num_gpu"]["anyOf"] == [
        {"type": "string", "enum": ["auto", "cpu", "cuda", "mps"]},
        {"type": "integer", "minimum": 0, "maximum": 1024},
    ]
    assert schema["$defs"]["LoggerOptions"]["properties"]["print_freq"]["default"] == 100


def test_a_valid_file_is_valid_under_the_schema(schema, write, good):
    assert is_valid(read_file(write(good)).plain(), schema)
    assert is_valid(
        {"_base_": "a.yml", "train": None, "datasets": {"train": None}, "network_g": {"num_feat": 8}}, schema
    )
    more = "_base_: a.yml\nimports: b\nnum_gpu: 2\n" + good.replace(
        "datasets:", "datasets:\n  val_1: {type: BundledPhotos, split: val, num_worker_per_gpu: 1}"
    )
    assert is_valid(read_file(write(more)).plain(), schema)


@pytest.mark.parametrize(
    "file", sorted(shipped().rglob("*.yml")), ids=lambda file: file.relative_to(shipped()).as_posix()
)
def test_shipped_files_are_valid_under_the_schema_and_name_it(schema, file):
    assert is_valid(read_file(file).plain(), schema)
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith(FOR_EDITORS)
    assert (file.parent / first.removeprefix(FOR_EDITORS)).resolve() == schema_path().resolve()


def test_the_shipped_schema_is_current(tmp_path):
    written = tmp_path / "schema.json"
    subprocess.run([sys.executable, "-m", "mcir.cli", "schema", written], cwd=tmp_path, check=True)
    assert schema_path().read_text(encoding="utf-8") == written.read_text(encoding="utf-8"), (
        "The schema has changed. Run: mcir schema options/schema.json"
    )


@pytest.mark.parametrize(
    "text", ["train: {total_itr: 5}", "network_g: {num_feats: 8}", "datasets: {train: {gt_sise: 4}}", "val: null"]
)
def test_a_mistake_in_a_part_of_a_file_is_not_valid(schema, write, text):
    assert not is_valid(read_file(write(text + "\n")).plain(), schema)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_in_ch:", "num_in_chs:"),
        ("EDSR", "EDRS"),
        ("ContrastiveModel", "RestorationModel"),
        ("lr: 1e-4", "lr: true"),
        ("gt_size: 96", "gt_size: big"),
        ("batch_size_per_gpu: 4", "batch_size: 4"),
        ("total_iter:", "total_itr:"),
        ("scale: 2", "scale: 0"),
        ("betas: [0.9, 0.99]", "betas: [0.9]"),
        ("name: quick", "nam: quick"),
        ("type: PSNR", "type: EDSR"),
    ],
)
def test_a_mistake_is_not_valid_under_the_schema(schema, write, good, old, new):
    assert not is_valid(read_file(write(good.replace(old, new, 1))).plain(), schema)
