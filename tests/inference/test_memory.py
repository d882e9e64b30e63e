"""The memory budget of a device, and the memory cost of a network."""

import pytest
import torch
from torch import nn

from mcir.inference import memory
from mcir.inference.memory import LiveBytes, budget, memory_cost

MIB = 2**20


def test_budget_of_a_cpu(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "memory_available", lambda: 100.0 * 2**30)
    assert budget(cpu) == (2**30, 2**28)
    monkeypatch.setattr(memory, "memory_available", lambda: 1200.0 * MIB)
    assert budget(cpu) == (600 * MIB, 256 * MIB)
    monkeypatch.setattr(memory, "memory_available", lambda: 100.0 * MIB)
    assert budget(cpu) == (50 * MIB, 50 * MIB)


def test_budget_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert budget(torch.device("cuda")) == pytest.approx((700, 700))


def test_live_bytes():
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


def test_memory_cost_of_a_network():
    """Two maps of 8 channels exist at once: the output of the convolution, and the sum."""
    conv = nn.Conv2d(3, 8, 1)
    with torch.no_grad():
        per_image, per_pixel = memory_cost(lambda x: conv(x) + 1, (torch.rand(1, 3, 20, 20), torch.rand(1, 3, 40, 40)))
        assert (per_image, per_pixel) == (0, 2 * 8 * 4)
        table = torch.ones(5000)
        per_image, per_pixel = memory_cost(
            lambda x: (table * 2, conv(x) + 1), (torch.rand(1, 3, 20, 20), torch.rand(2, 3, 40, 40))
        )
        assert (per_image, per_pixel) == (5000 * 4, 2 * 8 * 4)
