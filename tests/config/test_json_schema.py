"""The JSON schema, tested with a small validator for the keywords that it uses."""

import json
import re

import pytest

from mcir.config import json_schema
from mcir.config.yaml_loader import read_file
from mcir.registry import ARCHS, LOSSES, MODELS

SCHEMA = json_schema()


def is_valid(value, schema):
    """Return whether a value is valid under a schema."""
    if "$ref" in schema:
        return is_valid(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
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
    if "anyOf" in schema and not any(is_valid(value, option) for option in schema["anyOf"]):
        return False
    if any(not is_valid(value, part) for part in schema.get("allOf", ())):
        return False
    if "if" in schema and is_valid(value, schema["if"]) and not is_valid(value, schema["then"]):
        return False
    if isinstance(value, list) and ("items" in schema or "prefixItems" in schema):
        items = schema.get("prefixItems") or [schema["items"]] * len(value)
        has_length = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return has_length and all(map(is_valid, value, items))
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
            if not all(is_valid(entry, part) for part in matching):
                return False
    return True


def test_the_schema_is_json_and_its_references_exist():
    text = json.dumps(SCHEMA)
    assert {name.rpartition("/")[2] for name in re.findall(r'"\$ref": "([^"]+)"', text)} <= SCHEMA["$defs"].keys()


def test_every_component_is_a_variant_with_types_and_defaults():
    variants = {variant["title"]: variant for variant in SCHEMA["$defs"]["architecture"]["anyOf"]}
    assert set(variants) == set(ARCHS.names())
    edsr = variants["EDSR"]
    assert set(edsr["properties"]) == {"type", *ARCHS.parameters("EDSR")}
    assert edsr["properties"]["num_feat"] == {"type": "integer", "default": 64}
    assert edsr["properties"]["rgb_mean"]["default"] == [0.4488, 0.4371, 0.4040]
    assert "type" in edsr["required"] and "num_feat" not in edsr["required"]
    assert {variant["title"] for variant in SCHEMA["$defs"]["loss"]["anyOf"]} == set(LOSSES.names())


def test_the_training_options_depend_on_the_model():
    assert SCHEMA["properties"]["model_type"]["enum"] == MODELS.names()
    train = {
        part["if"]["properties"]["model_type"]["const"]: part["then"]["properties"]["train"] for part in SCHEMA["allOf"]
    }
    assert "negatives" in train["ContrastiveModel"]["properties"]
    assert "negatives" not in train["RestorationModel"]["properties"]
    assert "seed" not in train["RestorationModel"]["properties"]
    assert "total_iter" in train["RestorationModel"]["required"]


def test_fixed_options_have_descriptions():
    assert SCHEMA["properties"]["scale"]["description"] == "Output size divided by input size."
    assert SCHEMA["properties"]["scale"]["minimum"] == 1
    assert SCHEMA["properties"]["num_gpu"]["anyOf"] == [
        {"type": "string", "enum": ["auto", "cpu", "cuda", "mps"]},
        {"type": "integer", "minimum": 0},
    ]
    assert SCHEMA["$defs"]["LoggerOptions"]["properties"]["print_freq"]["default"] == 100


def test_a_valid_file_is_valid_under_the_schema(write, good):
    assert is_valid(read_file(write(good)).plain(), SCHEMA)
    more = "_base_: a.yml\nimports: b\nnum_gpu: 2\n" + good.replace(
        "datasets:", "datasets:\n  val_1: {type: BundledPhotos, split: val, num_worker_per_gpu: 1}"
    )
    assert is_valid(read_file(write(more)).plain(), SCHEMA)


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
def test_a_mistake_is_not_valid_under_the_schema(write, good, old, new):
    assert not is_valid(read_file(write(good.replace(old, new, 1))).plain(), SCHEMA)
