"""Option files of residual contrastive pre-training on the paper's data sets."""

from functools import cache
from pathlib import Path

import pytest
import yaml

from mcir.config import load
from mcir.config.load import runs_of
from mcir.data.manifest import known_manifests, read_manifest
from mcir.tables.pretraining import has_consistency, methods, overrides_for

ROOT = Path(__file__).parents[2] / "options/rcl"
FILES = ["mit", "stanford", "voc2012"]
NAMES = (
    "RCL-EMD", "RCL-BD", "RCL-MMD", "N2N", "N2S", "VADeR", "DenseCL", "PixContrast", "VADeR+", "DenseCL+",
    "PixContrast+", "consistency",
)  # fmt: skip
RCL = {"RCL-EMD": "EarthMoversDistance", "RCL-BD": "BhattacharyyaDistance", "RCL-MMD": "MaximumMeanDiscrepancy"}


@cache
def resolved(file, method):
    return yaml.safe_load(load(ROOT / f"{file}.yml", overrides_for(method)).dump())


@pytest.mark.parametrize("file", FILES)
def test_every_file_has_every_method(file):
    assert methods() == NAMES == tuple(runs_of(ROOT / f"{file}.yml"))


@pytest.mark.parametrize("method", NAMES)
def test_methods_have_their_models_and_losses(method):
    tree = resolved("voc2012", method)
    train = tree["train"]
    kind = method.rstrip("+")
    assert tree["name"] == f"rcl_voc2012_{method}"
    assert tree["datasets"]["train"]["type"] == ("NoisyObservations" if method == "N2N" else "NoisyPatchPairs")
    contrast, consistency = train.get("contrastive_opt"), train.get("consistency_opt")
    if method in RCL or method == "consistency":
        assert tree["model_type"] == "ResidualContrastiveModel"
    if method in RCL:
        assert contrast["distance"] == {"type": RCL[method]} and contrast["loss_weight"] == 1e-3  # the paper's α
    elif method == "consistency":
        assert contrast is None
    elif method in ("N2N", "N2S"):
        assert tree["model_type"] == {"N2N": "Noise2NoiseModel", "N2S": "Noise2SelfModel"}[method]
        assert contrast is None
    else:
        assert tree["model_type"] == "DenseContrastiveModel"
        assert contrast["type"] == f"{kind}Loss"
        if kind == "PixContrast":
            assert contrast.get("momentum_iter") is None  # it rises during the whole training
    assert has_consistency(method) == (consistency is not None)
    assert (consistency is not None) == (method in RCL or method.endswith("+") or method == "consistency")


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("file", FILES)
def test_the_papers_recipe(file, method):
    tree = resolved(file, method)
    data = tree["datasets"]["train"]
    assert tree["network_g"] == {"type": "UNet"}
    assert tree["train"]["optim_g"] == {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-7}
    assert tree["train"]["total_iter"] == 50000 and "scheduler" not in tree["train"]
    assert data["patch_size"] == (96 if file == "mit" else 128) and data["batch_size_per_gpu"] == 64
    assert data["noise"] == {"type": "HeteroscedasticNoise"}


@pytest.mark.parametrize("file", FILES)
def test_data_and_lists_are_those_of_the_manifest(file):
    known = [read_manifest(name) for name in known_manifests()]
    folders = {f"datasets/{m.root}/{folder.path}": m for m in known for folder in m.folders}
    datasets = resolved(file, "RCL-EMD")["datasets"]
    for section in datasets.values():
        manifest = folders[section.get("dataroot") or section["dataroot_gt"]]
        if "meta_info_file" in section:
            home, _, name = section["meta_info_file"].rpartition("/")
            assert home == f"datasets/{manifest.root}/splits" and f"{manifest.root}/splits" in manifest.prepare
            assert name == "train.txt" or f"--{name.removesuffix('.txt')} " in manifest.prepare
    train, test = datasets["train"], datasets["test"]
    assert (train["dataroot"], train.get("meta_info_file")) != (test["dataroot_gt"], test.get("meta_info_file"))


def test_classifier_weights_are_set_where_a_loss_has_a_classifier():
    assert overrides_for("N2N", "random") == ["sweep=N2N"]
    over = overrides_for("DenseCL+", "random")
    assert load(ROOT / "mit.yml", over).train.model["consistency_opt"]["weights"] == "random"
