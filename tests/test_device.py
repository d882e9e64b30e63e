"""Devices by name, with machines that have other devices simulated."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from mcir import device
from mcir.config import DistOptions
from mcir.device import best_device, cpu_count, memory_used, resolve_device
from mcir.engine.distributed import init_distributed


@pytest.fixture
def machine(monkeypatch):
    def simulate(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    simulate()
    return simulate


def test_the_best_device_is_cuda_then_mps_then_cpu(machine):
    assert best_device().type == "cpu"
    machine(mps=True)
    assert best_device().type == "mps"
    machine(cuda=2, mps=True)
    assert best_device().type == "cuda"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device: expected cpu, cuda, mps or a GPU such as cuda:1, got 'gpu'."),
        ("meta", "device: expected cpu, cuda, mps or a GPU such as cuda:1, got 'meta'."),
        ("cuda", "device: 'cuda' is not available: this machine has 0 CUDA GPUs."),
        ("mps", "device: 'mps' is not available: it requires macOS on Apple silicon."),
    ],
)
def test_an_unknown_or_unavailable_device_is_an_error(machine, name, message):
    with pytest.raises(ValueError) as caught:
        resolve_device(name)
    assert str(caught.value) == message


def test_an_available_device_is_returned(machine):
    machine(cuda=2, mps=True)
    assert [str(resolve_device(name)) for name in ("cpu", "cuda", "cuda:1", "mps")] == ["cpu", "cuda", "cuda:1", "mps"]
    with pytest.raises(ValueError, match="'cuda:2' is not available: this machine has 2 CUDA GPUs"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("num_gpu", "cuda", "mps", "device"),
    [
        ("auto", 1, False, "cuda:0"),
        ("auto", 0, True, "mps"),
        ("auto", 0, False, "cpu"),
        ("cpu", 1, True, "cpu"),
        (0, 1, True, "cpu"),
        ("cuda", 1, False, "cuda:0"),
        (1, 1, False, "cuda:0"),
        ("mps", 1, True, "mps"),
    ],
)
def test_num_gpu_selects_the_device_of_a_run(machine, num_gpu, cuda, mps, device):
    machine(cuda, mps)
    with init_distributed(num_gpu, DistOptions()) as dist:
        assert str(dist.device) == device


def test_num_gpu_reports_what_is_not_available(machine, monkeypatch):
    for name in ("cuda", "mps"):
        with (
            pytest.raises(ValueError, match=f"^num_gpu: '{name}' is not available"),
            init_distributed(name, DistOptions()),
        ):
            pass
    machine(mps=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="MPS supports one process, got"), init_distributed("mps", DistOptions()):
        pass


def test_the_machine_has_cores_and_memory():
    assert 1 <= cpu_count() <= psutil.cpu_count()
    assert memory_used() > 2**20


def test_available_memory_respects_the_limit_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8000))
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    assert device.memory_available() == 8000
    (tmp_path / "memory.current").write_text("1000\n")
    for limit, expected in (("max", 8000), ("9500", 8000), ("5000", 4000), ("500", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert device.memory_available() == expected
