"""TilePlanner: tiles as memory allows, and smaller ones when it runs out all the same."""

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
    """Needs more memory than there is for more than some pixels at once."""

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
def test_tiles_are_halved_until_they_fit_and_stay_so(caplog, tile, error):
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
    assert "Memory ran out: from now on Greedy restores tiles of" in record.message


def test_an_explicit_tile_is_halved():
    net = Greedy(40 * 40)
    Restorer(net, tile=64, overlap=8)(torch.rand(1, 3, 128, 128))
    sides = [max(shape[2:]) for shape in net.seen]
    assert sides[0] > 40
    assert max(sides[1:]) <= 32


def test_a_batch_is_divided_before_there_are_tiles():
    net = Greedy(5 * 30 * 30)
    images = torch.rand(16, 3, 30, 30)
    restorer = Restorer(net, tile=None)
    assert torch.equal(restorer(images), F.interpolate(images, scale_factor=2))
    assert [shape[0] for shape in net.seen] == [16, 8, 4, 4, 4, 4]
    assert all(shape[2:] == (30, 30) for shape in net.seen)


def test_when_even_the_smallest_tile_is_too_large_what_was_tried_is_told():
    restorer = Restorer(Greedy(0), tile=64)
    for _ in range(2):
        with pytest.raises(
            ValueError, match="of cpu is not enough for Greedy: tiles with sides of 64, 32, 16, 8 pixels"
        ):
            restorer(torch.rand(1, 3, 100, 100))


def test_there_may_be_more_memory_for_the_next():
    net = Greedy(0)
    restorer, image = Restorer(net, tile=64), torch.rand(1, 3, 100, 100)
    with pytest.raises(ValueError, match="not enough"):
        restorer(image)
    net.most, net.seen = 64 * 64, []
    assert torch.equal(restorer(image), F.interpolate(image, scale_factor=2))
    assert max(max(shape[2:]) for shape in net.seen) == 64


@pytest.mark.parametrize("height", [1, 100])
@pytest.mark.parametrize("turn", [False, True])
def test_tiles_of_narrow_pictures_are_halved_too_and_use_the_room(height, turn):
    net = Greedy(height * 700)
    image = torch.rand(1, 3, height, 5000)
    image = image.mT.contiguous() if turn else image
    for tile, sides in ((None, [5000, 2500, 1250, 625]), (2048, [2048, 1024, 512])):
        net.seen.clear()
        assert torch.equal(Restorer(net, tile=tile, overlap=8)(image), F.interpolate(image, scale_factor=2))
        failed = [shape for shape in net.seen if shape[2] * shape[3] > net.most]
        assert len(failed) == len(sides) - 1
        tried = [max(shape[2:]) for shape in (*failed, net.seen[-1])]
        assert all(
            0.6 * side < made <= side for made, side in zip(tried, sides, strict=True)
        )  # as small as so few can be


def test_other_errors_are_not_taken_for_it():
    def fail(x):
        raise RuntimeError("The size of tensor a (3) must match")

    net = Greedy(1)
    net.forward = fail
    with pytest.raises(RuntimeError, match="size of tensor a"):
        Restorer(net, tile=None)(torch.rand(1, 3, 8, 8))


def test_auto_takes_what_the_budget_holds(monkeypatch):
    """A network of two maps of 16 channels at once: 128 bytes a pixel and the image before them."""
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Sigmoid(), nn.Conv2d(16, 3, 1))
    seen = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    monkeypatch.setattr("mcir.inference.memory.available", lambda: 2 * 100 * 100 * 140.0)
    restorer = Restorer(net)
    restorer(torch.rand(1, 3, 30, 60))
    assert seen == [(1, 3, 30, 60)]  # too small to look at the memory
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


def test_a_network_that_cuts_images_itself_is_given_large_ones_unmeasured(monkeypatch):
    net = Greedy(4 * 10**6, tiles_internally=True)
    monkeypatch.setattr("mcir.inference.memory.available", lambda: 2 * 200 * 200 * 16 * 4 * 3.0)
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of a process as Linux has them")
def test_a_process_that_truly_runs_out_goes_on():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "without tiles:" in done.stdout
    assert "Memory ran out: from now on Sequential restores tiles of" in done.stdout
    assert float(done.stdout.split()[-1]) < 1e-5
