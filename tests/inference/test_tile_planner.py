"""Tiles are as large as memory allows, and become smaller when memory runs out."""

import logging
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mcir.inference.restorer import Restorer
from mcir.network_spec import NetworkSpec


class Greedy(nn.Module):
    """Fail on inputs with more pixels than ``most``."""

    def __init__(self, most, error=MemoryError, tiles_internally=False):
        super().__init__()
        self.spec = NetworkSpec(scale=2, size_multiple=4, tiles_internally=tiles_internally)
        self.most = most
        self.error = error
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        if x[:, 0].numel() > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return F.interpolate(x, scale_factor=2)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize("tile", ["auto", None, 96])
def test_tiles_are_halved_until_they_fit_and_stay_small(caplog, tile, error):
    net = Greedy(40 * 40, error)
    restorer = Restorer(net, tile=tile, overlap=8)
    image = torch.rand(1, 3, 120, 150)
    with caplog.at_level(logging.WARNING, "mcir"):
        restored = restorer(image)
        assert torch.equal(restored, F.interpolate(image, scale_factor=2))
        failed = [shape for shape in net.seen if shape[2] * shape[3] > net.most]
        assert failed
        assert len(failed) <= 4
        net.seen.clear()
        restorer(image)
        restorer(torch.rand(1, 3, 50, 200))
    assert all(shape[2] * shape[3] <= net.most for shape in net.seen)
    (record,) = caplog.records
    assert (
        "Greedy failed on larger inputs, probably for lack of memory: from now on it restores tiles" in record.message
    )


def test_explicit_tile_is_halved():
    net = Greedy(40 * 40)
    Restorer(net, tile=64, overlap=8)(torch.rand(1, 3, 128, 128))
    sides = [max(shape[2:]) for shape in net.seen]
    assert sides[0] > 40
    assert max(sides[1:]) <= 32


def test_batches_are_divided_before_images_are_tiled():
    net = Greedy(5 * 30 * 30)
    images = torch.rand(16, 3, 30, 30)
    restorer = Restorer(net, tile=None)
    assert torch.equal(restorer(images), F.interpolate(images, scale_factor=2))
    assert [shape[0] for shape in net.seen] == [16, 8, 4, 4, 4, 4]
    assert all(shape[2:] == (30, 30) for shape in net.seen)


def test_error_when_the_smallest_tile_fails():
    restorer = Restorer(Greedy(0), tile=64)
    for _ in range(2):
        with pytest.raises(
            ValueError, match="not enough memory on cpu for Greedy: tiles with sides of 64, 32, 16, 8 pixels"
        ):
            restorer(torch.rand(1, 3, 100, 100))


def test_the_next_image_starts_with_large_tiles_again():
    net = Greedy(0)
    restorer, image = Restorer(net, tile=64), torch.rand(1, 3, 100, 100)
    with pytest.raises(ValueError, match="not enough memory"):
        restorer(image)
    net.most, net.seen = 64 * 64, []
    assert torch.equal(restorer(image), F.interpolate(image, scale_factor=2))
    assert max(max(shape[2:]) for shape in net.seen) == 64


@pytest.mark.parametrize("height", [1, 100])
@pytest.mark.parametrize("transpose", [False, True])
def test_tiles_of_narrow_images_are_halved_too(height, transpose):
    net = Greedy(height * 700)
    image = torch.rand(1, 3, height, 5000)
    image = image.mT.contiguous() if transpose else image
    for tile, sides in ((None, [5000, 2500, 1250, 625]), (2048, [2048, 1024, 512])):
        net.seen.clear()
        assert torch.equal(Restorer(net, tile=tile, overlap=8)(image), F.interpolate(image, scale_factor=2))
        failed = [shape for shape in net.seen if shape[2] * shape[3] > net.most]
        assert len(failed) == len(sides) - 1
        tried = [max(shape[2:]) for shape in (*failed, net.seen[-1])]
        assert all(0.6 * side < made <= side for made, side in zip(tried, sides, strict=True))


def test_other_errors_are_raised_after_the_smallest_tile():
    net = Greedy(0)

    def fail(x):
        net.seen.append(tuple(x.shape))
        raise RuntimeError("The size of tensor a (3) must match")

    net.forward = fail
    with pytest.raises(RuntimeError, match="size of tensor a"):
        Restorer(net, tile=None)(torch.rand(1, 3, 30, 30))
    assert [max(shape[2:]) for shape in net.seen] == [30, 12, 8]


def test_auto_uses_the_budget(monkeypatch):
    """The network holds two maps of 16 channels at once, 128 bytes per pixel, and its input."""
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Sigmoid(), nn.Conv2d(16, 3, 1))
    net.spec = NetworkSpec()
    seen = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    monkeypatch.setattr("mcir.inference.memory.memory_available", lambda: 2 * 100 * 100 * 140.0)
    restorer = Restorer(net)
    restorer(torch.rand(1, 3, 30, 60))
    assert seen == [(1, 3, 30, 60)]  # too small to measure
    restorer(torch.rand(1, 3, 90, 90))
    assert seen.pop() == (1, 3, 90, 90)
    seen.clear()
    restorer(torch.rand(1, 3, 300, 200))
    assert len(seen) > 1
    assert all(80 * 80 < height * width <= 110 * 110 for _, _, height, width in seen)
    seen.clear()
    restorer(torch.rand(4, 3, 70, 70))
    assert [shape[0] for shape in seen] == [2, 2]
    assert all(shape[2:] == (70, 70) for shape in seen)


def test_a_network_that_tiles_internally_gets_large_tiles(monkeypatch):
    net = Greedy(4 * 10**6, tiles_internally=True)
    monkeypatch.setattr("mcir.inference.memory.memory_available", lambda: 2 * 200 * 200 * 16 * 4 * 3.0)
    restorer = Restorer(net)
    restorer(torch.rand(1, 3, 100, 400))
    assert net.seen == [(1, 3, 100, 400)]
    net.seen.clear()
    restorer(torch.rand(1, 3, 201, 220))
    assert len(net.seen) == 4


SCRIPT = """
import logging, resource, sys
import torch
from torch import nn
from mcir.inference.restorer import Restorer
from mcir.network_spec import NetworkSpec
torch.set_num_threads(1)
logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(),
                    nn.Conv2d(48, 3, 3, padding=1))
image = torch.rand(1, 3, 1000, 1000)
expected = Restorer(net, tile=300, overlap=16)(image)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 180 * 2**20, -1))
try:
    with torch.inference_mode():
        net(image)
    print("it fitted")
except (RuntimeError, MemoryError) as error:
    print("without tiles:", error)
restored = Restorer(net, tile=None, overlap=16)(image)
print("difference:", float((restored - expected).abs().max()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory of a process")
def test_a_process_that_runs_out_of_memory_recovers():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "without tiles:" in done.stdout
    assert "Sequential failed on larger inputs" in done.stdout
    assert float(done.stdout.split()[-1]) < 1e-5
