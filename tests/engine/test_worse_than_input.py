"""A result that is worse than the input is named, with causes from the options."""

import pytest

from mcir.config import load
from mcir.engine.evaluation import Evaluation, Score
from mcir.engine.worse_than_input import worse_than_input
from tests.engine.conftest import options as tree_of


def evaluation(output, higher_is_better=True, name="val"):
    scores = {"first": Score(output, 30.0, "dB", higher_is_better, {}), "second": Score(0.1, 0.9, "", True, {})}
    return Evaluation(name, "bicubic", scores, {})


@pytest.fixture
def options(run):
    return load(run.option_file)


@pytest.mark.parametrize(("output", "higher", "is_worse"), [
    (29.0, True, True), (30.0, True, False), (31.0, True, False), (float("nan"), True, False),
    (29.0, False, False), (31.0, False, True),
])  # fmt: skip
def test_only_the_first_metric_counts(options, output, higher, is_worse):
    line = worse_than_input(options, [evaluation(output, higher)], trained=True)
    assert (line is not None) == is_worse
    assert worse_than_input(options, [], trained=True) is None


def test_causes_are_values_of_the_options(run, options):
    line = worse_than_input(options, [evaluation(31.0), evaluation(28.5, name="other")], trained=True)
    assert line == (
        "The result is worse than the input: first 28.50 dB, bicubic 30.00 dB (other). Usual causes: too few "
        "iterations (train.total_iter: 12), the learning rate (train.optim_g.lr: 0.001), a contrastive loss that "
        "dominates (train.contrastive_opt.loss_weight: its default)."
    )


def test_pairs_may_be_swapped_or_misaligned(run):
    tree = tree_of(run.folder)
    tree["datasets"]["train"]["dataroot_lq"] = tree["datasets"]["train"]["dataroot_gt"]
    del tree["datasets"]["train"]["degradation"], tree["train"]["contrastive_opt"], tree["train"]["negatives"]
    run.write({**tree, "model_type": "RestorationModel"})
    line = worse_than_input(load(run.option_file), [evaluation(1.0)], trained=True)
    assert (
        "swapped or misaligned (datasets.train)" in line
        and "a wrong scale (scale: 2)" in line
        and "contrastive" not in line
    )


def test_a_training_ends_with_the_line(run):
    output = run.train("--set", "train.total_iter=1", "val.val_freq=1", "logger.report=false")
    assert output.splitlines()[-1].startswith("The result is worse than the input: psnr ")
    assert "too few iterations (train.total_iter: 1)" in output and "\x1b" not in output
    assert "WARNING: The result is worse than the input" in run.path("train.log").read_text()
