"""Tests of the dry validation: mistakes are found before the first iteration, and no result changes."""

import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mcir.data import DataError
from mcir.engine.distributed import DistContext
from mcir.engine.dry_validation import dry_validation
from mcir.engine.evaluation import EvaluationSet
from mcir.metrics import PSNR
from mcir.models import RestorationModel
from mcir.registry import ARCHS
from mcir.seeding import seed_generators, unchanged_generators
from tests.engine.conftest import options
from tests.engine.test_runs import assert_same_state, state

CPU = DistContext(0, 1, torch.device("cpu"))


def write_validation(run, sizes):
    """Give the run a validation set with images of these sizes."""
    folder = run.folder / "validation"
    folder.mkdir()
    for number, (height, width) in enumerate(sizes):
        image = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    tree = options(run.folder)
    tree["datasets"]["val"]["dataroot_gt"] = str(folder)
    run.write(tree)
    return folder


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_image_that_is_too_small_for_a_metric_is_named_before_the_first_iteration(run, processes):
    folder = write_validation(run, [(40, 40), (40, 12), (32, 20)])
    output = run.train("--set", "val.metrics.ssim={type: SSIM, crop_border: 2}", status=1, processes=processes)
    assert output.count(f"mcir: {folder}/1.png: SSIM: expected images of at least 11×11 pixels, got 40×12") == 1
    assert "l_pix" not in output and not run.path().exists()
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("datasets.val.color=gray", "pictures/0.png: network_g expects 3 channels, but the degraded image has 1."),
        ("val.metrics.psnr.crop_border=100", "pictures/0.png: PSNR: expected images of at least"),
    ],
)
def test_options_that_do_not_fit_are_found_before_the_first_iteration(run, change, message):
    output = run.train("--set", change, status=1)
    assert message in output.splitlines()[-1]
    assert "l_pix" not in output and not run.path().exists()


def test_an_earlier_run_keeps_its_folder_if_the_validation_is_not_possible(run):
    run.train("--set", "train.total_iter=2")
    run.train("--set", "val.metrics.psnr.crop_border=100", status=1)
    assert [path.name for path in run.path().parent.glob("[!.]*")] == ["tiny"]


RANDOM = """
import random
import numpy as np
import torch
from mcir.archs import EDSR
from mcir.data import PairedImageDataset
from mcir.registry import ARCHS, DATASETS


@ARCHS.register()
class RandomNet(EDSR):
    def restore(self, x):
        return super().restore(x) + 0.01 * torch.rand(()) * random.random()


@DATASETS.register()
class RandomImages(PairedImageDataset):
    def __getitem__(self, sample):
        item = super().__getitem__(sample)
        np.random.random(), random.random(), torch.rand(())
        return item
"""


def test_a_training_is_the_same_without_a_dry_validation(run, monkeypatch):
    (run.folder / "randoms.py").write_text(RANDOM)
    monkeypatch.syspath_prepend(str(run.folder))
    tree = {**options(run.folder), "imports": ["randoms"]}
    tree["network_g"]["type"] = "RandomNet"
    tree["datasets"]["val"]["type"] = "RandomImages"
    tree["datasets"]["train"]["num_worker_per_gpu"] = 0
    run.write(tree)
    run.train("--set", "train.total_iter=6")
    checked = state(run, 6)
    monkeypatch.setattr("mcir.engine.trainer.dry_validation", lambda part, model: None)
    run.train("--set", "train.total_iter=6")
    assert_same_state(checked, state(run, 6))


def numbers():
    return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002 (the global generator)


def test_generators_are_unchanged_after_the_block():
    seed_generators((0,))
    expected = numbers()
    seed_generators((0,))
    with unchanged_generators(CPU.device):
        numbers()
    assert numbers() == expected


class Recording(torch.nn.Module):
    """A network that records the sizes of its inputs; ``action`` is what it does with them."""

    def __init__(self, action):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.action, self.sizes = action, []

    def forward(self, x):
        self.sizes.append(tuple(x.shape[2:]))
        return self.action(x)


class OneImage(torch.utils.data.Dataset):
    def __init__(self, height, width):
        image = torch.rand(3, height, width)
        self.item = {"lq": image, "gt": image, "lq_path": "a.png", "gt_path": "a.png"}

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.item


def validate(monkeypatch, action, height=24, width=24):
    network = Recording(action)
    monkeypatch.setattr(ARCHS, "build", lambda section, **_: network)
    model = RestorationModel(network_g={"type": "Recording"})
    measured = []

    class Measured(PSNR):
        def __call__(self, output, gt):
            measured.append(tuple(gt.shape[2:]))
            return super().__call__(output, gt)

    dry_validation(EvaluationSet("val", OneImage(height, width), {"psnr": Measured()}, CPU), model)
    return network.sizes, measured


def test_the_network_gets_a_part_of_a_large_image_and_the_metrics_all_of_it(monkeypatch):
    assert validate(monkeypatch, lambda x: x, 1001, 190) == ([(128 + 1001 % 64, 190)], [(1001, 190)])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda x: [x, x], r"a\.png: Recording: expected one tensor .* got a list of 2 entries"),
        (
            lambda x: x[..., ::2, ::2],
            r"a\.png: expected an output of the shape \(1, 3, 24, 24\) .*got \(1, 3, 12, 12\)",
        ),
        (lambda x: x @ torch.zeros(7, 7), r"a\.png: network_g cannot restore an image of the shape \(3, 24, 24\): .+"),
    ],
)
def test_outputs_of_users_networks_are_checked(monkeypatch, action, message):
    with pytest.raises(DataError, match=message) as caught:
        validate(monkeypatch, action)
    assert "\n" not in str(caught.value)


def test_a_bug_in_a_network_keeps_its_traceback(monkeypatch):
    with pytest.raises(AttributeError):
        validate(monkeypatch, lambda x: x.no_such_method())


def test_a_test_of_weights_finds_mistakes_before_the_first_image(run):
    from mcir.test import main
    from tests.engine.conftest import capture

    run.train("--set", "train.total_iter=2")
    weights = str(run.path("models", "net_g_2.pth"))
    arguments = ["-opt", str(run.option_file), "--checkpoint", weights, "--set", "datasets.val.color=gray"]
    output, status = capture(main, [*arguments, f"path.results_root={Path(run.folder, 'results')}"])
    assert status == 1 and "network_g expects 3 channels" in output.splitlines()[-1]
