"""Option files of BasicSR and of the MCIR paper's released code, with all their keys."""

import logging

import pytest

from mcir.config import load

BASICSR = """\
# general settings
name: 203_EDSR_Mx4_300k
model_type: SRModel
scale: 4
num_gpu: 1
manual_seed: 10

datasets:
  train:
    name: DIV2K
    type: PairedImageDataset
    dataroot_gt: datasets/DIV2K/train_HR_sub
    dataroot_lq: datasets/DIV2K/train_LR_bicubic_X4_sub
    meta_info_file: datasets/meta_info/DIV2K800sub.txt
    filename_tmpl: '{}'
    io_backend:
      type: disk

    gt_size: 192
    use_flip: true
    use_rot: true

    # data loader
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 16
    dataset_enlarge_ratio: 100
    prefetch_mode: ~
    num_prefetch_queue: 1
    pin_memory: true
    phase: train

  val:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: datasets/Set5/GTmod12
    dataroot_lq: datasets/Set5/LRbicx4
    io_backend:
      type: disk

network_g:
  type: EDSR
  num_in_ch: 3
  num_out_ch: 3
  num_feat: 64
  num_block: 16
  upscale: 4
  res_scale: 1
  img_range: 255.
  rgb_mean: [0.4488, 0.4371, 0.4040]

path:
  pretrain_network_g: experiments/201_EDSR_Mx2/models/net_g_300000.pth
  strict_load_g: false
  param_key_g: params_ema
  resume_state: ~
  ignore_resume_networks: ~

train:
  ema_decay: 0.999
  optim_g:
    type: Adam
    lr: !!float 1e-4
    weight_decay: 0
    betas: [0.9, 0.99]

  scheduler:
    type: MultiStepLR
    milestones: [200000]
    gamma: 0.5

  total_iter: 300000
  warmup_iter: -1  # no warm up

  pixel_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean
  perceptual_opt:
    type: PerceptualLoss
    layer_weights:
      'conv5_4': 1  # before relu
    vgg_type: vgg19
    use_input_norm: true
    range_norm: false
    perceptual_weight: 1.0
    style_weight: 0
    criterion: l1

val:
  val_freq: !!float 5e3
  save_img: false
  pbar: False

  metrics:
    psnr: # metric name, can be arbitrary
      type: calculate_psnr
      crop_border: 4
      test_y_channel: false
      better: higher
    ssim:
      type: calculate_ssim
      crop_border: 4
      test_y_channel: false

logger:
  print_freq: 100
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~

dist_params:
  backend: nccl
  port: 29500
"""

RELEASED = """\
name: MCLIR-FromScratch
model_type: ImageRestorationModel_FFANet_Neg_Multi
scale: 2
num_gpu: 1
manual_seed: 42
datasets:
  train:
    name: RESIDE-IN
    type: PairedImageDataset
    dataroot_gt: datasets/target
    dataroot_lq: datasets/input
    filename_tmpl: '{}'
    io_backend:
      type: disk
    gt_size: 128
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 4
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 1
    pin_memory: true
network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, upscale: 2}
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
path_neg: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  ema_decay: 0.999
  neg_decay: [0.1, 0.1, 0.1, 0.1]
  neg_iter: [100, 200, 500, 1000]
  neg_start: 0.1
  optim_g: {type: AdamW, lr: !!float 2e-4, weight_decay: 0.0, betas: [0.9, 0.9]}
  scheduler: {type: TrueCosineAnnealingLR, T_max: 100000, eta_min: !!float 1e-8}
  total_iter: 500000
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
  perceptual_opt:
    type: PerceptualLoss
    layer_weights: {'relu1_2': 0.2, 'relu2_2': 0.3, 'relu3_3': 0.5}
    vgg_type: vgg16
    use_input_norm: true
    range_norm: false
    perceptual_weight: 0.001
    style_weight: 0
    criterion: l1
val: {val_freq: !!float 5e3, save_img: false}
logger: {print_freq: 200, save_checkpoint_freq: !!float 5e3, use_tb_logger: true, wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29500}
"""

HISTORY = {"type": "HistoryNegatives", "steps": (1000, 500, 200, 100), "weight": 0.1, "start": 0.1}
SPN = {
    "type": "SPNLoss",
    "layer_weights": {"relu1_2": 0.2, "relu2_2": 0.3, "relu3_3": 0.5},
    "vgg_type": "vgg16",
    "use_input_norm": True,
    "range_norm": False,
    "loss_weight": 0.001,
    "criterion": "l1",
}


def changed(text, *replacements):
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


def line_of(text, words):
    """Return the number of the line that contains the words."""
    assert text.count(words) == 1
    return text[: text.index(words)].count("\n") + 1


# -- BasicSR ----------------------------------------------------------------------------------------------------------


def test_training_options_of_basicsr_are_translated(write):
    options = load(write(BASICSR))
    assert options.model_section() == {
        "type": "RestorationModel",
        "network_g": {
            "type": "EDSR",
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_feat": 64,
            "num_block": 16,
            "upscale": 4,
            "res_scale": 1.0,
            "img_range": 255.0,
            "rgb_mean": (0.4488, 0.4371, 0.4040),
        },
        "seed": 10,
        "ema_decay": 0.999,
        "optim_g": {"type": "Adam", "lr": 1e-4, "weight_decay": 0.0, "betas": (0.9, 0.99)},
        "scheduler": {"type": "MultiStepLR", "milestones": (200000,), "gamma": 0.5},
        "warmup_iter": -1,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        "perceptual_opt": {
            "type": "PerceptualLoss",
            "layer_weights": {"conv5_4": 1.0},
            "vgg_type": "vgg19",
            "use_input_norm": True,
            "range_norm": False,
            "perceptual_weight": 1.0,
            "style_weight": 0.0,
            "criterion": "l1",
        },
    }
    training = options.datasets.train
    assert (training.name, training.batch_size_per_gpu, training.num_worker_per_gpu) == ("DIV2K", 16, 6)
    assert training.section == {
        "type": "PairedImageDataset",
        "dataroot_gt": "datasets/DIV2K/train_HR_sub",
        "dataroot_lq": "datasets/DIV2K/train_LR_bicubic_X4_sub",
        "meta_info_file": "datasets/meta_info/DIV2K800sub.txt",
        "filename_tmpl": "{}",
        "io_backend": {"type": "disk"},
        "gt_size": 192,
        "use_hflip": True,
        "use_rot": True,
        "scale": 4,
    }
    assert options.datasets.val["val"].name == "Set5"
    assert options.val.val_freq == 5000
    assert options.val.metrics == {
        "psnr": {"type": "PSNR", "crop_border": 4, "test_y_channel": False},
        "ssim": {"type": "SSIM", "crop_border": 4, "test_y_channel": False},
    }
    assert options.path.pretrain_network_g == "experiments/201_EDSR_Mx2/models/net_g_300000.pth"
    assert (options.path.strict_load_g, options.path.param_key_g) == (False, "params_ema")
    assert options.dist_params.backend == "nccl"


@pytest.mark.parametrize(
    "scheduler",
    [
        {"type": "MultiStepLR", "milestones": (50000, 100000), "gamma": 0.5},
        {
            "type": "MultiStepRestartLR",
            "milestones": (5, 9),
            "gamma": 0.5,
            "restarts": (0, 7),
            "restart_weights": (1.0, 0.5),
        },
        {"type": "CosineAnnealingLR", "T_max": 400000, "eta_min": 1e-7},
        {"type": "CosineAnnealingRestartLR", "periods": (250, 250), "restart_weights": (1.0, 1.0), "eta_min": 1e-7},
    ],
    ids=lambda scheduler: scheduler["type"],
)
def test_schedules_of_basicsr(write, scheduler):
    flow = ", ".join(f"{key}: {list(value) if isinstance(value, tuple) else value}" for key, value in scheduler.items())
    old = BASICSR[BASICSR.index("  scheduler:") : BASICSR.index("  total_iter")]
    assert load(write(changed(BASICSR, (old, f"  scheduler: {{{flow}}}\n")))).train.model.scheduler == scheduler


def test_test_options_of_basicsr(write):
    head = BASICSR[: BASICSR.index("datasets:")].replace("manual_seed: 10\n", "")
    network = BASICSR[BASICSR.index("network_g:") : BASICSR.index("path:")]
    sets = "".join(
        f"  test_{i}:\n    name: {name}\n    type: PairedImageDataset\n    dataroot_gt: a/{name}\n"
        f"    dataroot_lq: b/{name}\n    filename_tmpl: '{{}}x4'\n    io_backend:\n      type: lmdb\n"
        for i, name in enumerate(["Set5", "Set14"], 1)
    )
    paths = "path:\n  pretrain_model_g: net_g.pth\n  strict_load: true\n  param_key: params_ema\n  root: /data\n"
    rest = paths + "val:\n  save_img: true\n  suffix: ~\n"
    options = load(write(head + "datasets:\n" + sets + network + rest))
    assert options.train is None
    assert {key: dataset.name for key, dataset in options.datasets.test.items()} == {
        "test_1": "Set5",
        "test_2": "Set14",
    }
    assert options.datasets.test["test_1"].section.filename_tmpl == "{}x4"
    assert (options.path.pretrain_network_g, options.path.param_key_g) == ("net_g.pth", "params_ema")
    assert options.path.experiments_root == "/data/experiments"
    assert options.path.results_root == "/data/results"
    assert options.val.save_img


@pytest.mark.parametrize("model_type", ["SRModel", "SwinIRModel", "ImageRestorationModel"])
def test_model_types_for_paired_data(write, model_type):
    options = load(write(changed(BASICSR, ("SRModel", model_type))))
    assert options.model_type == "RestorationModel"


@pytest.mark.parametrize(("model_type", "metric"), [("SRModel", "SSIM"), ("ImageRestorationModel", "SSIM3D")])
def test_calculate_ssim_depends_on_the_model_type(write, model_type, metric):
    options = load(write(changed(BASICSR, ("SRModel", model_type))))
    assert options.val.metrics["ssim"] == {"type": metric, "crop_border": 4, "test_y_channel": False}
    assert options.val.metrics["psnr"].type == "PSNR"


@pytest.mark.parametrize(
    ("model_type", "line", "norm"),
    [
        ("SRModel", "", None),
        ("SRModel", "use_grad_clip: true", 0.01),
        ("SRModel", "use_grad_clip: false", None),
        ("SRModel", "use_grad_clip: 0.5", 0.5),
        ("ImageRestorationModel", "", 0.01),  # the default of NAFNet's code, without an option
        ("ImageRestorationModel", "use_grad_clip: true", 0.01),
        ("ImageRestorationModel", "use_grad_clip: false", None),
        ("ImageRestorationModel", "grad_clip: 0.3", 0.3),
    ],
)
def test_gradient_clipping(write, model_type, line, norm):
    text = changed(BASICSR, ("SRModel", model_type), ("train:\n  ema", f"train:\n  {line}\n  ema"))
    assert load(write(text)).train.model.get("grad_clip") == norm


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("better: higher", "better: lower", "val.metrics.psnr.better", "For PSNR, higher is better."),
        ("use_shuffle: true", "use_shuffle: false", "datasets.train.use_shuffle",
         "not supported: training samples are always shuffled."),
        ("use_flip: true", "use_flip: 3", "datasets.train.use_hflip (written as 'datasets.train.use_flip')",
         "expected true or false, got 3."),
        ("use_flip: true", "use_flip: true\n    use_hflip: true",
         "datasets.train.use_hflip (written as 'datasets.train.use_flip')",
         "'datasets.train.use_hflip' is also set at x.yml:21. Remove one of the two."),
        ("type: calculate_psnr", "type: calculate_psnrr", "val.metrics.psnr.type",
         "There is no metric 'calculate_psnrr'. Did you mean 'calculate_psnr'?"),
        ("save_img: false", "grids: true", "val.grids", "not supported: evaluation restores whole images."),
        ("save_img: false", "use_image: 3", "val.use_image",
         "Choose the metrics instead: PSNR rounds images to 8 bits, FloatPSNR does not."),
        ("  ema_decay: 0.999", "  mixup: true", "train.mixup", "not supported: samples are not mixed."),
        ("  type: EDSR", "  type: EDSRR", "network_g.type",
         "The file needs the network EDSRR. mcir does not have it. Did you mean 'EDSR'?"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_translated(problems, old, new, path, message):
    text = changed(BASICSR, (old, new))
    [found] = problems(text)
    assert found.startswith(f"x.yml:{line_of(text, new)}: {path}: {message}")


# -- the paper's released code ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model_type", ["SRNegModel_Multi", "SwinIRNegModel_Multi", "ImageRestorationModel_FFANet_Neg_Multi"]
)
def test_the_released_options_become_a_contrastive_model(write, model_type):
    options = load(write(changed(RELEASED, ("ImageRestorationModel_FFANet_Neg_Multi", model_type))))
    assert options.model_type == "ContrastiveModel"
    model = options.train.model
    assert model.negatives == HISTORY
    assert model.contrastive_opt == SPN
    assert model.scheduler.type == "TrueCosineAnnealingLR"
    assert "perceptual_opt" not in model
    assert "grad_clip" not in model


def test_steps_are_reversed_and_decays_are_not(write):
    options = load(write(changed(RELEASED, ("[0.1, 0.1, 0.1, 0.1]", "[0.1, 0.3, 0.5, 0.7]"))))
    assert options.train.model.negatives.weight == (0.1, 0.3, 0.5, 0.7)
    assert options.train.model.negatives.steps == (1000, 500, 200, 100)


def test_the_released_defaults_are_written_out(write):
    text = changed(
        RELEASED, ("  neg_start: 0.1\n", ""), ("    vgg_type: vgg16\n", ""), ("    perceptual_weight: 0.001\n", "")
    )
    model = load(write(text)).train.model
    assert model.negatives.start == 0.01
    assert (model.contrastive_opt.vgg_type, model.contrastive_opt.loss_weight) == ("vgg19", 1.0)


def test_the_single_negative(write):
    text = changed(
        RELEASED,
        ("ImageRestorationModel_FFANet_Neg_Multi", "SRNegModel"),
        ("[0.1, 0.1, 0.1, 0.1]", "0.999"),
        ("[100, 200, 500, 1000]", "2"),
        ("neg_start: 0.1", "neg_start: 0.9"),
    )
    assert load(write(text)).train.model.negatives == {
        "type": "HistoryNegatives", "steps": (2,), "weight": 0.999, "start": 0.9,
    }  # fmt: skip
    assert load(write(text.replace("  neg_start: 0.9\n", ""))).train.model.negatives.start == 0.999


@pytest.mark.parametrize(("line", "threshold"), [("  neg_t: 0.05\n", {"threshold": 0.05}), ("", {})])
def test_adaptive_negatives(write, line, threshold):
    text = changed(RELEASED, ("Neg_Multi", "Neg_Multi_Adaptive_DDP"), ("  neg_start", f"{line}  neg_start"))
    expected = {"type": "AdaptiveHistoryNegatives", "members": 4, "start": 0.1, **threshold}
    assert load(write(text)).train.model.negatives == expected


@pytest.mark.parametrize(("line", "norm"), [("use_grad_clip: 0.05", 0.05), ("use_grad_clip: true", 1.0)])
def test_the_released_clipping_switch_is_the_norm(write, line, norm):
    assert load(write(changed(RELEASED, ("  neg_start", f"  {line}\n  neg_start")))).train.model.grad_clip == norm


def test_the_released_positive_loss_is_the_perceptual_loss(write):
    positive = "  perceptual_pos_opt: {type: PerceptualLoss, layer_weights: {relu1_2: 1}}\n  perceptual_opt:"
    model = load(write(changed(RELEASED, ("  perceptual_opt:", positive)))).train.model
    assert model.perceptual_opt.layer_weights == {"relu1_2": 1.0}
    assert model.contrastive_opt == SPN
    nulls = changed(RELEASED, ("  pixel_opt:", "  grad_clip: ~\n  use_grad_clip: 0.05\n  pixel_opt:"))
    assert load(write(nulls)).train.model.grad_clip == 0.05


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("style_weight: 0", "style_weight: 0.5", "train.perceptual_opt.style_weight",
         "The negative loss has no style term: expected 0, got 0.5."),
        ("[100, 200, 500, 1000]", "[100, 200, x, 1000]", "train.negatives.steps.1 (written as 'train.neg_iter')",
         "expected an integer ≥ 1, got 'x'."),
        ("[0.1, 0.1, 0.1, 0.1]", "[0.1, 0.1]", "train.neg_decay",
         "expected 4 values of 'neg_decay', one for each 'neg_iter', got 2."),
        ("train:\n  ema_decay: 0.999\n  neg_decay: [0.1, 0.1, 0.1, 0.1]", "train:\n  ema_decay: 0.9", "train",
         "ImageRestorationModel_FFANet_Neg_Multi requires 'neg_decay'."),
        ("criterion: l1", "criterion: l7",
         "train.contrastive_opt.criterion (written as 'train.perceptual_opt.criterion')",
         "expected one of 'l1', 'l2', 'fro', got 'l7'."),
        ("perceptual_weight: 0.001", "perceptual_weight: x",
         "train.contrastive_opt.loss_weight (written as 'train.perceptual_opt.perceptual_weight')",
         "expected a finite number ≥ 0, got 'x'."),
        ("    vgg_type", "    vggtype", "train.contrastive_opt.vggtype (written as 'train.perceptual_opt.vggtype')",
         "SPNLoss has no argument 'vggtype'. Did you mean 'vgg_type'?"),
        ("type: PerceptualLoss", "type: SPNLoss", "train.perceptual_opt.type",
         "ImageRestorationModel_FFANet_Neg_Multi requires PerceptualLoss for the negatives."),
        ("  perceptual_opt:", "  contrastive_opt: {type: SPNLoss}\n  perceptual_opt:",
         "train.contrastive_opt (written as 'train.perceptual_opt')",
         "'train.contrastive_opt' is also set at x.yml:36. Remove one of the two."),
        ("path_neg: {pretrain_network_g: ~", "path_neg: {pretrain_network_g: neg.pth", "path_neg",
         "not supported: negatives start from the network, not from a file."),
        ("    gt_size:", "    mean: [0.64, 0.6, 0.58]\n    gt_size:", "datasets.train.mean",
         "Images stay in [0, 1]; a network that needs another range, like FFANet, normalizes them. Leave it out."),
    ],
)  # fmt: skip
def test_released_options_that_cannot_be_translated(problems, old, new, path, message):
    text = changed(RELEASED, (old, new))
    [found] = problems(text)
    line = line_of(text, "  perceptual_opt:" if "contrastive_opt: {" in new else new)
    assert found == f"x.yml:{line}: {path}: {message}"


def test_the_command_line_accepts_old_and_current_names(write):
    modern = ["train.contrastive_opt.loss_weight=1e-5", "train.negatives.weight=0.2", "train.grad_clip=0.3"]
    model = load(write(RELEASED), modern).train.model
    assert model.contrastive_opt == {**SPN, "loss_weight": 1e-5}
    assert model.negatives == {**HISTORY, "weight": 0.2}
    assert model.grad_clip == 0.3
    old = load(write(RELEASED), force_yml=["train:neg_iter=[5, 10]", "train:neg_decay=[0.1, 0.1]"]).train.model
    assert old.negatives.steps == (10, 5)


# -- keys without an effect -------------------------------------------------------------------------------------------


def test_a_key_that_the_released_code_does_not_read_is_ignored_with_its_explanation(write, caplog):
    text = changed(RELEASED, ("  neg_start: 0.1", "  use_grad_norm: 0.05\n  neg_start: 0.1"))
    assert load(write(text)) == load(write(RELEASED))
    explanation = (
        "train.use_grad_norm is ignored: the released code reads only 'use_grad_clip', so it clips no gradients; "
        "'grad_clip: 0.05' clips them"
    )
    assert explanation in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train: {use_grad_norm: 0.05}", "train.use_grad_norm: The released code does not read 'use_grad_norm', so it "
         "clips no gradients. Remove this key to do the same, or clip with 'grad_clip: 0.05'. Did you mean "
         "'grad_clip'?"),
        ("save_img: true", "save_img: There is no option 'save_img'."),
        ("logger: {wandb: {project: mine}}", "logger.wandb: not supported: mcir writes TensorBoard logs and JSON "
         "lines, not Weights & Biases."),
        ("val: {use_image: false}", "val.use_image: Choose the metrics instead: PSNR rounds images to 8 bits, "
         "FloatPSNR does not."),
        ("val: {metrics: {x: {type: calculate_niqe}}}", "val.metrics.x.type: There is no metric 'calculate_niqe'."),
    ],
)  # fmt: skip
def test_in_current_files_such_keys_are_errors(write, good, problems, line, message):
    write(good, "base.yml")
    (found,) = problems(f"_base_: base.yml\n{line}\n")
    assert found.startswith(f"x.yml:2: {message}")


@pytest.mark.parametrize(
    ("model_type", "use_image", "metrics"),
    [
        ("SRModel", "true", ("PSNR", "SSIM")),
        ("SRModel", "false", ("FloatPSNR", "FloatSSIM")),
        ("ImageRestorationModel", "true", ("PSNR", "SSIM3D")),
        ("ImageRestorationModel", "false", ("FloatPSNR", "FloatSSIM3D")),
    ],
)
def test_use_image_decides_whether_metrics_round_images(write, caplog, model_type, use_image, metrics):
    text = changed(BASICSR, ("SRModel", model_type), ("save_img: false", f"use_image: {use_image}"))
    found = load(write(text)).val.metrics
    assert (found.psnr.type, found.ssim.type) == metrics
    assert f"val.metrics.psnr.type: calculate_psnr -> {metrics[0]}" in caplog.text


def test_metrics_that_mcir_does_not_have_are_left_out(write, caplog):
    niqe = "  metrics:\n    niqe: {type: calculate_niqe, crop_border: 4, better: lower}\n"
    assert set(load(write(changed(BASICSR, ("  metrics:\n", niqe)))).val.metrics) == {"psnr", "ssim"}
    assert "val.metrics.niqe is dropped: mcir does not have the metric calculate_niqe" in caplog.text


# -- the notice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [BASICSR, RELEASED], ids=["basicsr", "released"])
def test_one_notice_lists_every_change_in_one_line(write, caplog, text):
    with caplog.at_level(logging.INFO, "mcir"):
        options = load(write(text))
    [record] = caplog.records
    notice = record.getMessage()
    first, *changes, last = notice.splitlines()
    assert first.startswith("x.yml uses names of BasicSR")
    assert all(line.startswith("  ") for line in changes)
    assert len(changes) < 40
    assert last == "To print the same file in current names: mcir check x.yml --print"
    for change in ("dist_params.port is dropped", "dataset_enlarge_ratio is dropped", "pin_memory is dropped"):
        assert change in notice
    caplog.clear()
    assert load(write(options.dump(), "modern.yml")) == options
    assert caplog.records == []


def test_the_notice_lists_the_negatives(write, caplog):
    load(write(RELEASED))
    for change in (
        "model_type: ImageRestorationModel_FFANet_Neg_Multi -> ContrastiveModel",
        "train.neg_iter -> train.negatives.steps: reversed",
        "train.perceptual_opt -> train.contrastive_opt: SPNLoss",
    ):
        assert change in caplog.text


def test_a_file_in_current_names_gives_no_notice(write, good, caplog):
    load(write(good))
    assert caplog.records == []


def test_an_old_name_that_is_an_argument_of_the_data_set_is_kept(write, monkeypatch):
    from mcir.registry import DATASETS

    monkeypatch.setattr(DATASETS, "_classes", dict(DATASETS._classes))
    DATASETS.names()

    @DATASETS.register()
    class OldStyle:
        def __init__(self, phase: str, dataset_enlarge_ratio: int = 1):
            pass

    old = BASICSR[BASICSR.index("  val:\n") : BASICSR.index("network_g:")]
    new = "  val: {type: OldStyle, phase: val, dataset_enlarge_ratio: 3}\n"
    section = load(write(changed(BASICSR, (old, new)))).datasets.val["val"].section
    assert section == {"type": "OldStyle", "phase": "val", "dataset_enlarge_ratio": 3}
