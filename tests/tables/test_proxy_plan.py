"""The plan of a proxy evaluation: rows, tasks, subsets, and invalid settings."""

from dataclasses import replace

import pytest
import torch

from mcir.data import PairedImageDataset
from mcir.metrics import FloatPSNR, FloatSSIM
from mcir.registry import ARCHS, DATASETS, METRICS
from mcir.tables.commands import Proxy
from mcir.tables.proxy import run_proxy
from mcir.tables.proxy_plan import PROXY, TASKS, check, overrides_for, plan, pretrainings
from tests.tables.conftest import PROXY_NETWORK as NETWORK


def test_rows_differ_only_in_their_weights(proxy_settings, proxy_weights):
    settings = replace(proxy_settings, weights=["random", f"RCL={proxy_weights}"], labels=[2, 4])
    trials = plan(settings, {})
    order = [(trial.name, trial.labels, trial.seed) for trial in trials]
    assert order == [(name, labels, seed) for name in ("random", "RCL") for labels in (2, 4) for seed in (0, 1)]
    for random, own in zip(trials[:4], trials[4:], strict=True):
        one, other = random.options(), own.options()
        assert one.model_type == "ProxyModel" and one.path.pretrain_network_g is None
        assert other.path.pretrain_network_g == str(proxy_weights)
        assert one.train == other.train and one.val == other.val and one.datasets == other.datasets
        assert one.manual_seed == other.manual_seed == own.seed
        assert ARCHS.build(one.network_g).state_dict().keys() == ARCHS.build(other.network_g).state_dict().keys()
    assert len({trial.fingerprint for trial in trials}) == len(trials)


def test_subsets_are_nested_and_equal_in_every_row(proxy_settings):
    def labelled(trial):
        dataset = DATASETS.build(trial.options().datasets.train.section)
        return {dataset.name(number) for number in range(len(dataset))}

    trials = plan(replace(proxy_settings, weights=["random"], labels=[2, 4]), {})
    few, many = labelled(trials[0]), labelled(trials[2])
    assert len(few) == 2 and len(many) == 4 and few < many
    assert labelled(trials[1]) == few
    tuned = plan(replace(proxy_settings, weights=["random"], labels=[2], finetune=True), {})
    assert labelled(tuned[0]) == few
    seeds = [[*proxy_settings.set, f"datasets.train.subset_seed={seed}"] for seed in range(1, 6)]
    others = [plan(replace(proxy_settings, labels=[2], set=overrides), {})[0] for overrides in seeds]
    assert any(labelled(other) != few for other in others)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_its_scale_and_degradation(proxy_settings, task):
    (trial, *_) = plan(replace(proxy_settings, task=task), {})
    options, scale = trial.options(), TASKS[task].scale
    assert options.scale == scale == ARCHS.build(options.network_g).scale
    item = DATASETS.build(options.datasets.train.section)[0]
    assert item["gt"].shape == (3, 32 * scale, 32 * scale) and item["lq"].shape == (3, 32, 32)
    (section,) = (part.section for part in options.datasets.val.values())
    held_out = DATASETS.build(section)
    assert isinstance(held_out, PairedImageDataset) and len(held_out) == 2
    whole = held_out[0]
    assert whole["gt"].shape == (3, 64, 68)
    lq = whole["lq"].float() / (1 if whole["lq"].is_floating_point() else 255)
    if task == "demosaic":
        assert ((lq > 0).sum(0) <= 1).all()
    if task in ("denoise", "jdensr"):
        assert whole["lq"].dtype == torch.float32 and (lq * 255 - (lq * 255).round()).abs().max() > 0.01
    metrics = [METRICS.build(section) for section in options.val.metrics.values()]
    assert [type(metric) for metric in metrics] == [FloatPSNR, FloatSSIM]
    assert not any(metric.crop_border or metric.test_y_channel for metric in metrics)


def test_the_network_comes_from_the_file_or_from_the_settings(proxy_settings, proxy_weights):
    (of_file, *_) = plan(replace(proxy_settings, weights=[str(proxy_weights)], network=None, task="sr"), {})
    assert dict(of_file.options().network_g) == {**NETWORK, "scale": 2}
    wide = replace(proxy_settings, weights=["random"], network={"type": "UNet", "num_feat": 3})
    assert plan(wide, {})[0].options().network_g.num_feat == 3
    wider = replace(wide, set=["num_gpu=0", "network_g.num_feat=4"])
    assert plan(wider, {})[0].options().network_g.num_feat == 4
    with pytest.raises(ValueError, match="NAFNet has no argument for the scale, but the task has scale 2"):
        overrides_for("sr", {"type": "NAFNet"}, proxy_settings)


def test_supervised_pre_trainings_use_all_images_and_their_own_task(proxy_settings):
    found = pretrainings(replace(proxy_settings, task="jdensr", weights=["random", "oracle", "sl-den"], labels=[2]))
    assert [(name, trial.task) for name, trial in found.items()] == [("oracle", "jdensr"), ("sl-den", "denoise")]
    for name, trial in found.items():
        options = trial.options()
        assert options.model_type == "RestorationModel" and options.scale == (2 if name == "oracle" else 1)
        assert len(DATASETS.build(options.datasets.train.section)) == 6
        assert options.train.total_iter == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "denoize"}, "task: expected denoise, .*, got 'denoize'. Did you mean 'denoise'"),
        (
            {"weights": ["nowhere.pth"]},
            "nowhere.pth: expected random, oracle, sl-den or a weight file; there is no such file",
        ),
        ({"weights": ["random", "random"]}, "Expected rows with distinct names"),
        ({"weights": []}, "got none"),
        ({"patch": 0}, "patch: expected at least 1, got 0"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
        ({"labels": [2, 2]}, r"labels: expected distinct numbers of images, 0 or more, got \[2, 2\]"),
        ({"trials": 0}, "trials: expected at least 1"),
        ({"labels": [-1]}, r"0 or more, got \[-1\]"),
        ({"labels": [0]}, "0 labels need --finetune"),
        ({"labels": [7]}, "max_images: .* got 7"),
        ({"test": None}, "Expected both --data and --test or neither"),
        ({"patch": 65}, "smaller than the crop of 65"),
        ({"jobs": 0, "weights": ["oracle"]}, "--jobs: expected at least 1"),
    ],
)
def test_invalid_settings_are_errors(proxy_settings, changes, message):
    with pytest.raises(ValueError, match=message):
        run_proxy(replace(proxy_settings, **changes), lambda _: None)
    assert not (proxy_settings.results / "runs.jsonl").exists()
    assert not (proxy_settings.results / "pretrained").exists()


@pytest.mark.parametrize("name", ["random", "oracle", "sl-den"])
def test_names_of_rows_without_a_file_are_reserved(proxy_settings, proxy_weights, name):
    file = proxy_weights.rename(proxy_weights.with_name(f"{name}.pth"))
    for row in (str(file), f"{name}={file}"):
        with pytest.raises(ValueError, match=f"the name '{name}' is reserved. Choose another one with NAME="):
            check(replace(proxy_settings, weights=[row]))
    check(replace(proxy_settings, weights=[f"mine={file}"]))


def test_the_fingerprint_depends_on_the_content_of_the_lists(proxy_settings):
    def fingerprints():
        trials = [*plan(settings, {}), *pretrainings(settings).values()]
        return [trial.fingerprint for trial in trials]

    for part in ("train", "val"):
        file = proxy_settings.data.parent / f"{part}.txt"
        changed = [*proxy_settings.set, f"datasets.{part}.meta_info_file={file}"]
        settings = replace(proxy_settings, weights=["random", "oracle"], set=changed)
        file.write_text("0.png\n")
        before = fingerprints()
        assert fingerprints() == before
        file.write_text("1.png\n")
        assert not set(fingerprints()) & set(before)


def test_testing_on_training_images_is_an_error(proxy_settings):
    same = replace(proxy_settings, test=proxy_settings.data)
    with pytest.raises(ValueError, match="contains the training images"):
        check(same)
    for name, images in (("train", "0.png\n1.png\n"), ("test", "2.png\n")):
        (proxy_settings.data.parent / f"{name}.txt").write_text(images)
    lists = {key: proxy_settings.data.parent / f"{name}.txt" for key, name in (("train", "train"), ("val", "test"))}
    check(replace(same, set=[f"datasets.{key}.meta_info_file={file}" for key, file in lists.items()]))
    with pytest.raises(ValueError, match="contains the training images"):
        check(replace(same, set=[f"datasets.{key}.meta_info_file={lists['val']}" for key in lists]))


def test_the_bundled_photographs_need_no_data(tmp_path):
    assert PROXY.is_file()
    options = plan(Proxy(weights=["random"], results=tmp_path, task="sr", labels=[10], network=NETWORK), {})[
        0
    ].options()
    assert options.datasets.train.section.type == "BundledPhotos"
    assert len(DATASETS.build(options.datasets.train.section)) == 10
    check(Proxy(weights=["random"], results=tmp_path, task="sr", labels=[10], network=NETWORK))
