"""Mutated option files: each is accepted, and then consistent, or rejected with file and line before anything runs."""

import copy
import math
import random
import re

import pytest
import torch
import yaml

from mcir import registry as registries
from mcir.config import load
from mcir.engine.dry_run import dry_run
from mcir.errors import locate_errors
from mcir.registry import DEGRADATIONS, METRICS, MODELS, Registry
from tests.trust.campaign import Campaign

SEED = 20262
REGISTRIES = [value for value in vars(registries).values() if isinstance(value, Registry)]
NUMBERS = (math.nan, math.inf, -math.inf, -1, 0, 1, 3, 0.5, 7.0, 1e-30, 1e30, 10**30, -(10**6), 2**63, 10**9)
OTHERS = ("", "x", "random", "mean", "a/b", "null", True, False, None, [], {}, [1], [[]], [None], {"x": 1})
VALUES = (*NUMBERS, *OTHERS, {"type": "L1Loss"})

DATA = {
    "train": {
        "type": "PairedImageDataset", "dataroot_gt": "gt", "gt_size": 32, "use_hflip": True, "batch_size_per_gpu": 4,
        "degradation": {"type": "BicubicDown"}, "num_worker_per_gpu": 0, "max_images": 5, "subset_seed": 1,
    },
    "val_1": {"type": "BundledPhotos", "split": "val"},
}  # fmt: skip
VAL = {"val_freq": 100, "pictures": 2, "metrics": {"psnr": {"type": "PSNR", "crop_border": 2, "test_y_channel": True}}}
EDSR = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "rgb_mean": [0.4, 0.4, 0.4]}
SPN = {"type": "SPNLoss", "weights": "random", "loss_weight": 0.01, "layer_weights": {"relu1_1": 1.0}}
HISTORY = {"type": "HistoryNegatives", "weight": [0.1, 0.5], "steps": [2, 5], "start": 0.1, "sample": 1}
CR = {"type": "ContrastiveRegularization", "weights": "random", "layer_weights": {"relu1_1": 1.0}, "eps": 1e-7}
MIXED = {"type": "CombinedNegatives", "members": [{"type": "InputNegatives"}, {"type": "HardNegatives", "blurred": 1}]}
NOISY = {"type": "NoisyPatchPairs", "dataroot": "bundled", "patch_size": 32, "batch_size_per_gpu": 2}
NOISE = {"type": "HeteroscedasticNoise", "sigma": [1, 20], "read_share": 0.5}
RCL = {"type": "ResidualContrastiveLoss", "distance": {"type": "MaximumMeanDiscrepancy", "samples": 16}}
CONSISTENCY = {"type": "ConsistencyLoss", "network": "resnet18", "weights": "random", "layer_weights": {"layer1": 1.0}}


def base(model, scale, network, data=DATA, **train):
    """An option file of a small model."""
    file = {
        "name": "fuzz", "model_type": model, "scale": scale, "num_gpu": 0, "manual_seed": 3, "datasets": data,
        "network_g": network, "train": {"total_iter": 1000, **train}, "val": VAL,
        "logger": {"print_freq": 10, "save_checkpoint_freq": 50, "keep_checkpoints": 3},
        "path": {"experiments_root": "experiments"}, "dist_params": {"timeout_minutes": 3},
    }  # fmt: skip
    return copy.deepcopy(file)


def adam(**others):
    return {"optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0}, **others}


STAGES = [{"start": start, "gt_size": 48, "batch_size_per_gpu": 2} for start in (100, 500)]
BASES = [
    base(
        "ContrastiveModel", 2, EDSR, **adam(warmup_iter=10, ema_decay=0.9, grad_clip=1.0),
        scheduler={"type": "MultiStepLR", "milestones": [500, 800], "gamma": 0.5}, pixel_opt={"type": "L1Loss"},
        contrastive_opt=SPN, negatives=HISTORY,
    ),
    base(
        "ContrastiveModel", 1, {"type": "UNet", "num_feat": 2}, DATA | {"train": DATA["train"] | {
            "degradation": {"type": "Chain", "degradations": [{"type": "GaussianNoise", "sigma": [1, 9]},
                                                              {"type": "JPEG", "quality": [20, 90]}]},
            "progressive": STAGES,
        }},
        optim_g={"type": "SGD", "lr": 0.01, "momentum": 0.9, "nesterov": True},
        scheduler={"type": "CosineAnnealingRestartLR", "periods": [400, 600], "restart_weights": [1, 0.5]},
        pixel_opt={"type": "CharbonnierLoss", "loss_weight": 0.5, "eps": 1e-6}, contrastive_opt=CR, negatives=MIXED,
    ),
    base(
        "RestorationModel", 1, {"type": "NAFNet", "width": 2, "enc_blk_nums": [1], "dec_blk_nums": [1]},
        optim_g={"type": "AdamW", "lr": 1e-3, "betas": [0.9, 0.9]}, accumulation_steps=2,
        scheduler={"type": "TrueCosineAnnealingLR", "T_max": 1000, "eta_min": 1e-7}, warmup_iter=20,
        pixel_opt={"type": "PSNRLoss", "toY": False},
        perceptual_opt={"type": "PerceptualLoss", "weights": "random", "layer_weights": {"relu1_1": 0.5},
                        "style_weight": 0.1, "channels": [0, 1, 2]},
    ),
    base(
        "RestorationModel", 2, {
            "type": "SwinIR", "img_size": 16, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4,
            "upscale": 2, "upsampler": "pixelshuffledirect", "drop_path_rate": 0.1, "mlp_ratio": 2,
        },
        **adam(pixel_opt={"type": "SSIMLoss"}, scheduler={"type": "EpochCosineAnnealingLR", "T_max": 5,
                                                          "iterations_per_epoch": 10, "eta_min": 1e-5}),
    ),
    base(
        "ResidualContrastiveModel", 1, {"type": "UNet", "num_feat": 2}, {"train": NOISY | {"noise": NOISE}},
        **adam(contrastive_opt=RCL, consistency_opt=CONSISTENCY),
    ),
    base(
        "DenseContrastiveModel", 1, {"type": "UNet", "num_feat": 2}, {"train": NOISY | {"noise": NOISE}},
        **adam(contrastive_opt={"type": "DenseCLLoss", "hidden": 8, "dim": 4, "queue_size": 16, "grid": 2}),
    ),
]  # fmt: skip


# -- mutations --------------------------------------------------------------------------------------------------------


def places(tree):
    """Every (container, key) of a tree."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from places(tree[key])


def set_value(choose, parent, key, tree):
    parent[key] = copy.deepcopy(choose.choice(VALUES))


def scale_number(choose, parent, key, tree):
    if isinstance(parent[key], int | float):
        parent[key] *= choose.choice([-1, 0, 10, 1e6, 0.3])


def delete(choose, parent, key, tree):
    del parent[key]


def rename(choose, parent, key, tree):
    if isinstance(parent, dict):
        names = [f"{key}x", str(key)[1:], str(key).upper(), 3, choose.choice(list(places(tree)))[1]]
        parent[choose.choice(names)] = parent.pop(key)


def copy_from_elsewhere(choose, parent, key, tree):
    other, name = choose.choice(list(places(tree)))
    parent[key] = copy.deepcopy(other[name])


def other_class(choose, parent, key, tree):
    registry = choose.choice(REGISTRIES)
    name = choose.choice(registry.names())
    if key == "type" or not isinstance(parent, dict):
        parent[key] = name
    else:
        parent[key] = {"type": name}


def add_argument(choose, parent, key, tree):
    registry = choose.choice(REGISTRIES)
    if isinstance(parent, dict) and parent.get("type") in registry:
        arguments = registry.parameters(parent["type"])
        if arguments:
            parent[choose.choice(sorted(arguments))] = copy.deepcopy(choose.choice(VALUES))


def change_structure(choose, parent, key, tree):
    value = parent[key]
    changes = [[value], [value, value], {"type": value}, {"x": value}]
    if isinstance(value, list):
        changes += [value * 2, value * 300, value[1:], value[::-1]]
    if isinstance(value, dict):
        changes += [list(value), list(value.items())[:1], {}]
    parent[key] = copy.deepcopy(choose.choice(changes))


MUTATIONS = (
    set_value, set_value, set_value, scale_number, delete, rename, copy_from_elsewhere, other_class, add_argument,
    add_argument, change_structure,
)  # fmt: skip


def mutant(choose):
    """A base with one to three mutations."""
    tree = copy.deepcopy(choose.choice(BASES))
    for _ in range(choose.choice([1, 1, 1, 2, 3])):
        parent, key = choose.choice(list(places(tree)))
        choose.choice(MUTATIONS)(choose, parent, key, tree)
        if not any(True for _ in places(tree)):
            break
    return tree


# -- the campaign -----------------------------------------------------------------------------------------------------


def run(file):
    """Do everything that a training does before it reads data, and return whether its options are sound."""
    options = load(file)
    text = options.dump()
    dry_run(options)
    for metric in options.val.metrics.values():
        METRICS.build(metric)
    for key, dataset in {"train": options.datasets.train, **options.datasets.val}.items():
        for argument in ("degradation", "noise"):
            if dataset is not None and dataset.section.get(argument):
                DEGRADATIONS.build(dataset.section[argument], where=options.where("datasets", key, argument))
    if options.train is not None:
        with torch.device("meta"):
            model = MODELS.build({**options.model_section(), "compile": False}, where=options.where_in_model)
            with locate_errors(options.where_in_model):
                model.configure_optimizer()
        rates = [
            model.schedule(model.optim_g.get("lr", 1e-3), iteration, model.warmup_iter)
            for iteration in (1, 2, 10, 500, options.train.total_iter)
        ]
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            return False
    again = file.with_name("again.yml")
    again.write_text(text, encoding="utf-8")
    return load(again) == options


def attempt(campaign, number, tree, file):
    """Count whether a file is accepted soundly, or rejected with its name on every line of the message."""

    def action():
        try:
            return run(file)
        except ValueError as error:
            located = [re.match(rf"{re.escape(str(file))}(:\d+)?: ", line) for line in str(error).splitlines()]
            assert located and located[0], f"no location: {error}"
            raise

    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    campaign.attempt(f"mutant {number}: {file.read_text(encoding='utf-8')}", action)


@pytest.mark.parametrize("index", range(len(BASES)))
def test_the_bases_are_valid(index, tmp_path):
    file = tmp_path / "base.yml"
    file.write_text(yaml.safe_dump(BASES[index], sort_keys=False), encoding="utf-8")
    assert run(file)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_option_files(count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    choose = random.Random(SEED)
    campaign = Campaign("option files", SEED, limit_s=60)
    for number in range(count):
        attempt(campaign, number, mutant(choose), tmp_path / "mutant.yml")
    campaign.finish()
