"""Memory: how much there is, how much is taken, and what happens when it runs out."""

import pytest
import torch
from torch import nn

from mcir.inference import memory
from mcir.inference.memory import LiveBytes, available, budget, cost, is_out_of_memory

MIB = 2**20


# -- what there is ----------------------------------------------------------------------------------------------------


def machine(folder, **files):
    """Write files of a system; ``__`` stands for a slash."""
    for name, text in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_available_is_what_the_machine_or_its_control_group_has_left(tmp_path):
    assert available(tmp_path) == float("inf")
    machine(tmp_path, proc__meminfo="MemTotal:  9000 kB\nMemFree: 100 kB\nMemAvailable:    8000 kB\n")
    assert available(tmp_path) == 8000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    (group / "user/me").mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert available(tmp_path) == 8000 * 1024
    (group / "memory.max").write_text("5000000\n")
    assert available(tmp_path) == 4999000
    machine(tmp_path, proc__self__cgroup="0::/user/me\n")
    (group / "user/me/memory.max").write_text("3000\n")
    (group / "user/me/memory.current").write_text("1000\n")
    assert available(tmp_path) == 2000
    (group / "user/me/memory.current").write_text("4000\n")
    assert available(tmp_path) == 0


def test_available_knows_the_older_control_groups(tmp_path):
    group = tmp_path / "sys/fs/cgroup/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("70000")
    (group / "memory.usage_in_bytes").write_text("20000")
    assert available(tmp_path) == 50000


def test_the_budget_of_a_processor_is_modest_and_at_most_half_of_what_is_left(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "available", lambda: 100.0 * 2**30)
    assert budget(cpu) == (2**30, 2**28)
    monkeypatch.setattr(memory, "available", lambda: 1200.0 * MIB)
    assert budget(cpu) == (600 * MIB, 256 * MIB)
    monkeypatch.setattr(memory, "available", lambda: 100.0 * MIB)
    assert budget(cpu) == (50 * MIB, 50 * MIB)


def test_the_budget_of_a_gpu_is_most_of_what_is_free_or_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert budget(torch.device("cuda")) == pytest.approx((700, 700))


# -- what is taken ----------------------------------------------------------------------------------------------------


def test_live_bytes_are_those_of_the_tensors_that_are_there():
    kept = torch.zeros(1000)
    with LiveBytes() as counted:
        a = kept + 1
        assert (counted.live, counted.peak) == (4000, 4000)
        b = a.view(10, 100)[:5]  # no memory of its own
        c = torch.cat([a, a]).double()
        assert (counted.live, counted.peak) == (20000, 28000)
        a.add_(1)
        del a, c
        assert (counted.live, counted.peak) == (4000, 28000)  # b holds it
        del b
        assert (counted.live, counted.peak) == (0, 28000)


def test_the_cost_of_a_network_is_what_it_takes_a_pixel():
    """Three maps of 8 channels at once: the input of a convolution, its output and what is added."""
    conv = nn.Conv2d(3, 8, 1)
    with torch.no_grad():
        per_image, per_pixel = cost(lambda x: conv(x) + 1, (torch.rand(1, 3, 20, 20), torch.rand(1, 3, 40, 40)))
        assert (per_image, per_pixel) == (0, 2 * 8 * 4)
        table = torch.ones(5000)
        per_image, per_pixel = cost(
            lambda x: (table * 2, conv(x) + 1), (torch.rand(1, 3, 20, 20), torch.rand(2, 3, 40, 40))
        )
        assert (per_image, per_pixel) == (5000 * 4, 2 * 8 * 4)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_the_end_of_memory_is_known(error, is_it):
    assert is_out_of_memory(error) is is_it
