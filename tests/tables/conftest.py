"""A tiny table and tiny proxy evaluations. The table has two images and a network with a thousand parameters."""

import cv2
import numpy as np
import pytest
import torch
import yaml

from mcir.engine.checkpoint import NetworkFile, write_network
from mcir.registry import ARCHS
from mcir.tables.commands import Proxy
from mcir.tables.published import Table

SCORES = {"psnr": {"type": "PSNR"}, "ssim_y": {"type": "SSIM", "test_y_channel": True}}


def options(images, name, **train):
    """Return the options of a training whose degraded images are so dark that any network is better."""
    data = {"type": "PairedImageDataset", "dataroot_gt": str(images), "dataroot_lq": str(images.parent / "dark")}
    return {
        "name": name,
        "model_type": "RestorationModel",
        "scale": 2,
        "num_gpu": 0,
        "datasets": {"train": {**data, "gt_size": 16, "batch_size_per_gpu": 2}, "val": {"name": "Two", **data}},
        "network_g": {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1.0},
        "train": {
            "total_iter": 2,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "pixel_opt": {"type": "L1Loss"},
            **train,
        },
        "val": {"val_freq": 1, "pictures": 0, "metrics": SCORES},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False},
    }


TABLE = {
    "name": "table_tiny",
    "title": "A tiny table",
    "metrics": ["psnr", "ssim"],
    "columns": ["Two", "Elsewhere"],
    "pictures": {"Two": [0, 9]},
    "notes": ["An error."],
    "rows": [
        {
            "name": "plain",
            "runs": [{"option": "sr/plain.yml", "published": "sr/test/plain.yml"}],
            "numbers": [
                {"set": "Two", "metric": "psnr", "value": 20.5, "source": "a page"},
                {"set": "Elsewhere", "metric": "psnr", "value": 31.25, "by": "authors", "source": "another page"},
            ],
        },
        {"name": "plain + SPN", "against": "plain", "runs": [{"option": "sr/spn.yml", "variant": "steps_1"}]},
        {"name": "a network of others"},
    ],
}


@pytest.fixture
def table():
    return Table.model_validate(TABLE)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The current folder, with option files and images."""
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "dark").mkdir()
    generator = np.random.default_rng(0)
    for number in range(2):
        gradient = np.linspace(0, 200, 24)[:, None, None] * np.ones((24, 28, 3))
        image = (gradient + generator.integers(0, 56, (24, 28, 3))).astype(np.uint8)
        cv2.imwrite(str(images / f"{number}.png"), image)
        cv2.imwrite(str(tmp_path / f"dark/{number}.png"), image[::2, ::2] // 8)
    (tmp_path / "options/sr/test").mkdir(parents=True)

    def write(name, tree):
        (tmp_path / "options" / name).write_text(yaml.safe_dump(tree))

    plain = options(images, "plain")
    write("sr/plain.yml", plain)
    published = {**plain, "name": "plain_published", "path": {"pretrain_network_g": "pretrained/plain.pth"}}
    del published["train"]
    published["datasets"] = {"val": plain["datasets"]["val"]}
    write("sr/test/plain.yml", published)
    contrast = {
        "contrastive_opt": {"type": "SPNLoss", "weights": "random", "layer_weights": {"relu1_1": 1.0}},
        "negatives": {"type": "HistoryNegatives"},
    }
    spn = {**options(images, "spn", **contrast), "model_type": "ContrastiveModel"}
    write("sr/spn.yml", {**spn, "sweep": {"train.negatives.steps": [[1], [2]]}})
    return tmp_path


# -- proxy evaluation ------------------------------------------------------------------------------------------------

PROXY_NETWORK = {"type": "UNet", "num_feat": 2}


@pytest.fixture
def proxy_settings(tmp_path):
    """Settings with six images to train on, two to test on, and the smallest training."""
    generator = np.random.default_rng(0)
    for kind, count in (("train", 6), ("test", 2)):
        (tmp_path / kind).mkdir()
        for number in range(count):
            gradient = np.linspace(0, 200, 64)[:, None, None] * np.ones((64, 68, 3))
            image = (gradient + generator.integers(0, 56, (64, 68, 3))).astype(np.uint8)
            cv2.imwrite(str(tmp_path / kind / f"{number}.png"), image)
    return Proxy(
        weights=["random"],
        trials=2,
        steps=2,
        pretrain_steps=2,
        patch=32,
        batch=2,
        network=PROXY_NETWORK,
        data=tmp_path / "train",
        test=tmp_path / "test",
        results=tmp_path / "results",
        jobs=1,
        set=["num_gpu=0"],
    )


@pytest.fixture
def proxy_weights(tmp_path):
    """The weight file of a network."""
    torch.manual_seed(5)
    network = ARCHS.build(PROXY_NETWORK)
    write_network(tmp_path / "rcl", NetworkFile({"params": network.state_dict()}, "UNet", {"num_feat": 2}), 0)
    return tmp_path / "rcl.pth"
