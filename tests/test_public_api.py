"""The public API: used as users write it, and compared with the list of version 0.1.0.

``public_api.json`` was written with version 0.1.0, before the refactoring. It lists what users, their scripts and their
files rely on: the names in ``mcir`` with their arguments, the registered components with aliases and arguments, the
option keys with their defaults, the flags of the commands, the files of a run and the keys of its checkpoints. All of
them must stay. New ones may be added; a new argument needs a default. The only removal so far is the entry
``generators`` of training states: a step is seeded by its number, so no generator state is saved. The only
defaults that changed are ``temperature`` and ``residual_scale`` of ``ResidualContrastiveLoss`` (study ``rcl-scale``).
"""

import inspect
import json
import operator
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

import mcir
from mcir import cli

ROOT = Path(__file__).parents[1]
LISTED = json.loads(Path(__file__).with_name("public_api.json").read_text("utf-8"))
REQUIRED, WITHOUT_DEFAULT = "<required>", "<no default>"

EDSR = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1.0}
LAYERS = {"relu1_1": 1.0}


@pytest.fixture
def batch():
    gt = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"lq": torch.nn.functional.avg_pool2d(gt, 2), "gt": gt}


def test_a_training_loop_of_ones_own_with_negatives_from_history(batch):
    network = mcir.build_network(EDSR)
    negatives = mcir.HistoryNegatives(network, weight=0.5, steps=[1, 2])
    contrast = mcir.SPNLoss(LAYERS, weights="random", loss_weight=0.01)
    pixel = mcir.build_loss({"type": "L1Loss"})
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    fidelity = []
    for iteration in range(1, 21):
        output = network(batch["lq"])
        l_pix = pixel(output, batch["gt"])
        fidelity.append(l_pix.item())
        loss = l_pix + contrast(output, negatives(batch["lq"], batch["gt"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        negatives.update(network, iteration, output, batch["gt"])
    assert fidelity[-1] < 0.9 * fidelity[0]
    assert negatives.updates.tolist() == [20, 10]
    assert not torch.equal(negatives(batch["lq"], batch["gt"])[0], network(batch["lq"]))


def test_a_model_makes_the_steps_itself(batch):
    section = {"network_g": EDSR, "pixel_opt": {"type": "L1Loss"}, "optim_g": {"type": "Adam", "lr": 1e-2}}
    model = mcir.build_model({"type": "RestorationModel", **section})
    assert isinstance(model, mcir.Model)
    psnr = mcir.build_metric({"type": "PSNR", "crop_border": 2})
    before = psnr(model.restore(batch["lq"]), batch["gt"])
    losses = [float(model.training_step(batch, iteration)["l_pix"]) for iteration in range(1, 21)]
    after = psnr(model.restore(batch["lq"]), batch["gt"])
    assert losses[-1] < 0.9 * losses[0]
    assert after.shape == (2,)
    assert (after > before).all()


def test_a_data_set_feeds_a_data_loader_of_ones_own(tmp_path):
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    section = {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path), "degradation": {"type": "BicubicDown"}}
    dataset = mcir.build_dataset({**section, "scale": 2, "gt_size": 16})
    (batch,) = torch.utils.data.DataLoader(dataset, batch_size=3)
    assert batch["gt"].shape == (3, 3, 16, 16)
    assert batch["lq"].shape == (3, 3, 8, 8)
    assert [path.rpartition("/")[2] for path in batch["gt_path"]] == ["0.png", "1.png", "2.png"]


def test_an_option_file_is_loaded_and_checked(tmp_path):
    file = tmp_path / "x.yml"
    data = f"{{type: PairedImageDataset, dataroot_gt: {tmp_path}, degradation: {{type: BicubicDown}}}}"
    lines = ["name: x", "model_type: RestorationModel", "scale: 2", "network_g: {type: EDSR, upscale: 2}"]
    file.write_text("\n".join([*lines, f"datasets: {{val: {data}}}"]))
    options = mcir.load(file)
    assert isinstance(options, mcir.Options)
    assert mcir.build_network(options.network_g).scale == 2
    with pytest.raises(mcir.OptionError, match="Did you mean 'num_feat'"):
        mcir.load(file, ["network_g.num_feats=3"])


@pytest.mark.parametrize("build", ["network", "loss", "dataset", "metric", "model"])
def test_a_name_that_is_unknown_is_refused_with_what_there_is(build):
    with pytest.raises(mcir.RegistryError, match=r"There is no .* 'Nothing'.*Known names: .*mcir \("):
        getattr(mcir, f"build_{build}")({"type": "Nothing"})


def test_every_public_name_exists_and_says_what_it_is():
    for name in mcir.__all__:
        assert inspect.getdoc(getattr(mcir, name)), name
    with pytest.raises(AttributeError, match="no attribute 'SPNLos'"):
        _ = mcir.SPNLos


def test_importing_mcir_does_not_import_torch():
    code = "import sys, mcir; assert 'torch' not in sys.modules; mcir.SPNLoss; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# -- against the list of version 0.1.0 --------------------------------------------------------------------------------


def lost(listed, found):
    """Say what is listed and is not found, and which default is another; what was required may have got a default."""
    gone = [f"{key} is gone" for key in listed if key not in found]
    if not isinstance(listed, dict):
        return gone
    changed = [key for key in listed if key in found and listed[key] not in (found[key], REQUIRED)]
    return gone + [f"{key} was {listed[key]!r} and is {found[key]!r}" for key in changed]


def plain(value):
    """Return a default as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def arguments_of(parameters):
    """Return the arguments that can be given by name, in order, and their defaults."""
    return {
        name: REQUIRED if parameter.default is parameter.empty else plain(parameter.default)
        for name, parameter in parameters.items()
        if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def lost_arguments(listed, found):
    """Say which arguments are gone or changed, and which new ones must be given."""
    new = [f"{key} is new and has no default" for key in found if key not in listed and found[key] == REQUIRED]
    return lost(listed, found) + new


def assert_nothing(problems):
    assert not problems, "The public API of 0.1.0 is broken:\n" + "\n".join(problems)


def test_every_public_name_is_still_there():
    assert_nothing(lost(LISTED["names"], mcir.__all__))


@pytest.mark.parametrize("name", LISTED["callables"])
def test_what_is_called_takes_the_same_arguments(name):
    listed = LISTED["callables"][name]
    found = arguments_of(inspect.signature(operator.attrgetter(name)(mcir)).parameters)
    assert_nothing([f"{name}: {problem}" for problem in lost_arguments(listed, found)])
    if name == "SPNLoss":  # losses take all arguments except layer_weights by name
        listed = ["layer_weights"]
    told = f"{name} may be called without names, so its arguments must begin with {list(listed)}"
    assert list(found)[: len(listed)] == list(listed), told


@pytest.mark.parametrize("registry", LISTED["components"])
def test_every_component_is_still_there_with_its_arguments(registry):
    known, problems = getattr(mcir, registry), []
    for name, listed in LISTED["components"][registry].items():
        if name not in known:
            problems.append(f"{registry}: {name} is gone")
            continue
        problems += [f"{registry}: {name}, also {alias}, is gone" for alias in listed["also"] if alias not in known]
        found = arguments_of(known.parameters(name))
        problems += [f"{registry}: {name}: {problem}" for problem in lost_arguments(listed["arguments"], found)]
        others = [alias for alias in listed["also"] if alias in known and known.get(alias) is not known.get(name)]
        problems += [f"{registry}: {alias} is no longer {name}" for alias in others]
    assert_nothing(problems)


def test_every_optimizer_of_torch_is_still_there():
    """Their arguments are torch's own, and the list leaves out those that the oldest torch does not have."""
    assert_nothing(lost(LISTED["optimizers"], mcir.OPTIMIZERS.names()))


def option_keys(file):
    """Return the keys of option files and their defaults, from the JSON schema; components' own only of the models."""
    assert cli.main(["schema", str(file)]) == 0
    schema = json.loads(file.read_text("utf-8"))
    found = {}

    def enter(path, section, depth=0, without=()):
        section = resolved(section)
        for key, value in section.get("properties", {}).items():
            if key not in without:
                found[f"{path}{key}"] = value.get("default", WITHOUT_DEFAULT)
            if depth and key != "datasets":
                enter(f"{path}{key}.", value, depth - 1)

    def resolved(section):
        if section.get("anyOf", ())[1:] == [{"type": "null"}]:
            section = section["anyOf"][0]
        return schema["$defs"][section["$ref"].rpartition("/")[2]] if "$ref" in section else section

    enter("", schema, 1)
    assert any(re.match(pattern, "network_g") for pattern in schema["patternProperties"])
    for branch in schema["allOf"]:
        model = branch["if"]["properties"]["model_type"]["const"]
        enter(f"{model}: train.", branch["then"]["properties"]["train"])
        found[f"{model}: train.optim_g"] = None  # of the model's constructor; a training requires it
    datasets = resolved(schema["properties"]["datasets"])
    (pattern, evaluated), *_ = datasets["patternProperties"].items()
    assert re.match(pattern, "val")
    assert re.match(pattern, "test_2")
    for kind, branches in (("train", datasets["properties"]["train"]), ("val, test", evaluated)):
        for branch in resolved(branches)["anyOf"]:
            (name, *_) = branch["properties"]["type"]["enum"]
            enter(f"{name}: datasets.{kind}.", branch, without=mcir.DATASETS.parameters(name))
            stages = resolved(branch["properties"].get("progressive", {}).get("items", {}))
            enter(f"{name}: datasets.{kind}.progressive.", stages)
    return found


def test_every_option_key_is_still_there(tmp_path):
    assert_nothing(lost(LISTED["option_keys"], option_keys(tmp_path / "schema.json")))


def flags_of(command, capsys):
    """Return the flags that a command's help tells of."""
    with pytest.raises(SystemExit) as left:
        cli.main([*command.split(), "--help"])
    assert left.value.code == 0, f"the command '{command}' is gone"
    told = re.findall(r"^ +(-.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    return sorted({flag for text in told for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", text)})


@pytest.mark.parametrize("command", LISTED["commands"])
def test_every_command_still_has_its_flags(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert_nothing(
        [f"mcir {command}: {problem}" for problem in lost(LISTED["commands"][command], flags_of(command, capsys))]
    )


def run_of(folder):
    """Train two iterations with a moving average and negatives from history; return the run's folder."""
    photos = {"type": "BundledPhotos", "tile_size": 64, "max_images": 2}
    options = {
        "name": "tiny",
        "model_type": "ContrastiveModel",
        "scale": 2,
        "num_gpu": 0,
        "datasets": {
            "train": {**photos, "split": "train", "gt_size": 16, "batch_size_per_gpu": 2},
            "val": {**photos, "split": "val"},
        },
        "network_g": EDSR,
        "train": {
            "total_iter": 2,
            "ema_decay": 0.9,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "pixel_opt": {"type": "L1Loss"},
            "contrastive_opt": {"type": "SPNLoss", "weights": "random", "layer_weights": LAYERS},
            "negatives": {"type": "HistoryNegatives", "steps": [1, 2]},
        },
        "val": {"pictures": 1, "metrics": {"psnr": {"type": "PSNR"}}},
        "logger": {"print_freq": 1},
    }
    (folder / "tiny.yml").write_text(yaml.safe_dump(options), encoding="utf-8")
    command = [sys.executable, "-m", "mcir.cli", "train", "-opt", "tiny.yml"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "experiments" / "tiny"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("run"))


def files_of(run):
    """Return the files of a run; what TensorBoard's is called depends on the time and the machine."""
    names = (file.relative_to(run).as_posix() for file in run.rglob("*") if file.is_file())
    return sorted(re.sub(r"(events\.out\.tfevents)\..*", r"\1", name) for name in names)


def test_a_run_has_the_same_files(finished):
    assert_nothing(lost(LISTED["run_files"], files_of(finished)))


def lines_of(run):
    """Return the keys of the lines that a run writes for programs, by file and kind."""
    found = {}
    for file in ("results.jsonl", "environment.jsonl"):
        for line in (run / file).read_text("utf-8").splitlines():
            record = json.loads(line)
            found[f"{file} {record.get('kind', '')}".strip()] = sorted(record)
    return found


def test_the_lines_for_programs_have_the_same_keys(finished):
    found = lines_of(finished)
    for kind, keys in LISTED["run_lines"].items():
        assert_nothing([f"{kind}: {problem}" for problem in lost(keys, found.get(kind, []))])


def keys_of(file):
    """Return the keys of a checkpoint, nested ones behind a slash, lists as a whole."""
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return sorted([*opened.keys(), *(f"metadata/{key}" for key in opened.metadata())])

    def walk(tree, path):
        for key, value in tree.items():
            yield from walk(value, f"{path}{key}/") if isinstance(value, Mapping) and value else [f"{path}{key}"]

    return sorted(walk(torch.load(file, map_location="cpu", weights_only=True), ""))


@pytest.mark.parametrize("file", LISTED["checkpoints"])
def test_a_checkpoint_has_the_same_keys(file, finished):
    assert_nothing([f"{file}: {problem}" for problem in lost(LISTED["checkpoints"][file], keys_of(finished / file))])
