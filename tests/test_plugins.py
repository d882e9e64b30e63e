"""A third-party package, found by its entry point or through ``imports:``."""

import os
import re
import subprocess
import sys

import pytest
import torch
import yaml

from tests.engine.conftest import ROOT

CODE = '''
"""An architecture, a loss and a data set."""

import torch
from mcir.registry import ARCHS, DATASETS, LOSSES

print("the plug-in is imported")


@ARCHS.register()
class PluginNet(torch.nn.Module):
    def __init__(self, width: int = 4, upscale: int = 2) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3, padding=1),
            torch.nn.Conv2d(width, 3 * upscale**2, 1),
            torch.nn.PixelShuffle(upscale),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@LOSSES.register()
class PluginLoss(torch.nn.Module):
    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, output: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        return (output - gt).abs().pow(self.power).mean()


@DATASETS.register()
class PluginData(torch.utils.data.Dataset):
    def __init__(self, count: int, size: int = 16) -> None:
        self.count = count
        self.size = size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, sample: object) -> dict[str, object]:
        index = getattr(sample, "index", sample)
        gt = torch.rand(3, self.size, self.size, generator=torch.Generator().manual_seed(index))
        lq = torch.nn.functional.avg_pool2d(gt, 2)
        return {"lq": lq, "gt": gt, "lq_path": f"made/{index}.png", "gt_path": f"made/{index}.png"}
'''

DATA = {"type": "PluginData", "count": 6}
OPTIONS = {
    "name": "plugged",
    "model_type": "ContrastiveModel",
    "scale": 2,
    "num_gpu": 0,
    "datasets": {"train": {**DATA, "batch_size_per_gpu": 2}, "val": DATA},
    "network_g": {"type": "PluginNet", "width": 5},
    "path": {"experiments_root": "experiments"},
    "train": {
        "total_iter": 4,
        "ema_decay": 0.5,
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "pixel_opt": {"type": "PluginLoss", "power": 1.5},
        "contrastive_opt": {"type": "SPNLoss", "weights": "random", "layer_weights": {"relu1_1": 1.0}},
        "negatives": {"type": "HistoryNegatives", "steps": [1]},
    },
    "val": {"pictures": 0, "metrics": {"psnr": {"type": "PSNR"}}},
    "logger": {"print_freq": 2, "use_tb_logger": False},
}


def install(folder, code=CODE):
    """Install a package and its metadata as pip does."""
    metadata = folder / "someones_plugin-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "someones_plugin.py").write_text(code)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[mcir.plugins]\nsomeones = someones_plugin\n")
    return folder


def train(folder, *path, status=0, **changes):
    (folder / "x.yml").write_text(yaml.safe_dump({**OPTIONS, **changes}))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *path]))}
    result = subprocess.run(
        [sys.executable, str(ROOT / "mcir/train.py"), "-opt", "x.yml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result


def check(folder, result):
    """Check that all three classes of the package were used."""
    assert "ContrastiveModel trains PluginNet" in result.stdout
    assert "with 6 images" in result.stdout
    assert re.search(r"4/4 +l_pix \d", result.stdout)
    assert result.stdout.count("the plug-in is imported") == 1
    experiment = folder / "experiments" / "plugged"
    weights = torch.load(experiment / "models" / "net_g_4.pth", weights_only=True)["params_ema"]
    assert weights["layers.0.weight"].shape == (5, 3, 3, 3)
    assert (experiment / "training_states" / "4.state").exists()


def test_an_installed_package_is_found_by_its_entry_point(tmp_path):
    installed = install(tmp_path / "site")
    result = train(tmp_path, installed)
    check(tmp_path, result)


def test_a_module_in_the_current_folder_is_found_through_imports(tmp_path):
    (tmp_path / "my_parts.py").write_text(CODE)
    result = train(tmp_path, imports=["my_parts"])
    check(tmp_path, result)


def test_without_the_package_its_names_are_unknown(tmp_path):
    message = " ".join(train(tmp_path, status=1).stderr.split())
    for name in ("PluginNet", "PluginLoss", "PluginData"):
        assert f"'{name}'" in message
    assert "Traceback" not in message


def test_its_sections_are_validated(tmp_path):
    installed = install(tmp_path / "site")
    data = {"train": {"type": "PluginData", "batch_size_per_gpu": 2}}
    network = {"type": "PluginNet", "widht": 5}
    message = " ".join(train(tmp_path, installed, status=1, network_g=network, datasets=data).stderr.split())
    assert "Did you mean 'width'" in message
    assert "count" in message


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import torch\nraise RuntimeError('no licence found')\n", "no licence found"),
        ("import nowhere_to_be_found\n", "nowhere_to_be_found"),
    ],
)
def test_a_package_that_fails_to_import_is_named(tmp_path, code, reason):
    installed = install(tmp_path / "site", code)
    result = train(tmp_path, installed, status=1)
    message = " ".join(result.stderr.split())
    assert "The plug-in 'someones' (someones_plugin) cannot be imported" in message
    assert reason in message
    assert "Traceback" not in message


def test_failed_imports_are_reported_with_the_line(tmp_path):
    (tmp_path / "broken.py").write_text("import torch\nraise RuntimeError('too old')\n")
    message = " ".join(train(tmp_path, status=1, imports=["broken", "not_there"]).stderr.split())
    assert "Importing broken failed: RuntimeError: too old" in message
    assert "broken.py:2" in message
    assert "Importing not_there failed" in message
    assert "Traceback" not in message
