"""Option names of BasicSR, NAFNet and the MCIR paper's released code, which ``legacy`` translates.

Tables list the keys that are renamed, dropped because mcir does not need them, ignored because no code reads them, or
refused because mcir does not support them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Dropped(NamedTuple):
    """A key that mcir does not need; it is dropped if its value has no effect, and refused otherwise."""

    old: str
    why: str
    has_no_effect: Callable[[Any], bool] = lambda value: True


NAFNET = "ImageRestorationModel"
"""Model class of NAFNet's code."""
RESTORATION_MODELS = ("SRModel", "SwinIRModel", NAFNET)
"""Model classes without negatives."""
RELEASED = {
    "SRNegModel": ("HistoryNegatives", 0.999),
    "SwinIRNegModel": ("HistoryNegatives", 0.999),
    "SRNegModel_Multi": ("HistoryNegatives", 0.01),
    "SwinIRNegModel_Multi": ("HistoryNegatives", 0.01),
    "ImageRestorationModel_FFANet_Neg_Multi": ("HistoryNegatives", 0.01),
    "ImageRestorationModel_FFANet_Neg_Multi_Adaptive_DDP": ("AdaptiveHistoryNegatives", 0.01),
}
"""Kind of negatives, and default fraction of random weights in the first negatives, of each released model class."""

OTHER_MODELS = {
    "SRGANModel": "training with a discriminator",
    "ESRGANModel": "training with a discriminator",
    "RealESRNetModel": "degradations on the GPU",
    "RealESRGANModel": "degradations on the GPU, and training with a discriminator",
    "HiFaceGANModel": "training with a discriminator",
    "StyleGAN2Model": "generation of images",
    "VideoBaseModel": "video",
    "EDVRModel": "video",
    "BasicVSRModel": "video",
    "VideoRecurrentModel": "video",
    "VideoGANModel": "video, and training with a discriminator",
    "VideoRecurrentGANModel": "video, and training with a discriminator",
}
"""BasicSR's model classes that mcir does not have, and their purpose."""
OTHER_NETWORKS = ("Baseline", "BaselineLocal", "ECBSR")
"""Networks of BasicSR and NAFNet that mcir does not have and whose names are close to others."""
OTHER_DATASETS = {"SingleImageDataset": "images without ground truth; `mcir restore` restores them"}
"""BasicSR's data sets that mcir does not have and whose purpose is not obvious."""
OTHER_METRICS = (
    "calculate_niqe",
    "calculate_skimage_ssim",
    "calculate_psnr_left",
    "calculate_ssim_left",
    "calculate_skimage_ssim_left",
)
"""Metrics of BasicSR and NAFNet that mcir does not have."""

RENAMED = {
    "datasets.*.use_flip": "datasets.*.use_hflip",
    "path.pretrain_model_g": "path.pretrain_network_g",
    "path.strict_load": "path.strict_load_g",
    "path.param_key": "path.param_key_g",
    "complie": "train.compile",
    "find_unused_parameters": "dist_params.find_unused_parameters",
}
"""Old and new patterns of keys; ``*`` matches any key, the same one in both."""


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _has_no_project(wandb: Any) -> bool:
    return not (wandb.get("project") if isinstance(wandb, dict) else wandb)


def _has_no_weights(section: Any) -> bool:
    entries = section if isinstance(section, dict) else {}
    return not any(value for key, value in entries.items() if not key.startswith("strict_load"))


_NO_WANDB = "mcir writes TensorBoard logs and JSON lines, not Weights & Biases"
DROPPED = (
    Dropped("datasets.*.phase", "the key of the data set defines its purpose"),
    Dropped("datasets.train.use_shuffle", "training samples are always shuffled", _is(True)),
    Dropped("datasets.*.use_shuffle", "evaluation loads the images in order"),
    Dropped("datasets.*.dataset_enlarge_ratio", "sampling is endless, so there is no pause between epochs"),
    Dropped("datasets.*.prefetch_mode", "the next batch is always prefetched"),
    Dropped("datasets.*.num_prefetch_queue", "the next batch is always prefetched"),
    Dropped("datasets.*.pin_memory", "memory is pinned if there is a GPU"),
    Dropped("datasets.*.persistent_workers", "the loader's processes are always persistent"),
    Dropped("path.ignore_resume_networks", "a training state contains every network"),
    Dropped("path_neg", "negatives start from the network, not from a file", _has_no_weights),
    Dropped("val.pbar", "progress is always shown"),
    Dropped("val.use_pbar", "progress is always shown"),
    Dropped("val.rgb2bgr", "images are RGB everywhere"),
    Dropped("val.grids", "evaluation restores whole images", _is(False)),
    Dropped("val.max_minibatch", "whole images are restored one by one"),
    Dropped("val.metrics.*.input_order", "metrics take tensors"),
    Dropped("logger.wandb", _NO_WANDB, _has_no_project),
    Dropped("dist_params.port", "torchrun chooses the port"),
    Dropped("train.mixup", "samples are not mixed", _is(False)),
    Dropped("train.update_scaling", "the released code does not use it"),
)
_NORMALIZED = "Images stay in [0, 1]; a network that needs another range, like FFANet, normalizes them. Leave it out."
IGNORED = {
    "train.use_grad_norm": "the released code reads only 'use_grad_clip', so it clips no gradients; 'grad_clip: "
    "{value}' clips them",
    "val.trans_num": "NAFNet's code does not read it",
    "suffix": "BasicSR reads 'val.suffix'",
    "save_img": "BasicSR reads 'val.save_img'",
    "crop_border": "BasicSR reads the 'crop_border' of each metric",
    "logger.wandb": _NO_WANDB,
}
"""Keys that are ignored in files with an old model class only. Most are not read by the authors' code either."""
REFUSED = {
    "train.use_grad_norm": "The released code does not read 'use_grad_norm', so it clips no gradients. Remove this key "
    "to do the same, or clip with 'grad_clip: {value}'. Did you mean 'grad_clip'?",
    "val.use_image": "Choose the metrics instead: PSNR rounds images to 8 bits, FloatPSNR does not.",
    "datasets.*.mean": _NORMALIZED,
    "datasets.*.std": _NORMALIZED,
    "train.perceptual_contrastive_opt": "The released code does not contain this loss. The negative loss is "
    "'contrastive_opt'.",
}
NAFNET_CLIP = 0.01
"""Norm to which NAFNet's code clips gradients unless ``use_grad_clip: false`` is set."""
