"""Figure 2 of RCL: its formula and the page of a checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from mcir.archs import UNet
from mcir.cli import main
from mcir.tables.commands import RclFigure2
from mcir.tables.rcl_fig2 import NOISE, TRAINED, UNTRAINED, densities, measure
from mcir.tables.residuals import differences
from tests.pages import Page


def test_densities_share_their_bins_and_cover_99_percent():
    generator = torch.Generator().manual_seed(0)
    found = {"a": torch.randn(5000, generator=generator), "b": 3 + torch.randn(5000, generator=generator)}
    drawn = densities(found)
    bins = [[center for center, _ in points] for points in drawn.values()]
    assert bins[0] == bins[1]
    width = bins[0][1] - bins[0][0]
    assert all(0.98 < width * sum(height for _, height in points) <= 1 for points in drawn.values())
    assert len(densities({"same": torch.zeros(5)})["same"]) == len(bins[0])


@pytest.fixture
def weights(tmp_path):
    """A network with black output, so that the residual is the noisy image."""
    network = UNet(num_feat=2)
    torch.nn.init.zeros_(network.last.weight)
    torch.nn.init.zeros_(network.last.bias)
    torch.save({"params": network.state_dict()}, tmp_path / "black.pth")
    return tmp_path / "black.pth"


def test_the_true_noise_is_measured(weights):
    found = measure(RclFigure2(weights=weights, patch=32, batch=6, batches=2))
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(
        (UNTRAINED, TRAINED, NOISE), (2, 6, 6)
    )
    noise, image = (differences(found[name]) for name in (NOISE, TRAINED))
    assert (noise > 0).double().mean() > 0.8  # patches of one image have noise of one strength
    assert 0 < noise.mean() < 20 / 255 and image.mean() > 2 * noise.mean()
    again = measure(RclFigure2(weights=weights, patch=32, batch=6, batches=2))
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert not torch.equal(
        measure(RclFigure2(weights=weights, patch=32, batch=6, batches=2, seed=1))[NOISE], found[NOISE]
    )


def test_the_command_writes_numbers_and_a_figure(weights, home, capsys):
    arguments = ["reproduce", "rcl-fig2", "--weights", str(weights), "--data", "images", "--patch", "16"]
    assert main([*arguments, "--results", "out"]) == 0
    data = json.loads(Path("out/rcl-fig2.json").read_text())
    assert data["settings"]["data"] == "images" and data["settings"]["patch"] == 16
    noise = data["residuals"][NOISE]
    assert noise["w1_to_noise"] == 0 and noise["differences"] == 4 * 2  # two images, four batches
    assert data["nearer"] == (data["residuals"][TRAINED]["w1_to_noise"] < data["residuals"][UNTRAINED]["w1_to_noise"])
    page = Page(Path("out/rcl-fig2.html").read_text())
    assert page.tags.count("svg") == 1 and page.tags.count("polyline") == 3
    assert f"| {TRAINED} |" in capsys.readouterr().out


def test_a_network_with_another_scale_is_an_error(home, tmp_path, capsys):
    torch.save(UNet(num_feat=2, scale=2).state_dict(), tmp_path / "twice.pth")
    assert main(["reproduce", "rcl-fig2", "--weights", str(tmp_path / "twice.pth"), "--data", "images"]) == 1
    assert "expected a network with scale 1, got scale 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Expected --batch of at least 2"):
        measure(RclFigure2(weights=tmp_path / "twice.pth", batch=1))
