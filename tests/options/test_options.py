"""The shipped option files: they load, pass `mcir check`, match the papers' recipes, and train.

The data sets are not available in the tests, so training uses the bundled photographs with a similar degradation.
"""

import json
import re
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mcir.cli import main
from mcir.config import load
from mcir.config.load import read_with_bases
from mcir.config.yaml_loader import read_file
from mcir.data import bundled
from mcir.data.manifest import known_manifests, read_manifest
from mcir.engine import tester as testing
from mcir.engine.distributed import DistContext
from mcir.engine.trainer import Trainer
from mcir.registry import ARCHS, SCHEDULERS
from tests.golden.networks import SMALL_FILES as NETWORKS

ROOT = Path(__file__).parents[2] / "options"
BASES = sorted(ROOT.glob("_base_/**/*.yml"))
TESTED_ELSEWHERE = {*ROOT.glob("tables/*.yml"), *ROOT.glob("rcl/*.yml")}  # tested in tests/tables and test_rcl.py
FILES = sorted(set(ROOT.glob("**/*.yml")) - set(BASES) - TESTED_ELSEWHERE)
TESTS = [file for file in FILES if file.parent.name == "test"]
TRAINED = [file for file in FILES if file not in TESTS]
PAIRS = [file for file in TRAINED if file.stem.endswith("_spn")]
PLAIN = [file for file in TRAINED if file not in PAIRS]
RECIPES = [file for file in PLAIN if file.stem != "quickstart"]


def name(file):
    return str(file.relative_to(ROOT).with_suffix(""))


def each(files):
    return pytest.mark.parametrize("file", files, ids=name)


@cache
def resolved(file):
    return yaml.safe_load(load(file).dump())


# -- every file -------------------------------------------------------------------------------------------------------


@each(FILES)
def test_every_file_loads_and_has_a_header(file):
    options = load(file)
    assert file.read_text().startswith("# ")
    if file.stem != "quickstart":
        assert options.name == (f"{file.stem}_published" if file in TESTS else file.stem)
    assert options.datasets.val or options.datasets.test
    assert options.val.metrics
    assert (options.train is None) == (file in TESTS)


def test_names_of_runs_differ():
    names = [resolved(file)["name"] for file in FILES]
    assert len(set(names)) == len(names)


def bases(file):
    named = read_file(file).value.get("_base_")
    entries = [] if named is None else named.value if isinstance(named.value, list) else [named]
    for entry in entries:
        base = (file.parent / entry.value).resolve()
        yield base
        yield from bases(base)


def test_every_base_is_used():
    used = {base for file in {*FILES, *TESTED_ELSEWHERE} for base in bases(file)}
    unused = {base.stem for base in BASES} - {base.stem for base in used}
    presets = {f"dehazeformer_{size}" for size in "dwml"}  # which are not in the tables
    assert unused == presets | {"restoration", "spn_random", "spn_short", "spn_short_random"}  # of `mcir new`


def test_every_file_is_listed_in_the_readme():
    rows = (ROOT / "README.md").read_text()
    listed = set(re.findall(r"`((?:sr|dehaze|derain|deblur|denoise|quickstart)[\w/]*)\.yml`", rows))
    assert listed == {name(file) for file in FILES}


@cache
def known_pairs():
    """Return the folders of ground truths, and the folders, template and scale of each pair in the manifests."""
    folders, pairs = set(), set()
    for manifest in map(read_manifest, known_manifests()):
        home = f"datasets/{manifest.root}/"
        folders |= {home + folder.path for folder in manifest.folders}
        for pair in manifest.pairs:
            pairs |= {(home + pair.gt, home + pair.lq, template, pair.scale) for template in pair.filename_tmpl}
    return folders, pairs


@each(FILES)
def test_data_sets_are_where_their_manifests_put_them(file):
    folders, pairs = known_pairs()
    for section in resolved(file)["datasets"].values():
        if section["type"] == "PairedImageDataset":
            gt, lq = section["dataroot_gt"], section.get("dataroot_lq")
            assert gt in folders
            assert lq is None or (gt, lq, section.get("filename_tmpl", "{}"), section.get("scale", 1)) in pairs


# -- the pairs --------------------------------------------------------------------------------------------------------


@each(PAIRS)
def test_a_pair_differs_only_in_its_negatives(file):
    pushed = dict(resolved(file))
    plain = dict(resolved(file.with_name(file.name.replace("_spn", ""))))
    assert (plain.pop("model_type"), pushed.pop("model_type")) == ("RestorationModel", "ContrastiveModel")
    assert pushed.pop("name") == plain.pop("name") + "_spn"
    train = dict(pushed.pop("train"))
    loss, negatives = train.pop("contrastive_opt"), train.pop("negatives")
    assert pushed | {"train": train} == plain
    spn = read_with_bases(ROOT / "_base_/spn.yml").plain()["train"]
    if file.stem == "ffanet_its_released_spn":
        spn["contrastive_opt"]["loss_weight"] = 1e-3
        spn["negatives"] |= {"steps": [100, 200, 500, 1000], "start": 0.1}
    assert {"contrastive_opt": loss, "negatives": negatives} == spn


def test_every_recipe_of_the_tables_has_an_spn_file():
    paired = {file.with_name(file.name.replace("_spn", "")) for file in PAIRS}
    assert {file.stem for file in set(RECIPES) - paired} == {"swinir_color_dn25", "swinir_color_jpeg40"}


def test_lambda_w_and_s_are_those_of_the_paper():
    train = resolved(ROOT / "derain/idt_did_spn.yml")["train"]
    assert train["contrastive_opt"]["loss_weight"] == 1e-4
    assert train["contrastive_opt"]["vgg_type"] == "vgg16"
    assert train["contrastive_opt"]["layer_weights"] == {"relu1_2": 0.2, "relu2_2": 0.3, "relu3_3": 0.5}
    assert train["negatives"] == {"type": "HistoryNegatives", "weight": 0.1, "steps": [100, 500, 1000, 2000]}


# -- the recipes, against the facts of the released code --------------------------------------------------------------

ADAM, ADAMW = "Adam", "AdamW"
FACTS = {
    # pattern: optimizer, rate, betas, decay, iterations, batch per GPU, crop, loss, EMA, clipping, seed
    "sr/edsr_light_x2": (ADAM, 1e-4, [0.9, 0.99], 0, 300_000, 16, 96, "L1Loss", 0.999, None, 0),
    "sr/edsr_light_x4": (ADAM, 1e-4, [0.9, 0.99], 0, 300_000, 16, 192, "L1Loss", 0.999, None, 10),
    "sr/swinir_light_x4": (ADAM, 2e-4, None, 0, 500_000, 8, 256, "L1Loss", 0.999, None, 0),
    "sr/swinir_x4": (ADAM, 2e-4, [0.9, 0.99], 0, 500_000, 4, 192, "L1Loss", 0.999, None, 0),
    "dehaze/ffanet_(its|reside6k)": (ADAM, 1e-4, [0.9, 0.999], None, 500_000, 2, 240, "L1Loss", None, None, 0),
    "dehaze/ffanet_its_released": (ADAMW, 2e-4, [0.9, 0.9], 0, 500_000, 4, 128, "L1Loss", 0.999, None, 42),
    "dehaze/dehazeformer_t_its": (ADAMW, 4e-4, [0.9, 0.999], 0.01, 131_537, 32, 256, "L1Loss", None, None, 0),
    "dehaze/dehazeformer_[sb]_its": (ADAMW, 2e-4, [0.9, 0.999], 0.01, 263_074, 16, 256, "L1Loss", None, None, 0),
    "dehaze/dehazeformer_t_reside6k": (ADAMW, 2e-4, [0.9, 0.999], 0.01, 187_187, 32, 256, "L1Loss", None, None, 0),
    "dehaze/dehazeformer_[sb]_reside6k": (
        ADAMW,
        1e-4,
        [0.9, 0.999],
        0.01,
        1001 * 375,
        16,
        256,
        "L1Loss",
        None,
        None,
        0,
    ),
    "derain/idt_rain200[lh]": (ADAM, 1e-4, [0.9, 0.999], None, 400 * 450, 4, 128, "SSIMLoss", None, None, 0),
    "derain/idt_did": (ADAM, 1e-4, [0.9, 0.999], None, 400 * 3000, 4, 128, "SSIMLoss", None, None, 0),
    "derain/idt_ddn": (ADAM, 1e-4, [0.9, 0.999], None, 400 * 3150, 4, 128, "SSIMLoss", None, None, 0),
    "derain/idt_spa": (ADAM, 1e-4, [0.9, 0.999], None, 400 * 159_616, 4, 128, "SSIMLoss", None, None, 0),
    "deblur/nafnet_gopro_w32": (ADAMW, 1e-3, [0.9, 0.9], 1e-3, 200_000, 4, 256, "PSNRLoss", None, 0.01, 42),
    "deblur/nafnet_gopro_w64": (ADAMW, 1e-3, [0.9, 0.9], 1e-3, 400_000, 8, 256, "PSNRLoss", None, 0.01, 10),
    "denoise/nafnet_sidd_w32": (ADAMW, 1e-3, [0.9, 0.9], 0, 200_000, 4, 256, "PSNRLoss", None, 0.01, 10),
    "denoise/nafnet_sidd_w64": (ADAMW, 1e-3, [0.9, 0.9], 0, 400_000, 8, 256, "PSNRLoss", None, 0.01, 10),
    "denoise/swinir_color_dn25": (ADAM, 2e-4, None, 0, 1_600_000, 1, 128, "CharbonnierLoss", 0.999, None, 0),
    "denoise/swinir_color_jpeg40": (ADAM, 2e-4, None, 0, 1_600_000, 1, 126, "CharbonnierLoss", 0.999, None, 0),
}
TURNED = "sr/.*|dehaze/(ffanet_.*|dehazeformer_._its)|deblur/.*|denoise/swinir_.*"
METRICS = {
    "sr/.*": {"PSNR", "SSIM"},
    "dehaze/ffanet_its_released": {"PSNR", "SSIM"},
    "dehaze/ffanet_(its|reside6k)": {"FloatPSNR", "ZeroPaddedSSIM"},
    "dehaze/dehazeformer_.*": {"FloatPSNR", "PooledSSIM"},
    "derain/.*": {"DerainPSNR", "DerainSSIM"},
    "deblur/.*": {"PSNR", "SSIM3D"},
    "denoise/nafnet_.*": {"FloatPSNR", "FloatSSIM3D", "PSNR"},
    "denoise/swinir_color_dn25": {"PSNR", "SSIM"},
    "denoise/swinir_color_jpeg40": {"PSNR", "SSIM", "PSNRB"},
}


def fact(table, file):
    found = [value for pattern, value in table.items() if re.fullmatch(pattern, name(file))]
    assert len(found) == 1, name(file)
    return found[0]


@each(RECIPES)
def test_recipes_match_the_released_code(file):
    tree = resolved(file)
    train, data = tree["train"], tree["datasets"]["train"]
    optimizer = train["optim_g"]
    assert fact(FACTS, file) == (
        *(optimizer.get(key) for key in ("type", "lr", "betas", "weight_decay")),
        train["total_iter"],
        data["batch_size_per_gpu"],
        data["gt_size"],
        train["pixel_opt"]["type"],
        train.get("ema_decay"),
        train.get("grad_clip"),
        tree["manual_seed"],
    )
    assert not data["progressive"]
    assert data.get("use_rot", False) == bool(re.fullmatch(TURNED, name(file)))
    assert data.get("use_hflip", False) != name(file).startswith("denoise/nafnet")
    dehazeformer = file.stem.startswith("dehazeformer")
    assert train.get("precision") == ("fp16" if dehazeformer else None)
    assert train["pixel_opt"].get("loss_weight", 1) == (2 if dehazeformer else 1)
    assert {metric["type"] for metric in tree["val"]["metrics"].values()} == fact(METRICS, file)


SCHEDULES = {
    # pattern: the golden table, iterations of an epoch where it counts epochs
    "sr/edsr_.*": ("basicsr_edsr", None),
    "sr/swinir_.*": ("basicsr_swinir", None),
    "dehaze/ffanet_(its|reside6k)": ("ffa_its", None),
    "dehaze/ffanet_its_released": ("mclir_ffanet", None),
    "dehaze/dehazeformer_t_its": ("dehazeformer_t_indoor", 437),
    "derain/idt_rain200[lh]": ("idt", 450),
    "derain/idt_did": ("idt", 3000),
    "derain/idt_ddn": ("idt", 3150),
    "derain/idt_spa": ("idt", 159_616),
    "(deblur|denoise)/nafnet_.*_w32": ("nafnet_w32", None),
    "(deblur|denoise)/nafnet_.*_w64": ("nafnet_w64", None),
}
GOLDEN = json.loads((NETWORKS.parent / "schedules/schedules.json").read_text())["schedules"]


@each([file for file in RECIPES if any(re.fullmatch(pattern, name(file)) for pattern in SCHEDULES)])
def test_learning_rates_match_the_official_ones(file):
    table, epoch = fact(SCHEDULES, file)
    train = resolved(file)["train"]
    schedule, base = SCHEDULERS.build(train["scheduler"]), train["optim_g"]["lr"]
    for when, rate in GOLDEN[table]["table"]:
        iterations = [when] if epoch is None else [when * epoch + 1, (when + 1) * epoch]
        for iteration in iterations:
            assert iteration <= train["total_iter"]
            assert schedule(base, iteration) == pytest.approx(rate, rel=1e-6, abs=2e-12), iteration
    assert iterations[-1] == train["total_iter"]


@pytest.mark.parametrize("size, epochs, epoch, rate", [("t", 1001, 187, 2e-4), ("s", 1001, 375, 1e-4)])
def test_dehazeformer_ends_at_a_hundredth_of_its_initial_rate(size, epochs, epoch, rate):
    train = resolved(ROOT / f"dehaze/dehazeformer_{size}_reside6k.yml")["train"]
    schedule = SCHEDULERS.build(train["scheduler"])
    last = (epochs - 1) * epoch
    assert schedule(rate, epoch) == rate > schedule(rate, epoch + 1)
    assert schedule(rate, last) > schedule(rate, last + 1) == pytest.approx(rate / 100)
    assert train["total_iter"] == last + epoch


def test_best_checkpoints_are_chosen_as_by_the_authors():
    """FFANet's authors compare PSNR and SSIM; DehazeFormer's evaluate after every epoch, or every tenth one."""
    for stem in ("ffanet_its", "ffanet_its_spn", "ffanet_reside6k"):
        assert resolved(ROOT / f"dehaze/{stem}.yml")["val"]["best_by"] == ["psnr", "ssim"]
    for stem, epochs in (("t_its", 1), ("s_its", 1), ("b_its_spn", 1), ("t_reside6k", 10), ("b_reside6k", 10)):
        tree = resolved(ROOT / f"dehaze/dehazeformer_{stem}.yml")
        epoch = tree["train"]["scheduler"]["iterations_per_epoch"]
        assert tree["val"]["val_freq"] == epochs * epoch and tree["val"]["best_by"] == []
        assert next(iter(tree["val"]["metrics"])) == "psnr"


def test_the_denoisers_rate_halves_four_times():
    train = resolved(ROOT / "denoise/swinir_color_dn25.yml")["train"]
    schedule = SCHEDULERS.build(train["scheduler"])
    steps = [800_000, 1_200_000, 1_400_000, 1_500_000]
    assert [schedule(1.0, step) / schedule(1.0, step + 1) for step in steps] == [2, 2, 2, 2]
    assert schedule(1.0, train["total_iter"]) == 1 / 16


# -- the networks, against the official ones --------------------------------------------------------------------------

OFFICIAL = {
    "edsr_light_x2": "edsr_light_x2",
    "edsr_light_x4": "edsr_light_x4",
    "swinir_light_x2": "swinir_light_x2",
    "swinir_light_x4": "swinir_light_x4",
    "swinir_x4": "swinir_classical_s48_x2",
    "ffanet_.*": "ffa_3_19",
    "dehazeformer_t_.*": "dehazeformer_t",
    "dehazeformer_s_.*": "dehazeformer_s",
    "dehazeformer_b_.*": "dehazeformer_b",
    "idt_.*": "idt_128",
    "nafnet_gopro_w32": "nafnet_local_gopro_w32_t256",
    "nafnet_gopro_w64": "nafnet_gopro_w64",
    "nafnet_sidd_w32": "nafnet_sidd_w32",
    "nafnet_sidd_w64": "nafnet_sidd_w64",
    "swinir_color_dn25": "swinir_color_dn",
    "swinir_color_jpeg40": "swinir_jpeg_color",
}


def official(config):
    with np.load(NETWORKS / f"{config}.npz") as file:
        return json.loads(bytes(file["facts"]))


@each([*RECIPES, *TESTS])
def test_networks_are_the_published_ones(file):
    network = file.stem.removesuffix("_spn")
    config = next(config for pattern, config in OFFICIAL.items() if re.fullmatch(pattern, network))
    section, expected = resolved(file)["network_g"], official(config)["kwargs"]
    if network == "swinir_x4":
        expected["upscale"] = 4
    defaults = {key: parameter.default for key, parameter in ARCHS.parameters(section["type"]).items()}
    assert {key: section.get(key, defaults.get(key)) for key in expected} == expected
    beyond = section.keys() - expected.keys() - {"type"}
    if file.stem == "nafnet_gopro_w64":  # measured with the plain network
        assert (section["type"], section["train_size"], beyond) == ("NAFNetLocal", [1, 3, 256, 256], {"train_size"})
    else:
        assert {key: section[key] for key in beyond} == {key: defaults[key] for key in beyond}


@pytest.mark.parametrize("size", "tsbdwml")
def test_dehazeformer_presets_are_the_published_ones(size):
    preset = read_with_bases(ROOT / f"_base_/networks/dehazeformer_{size}.yml").plain()["network_g"]
    facts = official(f"dehazeformer_{size}")
    assert preset == {"type": "DehazeFormer", **facts["kwargs"]}
    text = (ROOT / f"_base_/networks/dehazeformer_{size}.yml").read_text()
    assert f"{facts['param_count']:,} parameters" in text


# -- checked and trained ----------------------------------------------------------------------------------------------

TINY_IDT = {"img_size": 16, "win_size": 2, "embed_dim": 8, "overlap": 4}
FEWER = {
    "SwinIR": ["network_g.depths=[2]", "network_g.num_heads=[6]"],
    "FFANet": ["network_g.blocks=1"],
    "DehazeFormer": ["network_g.depths=[2, 2, 2, 1, 1]"],
    "IDT": [f"network_g.{key}={value}" for key, value in {**TINY_IDT, "depths": 9 * [1], "num_heads": 9 * [2]}.items()],
    "NAFNet": [f"network_g.{key}_blk_nums=[1, 1, 1, 1]" for key in ("enc", "dec")] + ["network_g.width=8"],
}
"""Overrides that make a network small but keep every kind of layer."""
STAND_INS = {
    "sr": {"type": "BicubicDown"},
    "dehaze": {"type": "SyntheticHaze"},
    "derain": {"type": "RainStreaks"},
    "deblur": {"type": "MotionBlur"},
    "denoise": {"type": "SensorNoise"},
}


def small_crop(file):
    return max(16, 8 * resolved(file)["scale"])


def fewer(file):
    tree = resolved(file)
    small = FEWER.get(tree["network_g"]["type"].removesuffix("Local"), [])
    middle = ["network_g.middle_blk_num=1"] if "middle_blk_num" in tree["network_g"] else []
    weights = ["train.contrastive_opt.weights=random"] if file in PAIRS else []
    return [*small, *middle, *weights]


def photographs(file, split):
    """Return the section of a data set that replaces that of an option file."""
    data = resolved(file)["datasets"].get("train", {})
    degradation = data.get("degradation") or STAND_INS[name(file).partition("/")[0]]
    section = {"type": "BundledPhotos", "split": split, "gt_size": small_crop(file), "degradation": degradation}
    return section | ({key: data[key] for key in ("use_hflip", "use_rot") if key in data} if split == "train" else {})


@pytest.fixture(scope="module", autouse=True)
def photographs_read_once():
    """Cache the photographs that are read."""
    read, kept = bundled.photographs, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "photographs", lambda parts: kept.setdefault(id(parts), read(parts)))
        yield


def check(file, overrides, capsys):
    """Check a file whose data are missing, which is its only problem, and return the resolved options and the cost."""
    status = main(["check", str(file), "--print", *(["--set", *overrides] if overrides else [])])
    output, errors = capsys.readouterr()
    problems = errors.strip().split("\n\n") if errors.strip() else []
    weights = [text for text in problems if "path.pretrain_network_g: pretrained/" in text]
    assert len(weights) == (file in TESTS)
    problems = [text for text in problems if text not in weights]
    assert all("no such folder. " in text and " is available at http" in text for text in problems), problems
    assert all(re.match(r"\S+\.yml:\d+: datasets\.\w+\.dataroot(_gt)?: datasets/", text) for text in problems)
    assert status == int(bool(problems or weights))
    return output


OTHER_DATA = {"idt_(did|rain200.|spa)": "idt_ddn", "reside6k": "its"}
OTHER_SIZE = {"dehazeformer_s": "dehazeformer_b", "_w64": "_w32"}


def twin(file, patterns):
    """Return the file whose training steps are the same. Only this file is checked and trained."""
    stem = file.stem
    for pattern, text in patterns.items():
        stem = re.sub(pattern, text, stem)
    return file.with_stem(stem)


DISTINCT = [file for file in TRAINED if twin(file, OTHER_DATA) == file]
REDUCED = [file for file in DISTINCT if twin(file, OTHER_SIZE) == file]
FULL_SIZE = [file for file in REDUCED if "_released" not in file.stem]  # its network is that of ffanet_its


@cache
def steps(file, is_reduced):
    """Return the options that determine a training step."""
    tree = yaml.safe_load(load(file, fewer(file)).dump()) if is_reduced else resolved(file)
    train = {key: value for key, value in tree["train"].items() if key not in ("total_iter", "scheduler", "optim_g")}
    return tree["model_type"], tree["network_g"], train, tree["datasets"]["train"]["gt_size"]


@each([file for file in TRAINED if file not in DISTINCT])
def test_files_for_other_data_have_the_same_steps(file):
    assert steps(file, False) == steps(twin(file, OTHER_DATA), False)


@each([file for file in DISTINCT if file not in REDUCED])
def test_files_of_other_sizes_have_the_same_reduced_steps(file):
    assert steps(file, True) == steps(twin(file, OTHER_SIZE), True)


@each([file for file in FULL_SIZE if file in PLAIN])
def test_check_passes_at_full_size(file, capsys):
    output = check(file, [], capsys)
    assert yaml.safe_load(output) == resolved(file)
    assert "FLOPs of a step" in output
    if file in RECIPES:
        config = next(config for pattern, config in OFFICIAL.items() if re.fullmatch(pattern, file.stem))
        if file.stem != "swinir_x4":
            assert f"# parameters              {official(config)['param_count']:,}\n" in output


@each([file for file in REDUCED if file in PAIRS])
def test_check_passes_with_negatives(file, capsys):
    smaller = [*fewer(file), f"datasets.train.gt_size={small_crop(file)}", "train.negatives.steps=[100]"]
    assert "FLOPs of a step" in check(file, smaller, capsys)


@each(TESTS)
def test_check_passes_without_training(file, capsys):
    assert "the cost of a step is not estimated" in check(file, [], capsys)


@pytest.mark.slow
@each([file for file in FULL_SIZE if file in PAIRS])
def test_check_passes_at_full_size_with_negatives(file, capsys):
    assert "FLOPs of a step" in check(file, [], capsys)


def train_two_steps(file, folder, overrides):
    training = {**photographs(file, "train"), "batch_size_per_gpu": 1}
    settings = {"path.experiments_root": folder, "train.total_iter": 2, "val.val_freq": 2, "val.pictures": 0}
    settings |= {"logger.print_freq": 1, "logger.use_tb_logger": "false"}
    if file in PAIRS:
        settings["train.contrastive_opt.layer_weights"] = "{relu1_2: 1}"  # the others cost a second in fp16 on a CPU
        settings["train.negatives.steps"] = "[100, 500]"
    datasets = json.dumps({"train": training, "val": photographs(file, "val")})
    options = load(file, [f"datasets={datasets}", *(f"{key}={value}" for key, value in settings.items()), *overrides])
    trainer = Trainer(options, DistContext(0, 1, torch.device("cpu")))
    before = {key: value.clone() for key, value in trainer.model.network.state_dict().items()}
    assert trainer.train() == 0
    records = [json.loads(line) for line in (folder / options.name / "results.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "train"]
    assert [record["iteration"] for record in steps] == [1, 2]
    assert all(np.isfinite(record["l_pix"]) for record in steps)
    assert all(("l_neg" in record) == (file in PAIRS) for record in steps)
    if file in PAIRS:
        assert all(record["l_neg"] < 0 for record in steps)
    (measured,) = [record for record in records if record["kind"] == "val"]
    assert all(np.isfinite(measured[metric]) for metric in options.val.metrics)
    after = trainer.model.network.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    shutil.rmtree(folder / options.name)


@each([file for file in REDUCED if file.stem != "quickstart"])  # trained by the tests of runs
def test_reduced_networks_train(file, tmp_path):
    train_two_steps(file, tmp_path, fewer(file))


@each(TESTS)
def test_published_weights_are_tested(file, tmp_path):
    datasets = json.dumps({"val": photographs(file, "val")})
    overrides = [f"datasets={datasets}", f"path.results_root={tmp_path}", "val.pictures=0", *fewer(file)]
    options = load(file, overrides)
    weights = {f"module.{key}": value for key, value in ARCHS.build(options.network_g).state_dict().items()}
    torch.save({"params": weights}, tmp_path / "weights.pth")
    results = testing.Tester(options, DistContext(0, 1, torch.device("cpu"))).test([str(tmp_path / "weights.pth")])
    (measured,) = json.loads(results.read_text()).values()
    assert measured["val"].keys() == options.val.metrics.keys()
    assert all(len(metric["images"]) == 2 and np.isfinite(metric["mean"]) for metric in measured["val"].values())


@pytest.mark.slow
@each(RECIPES)
def test_every_recipe_trains_its_whole_network(file, tmp_path):
    overrides = [override for override in fewer(file) if not override.startswith("network_g")]
    if resolved(file)["network_g"]["type"] == "IDT":
        overrides.append("datasets.train.gt_size=128")
    train_two_steps(file, tmp_path, overrides)
