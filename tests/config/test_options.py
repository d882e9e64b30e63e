import copy
import pickle

import pydantic
import pytest

from mcir.config import load
from mcir.config.options import (
    DatasetOptions,
    DistOptions,
    Fixed,
    General,
    LoggerOptions,
    PathOptions,
    TrainOptions,
    ValOptions,
    freeze,
    thaw,
)
from mcir.registry import MODELS

SECTIONS = ("datasets", "path", "train", "val", "logger", "dist_params")


def test_options_are_frozen(write, good):
    options = load(write(good))
    with pytest.raises(pydantic.ValidationError):
        options.scale = 3
    with pytest.raises(KeyError):
        options.network_g["colour"] = 3
    with pytest.raises(KeyError):
        _ = options.network_g.num_feats
    with pytest.raises(KeyError):
        _ = options.train.model.optim_g.lrr


def test_frozen_sections_nest_in_lists_and_can_be_pickled():
    section = freeze({"a": [{"b": 1}], "c": {"d": (1, {"e": 2})}})
    assert section.a[0].b == 1
    with pytest.raises(KeyError):
        _ = section.a[0].x
    assert pickle.loads(pickle.dumps(section)) == copy.deepcopy(section) == section
    assert thaw(section) == {"a": [{"b": 1}], "c": {"d": [1, {"e": 2}]}}


def test_every_option_of_a_fixed_section_has_a_description():
    for section in (General, PathOptions, ValOptions, LoggerOptions, DistOptions, DatasetOptions, TrainOptions):
        assert issubclass(section, Fixed)
        for name, field in section.model_fields.items():
            if name not in SECTIONS:
                assert field.description and field.description.endswith("."), f"{section.__name__}.{name}"


def test_the_model_section_builds_the_model_with_the_seed(write, good):
    text = good.replace("  contrastive_opt: {type: SPNLoss}\n  negatives: {type: HistoryNegatives}\n", "")
    small = ["manual_seed=7", "network_g.num_feat=4", "network_g.num_block=1"]
    options = load(write(text), ["model_type=RestorationModel", *small])
    section = options.model_section()
    assert section.type == "RestorationModel"
    assert section.seed == 7
    assert "total_iter" not in section
    model = MODELS.build(section)
    assert model.seed == 7
    model.configure_optimizer()
    assert model.optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_without_training_the_model_section_contains_the_networks(write, good):
    text = (
        good[: good.index("train:\n  total_iter")]
        .replace("  train:", "  test_1:")
        .replace("    batch_size_per_gpu: 4\n", "")
    )
    options = load(write(text))
    assert options.train is None
    assert options.model_section() == {"type": "ContrastiveModel", "network_g": options.network_g, "seed": 0}
    assert list(options.datasets.test) == ["test_1"]


def test_locations_of_values_and_sections(write, good):
    options = load(write(good), ["train.optim_g.lr=1", "network_g.num_feat=4"])
    assert str(options.where("datasets", "train")(("gt_size",))) == "x.yml:9: datasets.train.gt_size"
    assert str(options.where("datasets", "train")(("color",))) == "x.yml:5: datasets.train.color"
    assert str(options.where_in_model(("network_g", "num_in_ch"))) == "x.yml:11: network_g.num_in_ch"
    assert str(options.where_in_model(("optim_g", "betas", 0))) == "x.yml:14: train.optim_g.betas.0"
    assert str(options.where_in_model(("optim_g", "lr"))) == "--set train.optim_g.lr=1: train.optim_g.lr"
    assert str(options.where_in_model(("optim_g",))) == "x.yml:14: train.optim_g (--set train.optim_g.lr=1)"


def test_a_dump_loads_to_the_same_options(write, good):
    text = good.replace("datasets:", "datasets:\n  val_1: {type: BundledPhotos, split: val, name: 'no'}")
    options = load(write(text))
    again = load(write(options.dump(), "dump.yml"))
    assert again == options
    assert again.dump() == options.dump()
    assert again.datasets.val["val_1"].name == "no"


def test_loader_keys_are_not_arguments_of_the_data_set(write, good):
    options = load(write(good), ["datasets.train.num_worker_per_gpu=3", "datasets.train.name=DIV2K"])
    training = options.datasets.train
    assert (training.name, training.batch_size_per_gpu, training.num_worker_per_gpu) == ("DIV2K", 4, 3)
    assert training.section == {
        "type": "PairedImageDataset",
        "dataroot_gt": "gt",
        "dataroot_lq": "lq",
        "gt_size": 96,
        "scale": 2,
    }
