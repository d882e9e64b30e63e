"""Tests of checkpoints: atomic files, the state at the time of saving, and formats that other programs read."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mcir.engine import checkpoint
from mcir.engine.checkpoint import CheckpointError, Checkpoints, NetworkFile, write_network
from mcir.models import RestorationModel
from mcir.registry import ARCHS
from mcir.weights import read_weights
from tests.engine.conftest import ROOT

EMPTY = {"model": {}}
ARGUMENTS = {"num_feat": 4, "num_block": 1, "upscale": 2, "rgb_mean": [0.5, 0.4, 0.3]}


@pytest.fixture
def model():
    """A model after one step, so that network, moving average and optimizer have changed."""
    section = {"network_g": {"type": "EDSR", **ARGUMENTS}, "pixel_opt": {"type": "L1Loss"}, "ema_decay": 0.5}
    model = RestorationModel(**section, optim_g={"type": "Adam", "lr": 1e-2}, channels_last=True)
    gt = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model.training_step({"lq": gt[..., ::2, ::2], "gt": gt}, 1)
    return model


def file_of(model):
    return NetworkFile(model.weights(), type(model.network).__name__, model.network.hyperparameters)


def read(checkpoints, iteration):
    return torch.load(checkpoints.state_file(iteration), weights_only=True)


def save(checkpoints, model, iteration, **more):
    checkpoints.save(iteration, {"model": model.state_dict()}, file_of(model), **more)


def simple(value=1.0):
    return NetworkFile({"params": {"weight": torch.full((3,), value)}}, "Simple", {})


def copied(tree):
    return {key: value.clone() for key, value in tree.items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class SlowDisk:
    """A replacement of ``torch.save`` that waits until it is opened, like a slow disk."""

    def __init__(self, monkeypatch):
        self.opened, self.reached, really = threading.Event(), threading.Event(), torch.save

        def slow(*arguments):
            self.reached.set()
            assert self.opened.wait(30)
            return really(*arguments)

        monkeypatch.setattr(torch, "save", slow)


@pytest.fixture
def slow_disk(monkeypatch):
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.opened.set()


# -- what is written --------------------------------------------------------------------------------------------------


def test_weight_files_have_the_layout_of_basicsr(tmp_path, model):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, model, 7)
    checkpoints.wait()
    assert names(tmp_path) == ["7.state", "net_g_7.pth", "net_g_7.safetensors"]
    content = torch.load(tmp_path / "models" / "net_g_7.pth", weights_only=True)
    assert list(content) == ["params", "params_ema", "architecture", "hyperparameters"]
    assert_equal(content["params"], dict(model.network.state_dict()))
    assert_equal(content["params_ema"], dict(model.ema.network.state_dict()))
    assert not torch.equal(content["params"]["conv_last.weight"], content["params_ema"]["conv_last.weight"])
    both = [*content["params"].values(), *content["params_ema"].values()]
    assert all(value.is_contiguous() for value in both)


def test_spandrel_reads_our_files(tmp_path):
    """Spandrel does not have this EDSR, so the layout is tested with a network that it has."""
    spandrel = pytest.importorskip("spandrel")
    compact = pytest.importorskip("spandrel.architectures.Compact")
    networks = {name: compact.Compact(num_feat=8, num_conv=2, upscale=2) for name in ("params", "params_ema")}
    weights = {name: network.state_dict() for name, network in networks.items()}
    write_network(tmp_path / "net_g_1", NetworkFile(weights, "Compact", {}), 1)
    image = torch.rand(1, 3, 6, 7)
    expected = networks["params_ema"](image).clamp(0, 1)
    for suffix in (".pth", ".safetensors"):
        loaded = spandrel.ModelLoader().load_from_file(tmp_path / f"net_g_1{suffix}")
        assert loaded.architecture.id == "Compact"
        assert loaded.scale == 2
        torch.testing.assert_close(loaded(image), expected)


def test_the_network_is_rebuilt_from_the_safetensors_file_alone(tmp_path, model):
    write_network(tmp_path / "net_g_9", file_of(model), 9)
    file = tmp_path / "net_g_9.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert (metadata["architecture"], metadata["weights"], metadata["iteration"]) == ("EDSR", "params_ema", "9")
    arguments = json.loads(metadata["hyperparameters"])
    assert arguments.items() >= ARGUMENTS.items()
    network = ARCHS.build({"type": metadata["architecture"], **arguments})
    network.load_state_dict(load_file(file))
    image = torch.rand(1, 3, 5, 6)
    torch.testing.assert_close(network(image), model.restore(image))
    assert_equal(load_file(file), torch.load(tmp_path / "net_g_9.pth", weights_only=True)["params_ema"])


def test_without_a_moving_average_the_network_is_saved(tmp_path):
    write_network(tmp_path / "net", simple(3.0), 1)
    with safe_open(tmp_path / "net.safetensors", "pt") as opened:
        assert opened.metadata()["weights"] == "params"
    assert torch.equal(load_file(tmp_path / "net.safetensors")["weight"], torch.full((3,), 3.0))


def test_the_state_contains_what_the_model_needs(tmp_path, model):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, model, 1)
    checkpoints.wait()
    state = read(checkpoints, 1)
    assert state["iteration"] == 1
    weight = state["model"]["network_g"]["conv_first.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, model.network.conv_first.weight)
    moments = model.optimizer.state_dict()["state"]
    for number, kept in state["model"]["optimizer"]["state"].items():
        assert_equal(kept, moments[number])
        assert kept["exp_avg"].abs().sum() > 0


# -- at which moment --------------------------------------------------------------------------------------------------


def test_changes_after_saving_are_not_written(tmp_path, model, slow_disk):
    checkpoints = Checkpoints(tmp_path)
    network, average = copied(model.network.state_dict()), copied(model.ema.network.state_dict())
    save(checkpoints, model, 1)
    assert slow_disk.reached.wait(30)
    with torch.no_grad():
        for parameter in model.parts.parameters():
            parameter.fill_(99.0)
    slow_disk.opened.set()
    checkpoints.wait()
    assert_equal(torch.load(tmp_path / "models" / "net_g_1.pth", weights_only=True)["params"], network)
    assert_equal(load_file(tmp_path / "models" / "net_g_1.safetensors"), average)
    assert_equal(read(checkpoints, 1)["model"]["network_g"], network)


def test_saving_waits_only_for_the_previous_checkpoint(tmp_path, model, slow_disk):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, model, 1)  # returns although nothing can be written
    assert slow_disk.reached.wait(30)
    assert checkpoints.iterations() == []
    second = threading.Thread(target=save, args=(checkpoints, model, 2))
    second.start()
    second.join(0.1)
    assert second.is_alive()
    slow_disk.opened.set()
    second.join(30)
    checkpoints.wait()
    assert checkpoints.iterations() == [1, 2]


def test_each_tensor_is_copied_once_into_reused_buffers(tmp_path, model, monkeypatch):
    really, made = torch.empty_like, []

    def counting(*arguments, **options):
        made.append(really(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(torch, "empty_like", counting)
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, model, 1)
    checkpoints.wait()
    tensors = len(list(model.network.parameters()))
    assert len(made) == 5 * tensors  # network, average, two moments and Adam's count; the weight files cost nothing
    first = copied(model.network.state_dict())
    with torch.no_grad():
        for parameter in model.parts.parameters():
            parameter.mul_(2.0)
    save(checkpoints, model, 2)
    checkpoints.wait()
    assert len(made) == 5 * tensors
    doubled = {key: 2 * value for key, value in first.items()}
    for iteration, expected in ((1, first), (2, doubled)):
        assert_equal(read(checkpoints, iteration)["model"]["network_g"], expected)
        file = checkpoints.models / f"net_g_{iteration}.pth"
        assert_equal(torch.load(file, weights_only=True)["params"], expected)


def test_a_tensor_with_a_new_shape_gets_a_new_buffer(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for iteration, size in enumerate((3, 5, 4), start=1):
        tree = {"a": torch.arange(size), "b": [torch.arange(8.0).view(2, 4).mT, (torch.tensor(iteration), "text")]}
        checkpoints.save(iteration, {"model": {"part": tree}}, simple())
        checkpoints.wait()
        part = read(checkpoints, iteration)["model"]["part"]
        assert torch.equal(part["a"], torch.arange(size))
        assert torch.equal(part["b"][0], torch.arange(8.0).view(2, 4).mT)
        assert part["b"][1] == (torch.tensor(iteration), "text")


def test_views_of_the_same_memory_are_saved_as_they_are(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    whole, other = torch.arange(4.0).view(2, 2), torch.tensor([[50.0, 60.0]])
    for iteration in (1, 2, 3):
        tree = {"whole": whole, "part": whole[:1], "turned": whole.mT, "other": other}
        checkpoints.save(iteration, {"model": {"part": tree}}, simple())
        checkpoints.wait()
        assert_equal(read(checkpoints, iteration)["model"]["part"], tree)


def test_tied_weights_are_saved_under_both_names(tmp_path):
    weight = torch.rand(3, 2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, EMPTY, NetworkFile({"params": {"embed": weight, "head": weight}}, "Tied", {}))
    checkpoints.wait()
    for suffix in (".pth", ".safetensors"):
        stored = read_weights(tmp_path / "models" / f"net_g_1{suffix}")
        assert_equal(stored.tensors, {"embed": weight, "head": weight})


# -- when it cannot be written ----------------------------------------------------------------------------------------


def fail_half_way(really):
    def half(content, file):
        really(content, file)
        os.truncate(file, os.path.getsize(file) // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    return half


def next_save(checkpoints):
    checkpoints.save(3, EMPTY, simple())


def next_check(checkpoints):
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        checkpoints.raise_failure()
        time.sleep(0.01)


@pytest.mark.parametrize("noticed_by", [next_save, Checkpoints.wait, next_check])
def test_a_failed_write_is_reported_and_changes_nothing(tmp_path, monkeypatch, noticed_by):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"model": {}, "value": torch.ones(4)}, simple(1.0), is_best=True)
    checkpoints.wait()
    before = names(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(torch, "save", fail_half_way(torch.save))
        checkpoints.save(2, {"model": {}, "value": torch.zeros(4)}, simple(2.0), is_best=True)
        with pytest.raises(
            CheckpointError, match=r"No space left on device.*The last checkpoint is that of iteration 1"
        ):
            noticed_by(checkpoints)
    assert names(tmp_path) == before
    assert torch.equal(read(checkpoints, 1)["value"], torch.ones(4))
    assert float(read_weights(checkpoints.models / "net_g_best.pth").tensors["weight"][0]) == 1.0
    checkpoints.wait()  # the error is raised once
    checkpoints.save(3, {"model": {}, "value": torch.zeros(4)}, simple())  # the next checkpoint can succeed
    checkpoints.wait()
    assert checkpoints.iterations() == [1, 3]


def test_a_checkpoint_with_a_failed_file_is_not_listed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint, "to_safetensors", refuse)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, EMPTY, simple())
    with pytest.raises(CheckpointError, match=r"Input/output error\. There is no earlier checkpoint"):
        checkpoints.wait()
    assert checkpoints.iterations() == []


FULL = """
import resource, sys, torch
from pathlib import Path
from mcir.engine.checkpoint import CheckpointError, Checkpoints, NetworkFile

checkpoints = Checkpoints(Path(sys.argv[1]))
for iteration, size in ((1, 100), (2, 10**6)):
    weights = {"params": {"weight": torch.full((size,), float(iteration))}}
    checkpoints.save(iteration, {"model": weights}, NetworkFile(weights, "Net", {}), is_best=True)
    if iteration == 1:
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    else:
        try:
            checkpoints.wait()
        except CheckpointError as error:
            print(error)
"""


def test_a_limit_on_the_size_of_files_is_handled_like_a_full_disk(tmp_path):
    """Files are limited to a megabyte, so the write fails inside the libraries."""
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("A checkpoint could not be written: ")
    assert "The last checkpoint is that of iteration 1." in result.stdout
    expected = ["1.state", "net_g_1.pth", "net_g_1.safetensors", "net_g_best.pth", "net_g_best.safetensors"]
    assert names(tmp_path) == expected
    assert read(Checkpoints(tmp_path), 1)["iteration"] == 1
    for label in ("1", "best"):
        for suffix in (".pth", ".safetensors"):
            assert float(read_weights(tmp_path / "models" / f"net_g_{label}{suffix}").tensors["weight"][0]) == 1.0


# -- which are kept ---------------------------------------------------------------------------------------------------


def test_the_latest_checkpoints_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for iteration in (2, 4, 20, 22):
        checkpoints.save(iteration, EMPTY, simple(float(iteration)), is_best=iteration == 2)
    checkpoints.wait()
    assert checkpoints.iterations() == [20, 22]
    assert names(checkpoints.models) == [
        f"net_g_{label}.{suffix}" for label in (20, 22, "best") for suffix in ("pth", "safetensors")
    ]
    assert float(read_weights(checkpoints.models / "net_g_best.pth").tensors["weight"][0]) == 2.0


def test_all_checkpoints_are_kept_by_default(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for iteration in range(1, 8):
        checkpoints.save(iteration, EMPTY, simple())
    checkpoints.wait()
    assert checkpoints.iterations() == list(range(1, 8))


# -- what a killed process left behind -------------------------------------------------------------------------------


def test_rewinding_renames_later_states_and_removes_incomplete_files(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.states.mkdir(parents=True)
    for iteration in (2, 4, 6):
        (checkpoints.states / f"{iteration}.state").write_bytes(b"x")
    half = checkpoints.states / ".8.state.99999999"
    half.write_bytes(b"")
    checkpoints.rewind_to(4)
    assert checkpoints.iterations() == [2, 4]
    assert (checkpoints.states / "6.state.abandoned").exists()
    assert not half.exists()


def test_both_weight_files_have_the_same_permissions(tmp_path):
    write_network(tmp_path / "net", simple(), 1)
    assert (tmp_path / "net.pth").stat().st_mode == (tmp_path / "net.safetensors").stat().st_mode
