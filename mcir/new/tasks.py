"""The restoration tasks of ``mcir new``, and the choices that depend on the task only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mcir.config.files import shipped
from mcir.config.load import read_with_bases

TaskName: TypeAlias = Literal["sr", "dehaze", "denoise", "derain", "deblur", "jpeg"]


@dataclass(frozen=True)
class Network:
    """A network that a task can use, and how it is trained.

    Attributes:
        title: name of the network in texts.
        crop: side of the crops in pixels of the degraded image.
        batch: batch size.
        lr: learning rate at the start.
        section: section ``network_g`` without the scale; empty if ``file`` is set.
        file: name of the option file with the section, among those that come with mcir.
        recipe: name of the option file with the published recipe.
        train: part of the section ``train`` that the recipe does not contain.
        multiple: divisor of the side of the crops in pixels of the degraded image.
    """

    title: str
    crop: int
    batch: int
    lr: float
    section: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    recipe: str = ""
    train: Mapping[str, Any] = field(default_factory=dict)
    multiple: int = 8

    def network_g(self, scale: int) -> dict[str, Any]:
        """Return the section of the network for a scale."""
        section = self.section or read_with_bases(shipped() / self.file).plain()["network_g"]
        return {**section, "upscale": scale} if section["type"] == "EDSR" else dict(section)


@dataclass(frozen=True)
class Task:
    """A restoration task.

    Attributes:
        goal: what the network does, as a verb and its object.
        degraded: adjective for the degraded images.
        degradation: section of the degradation that makes degraded images from clean ones.
        notice: what a user has to know about a network that is trained with this degradation.
        small: network for short trainings and for CPUs.
        large: network of a published recipe.
        rotates: whether images are also rotated, in addition to horizontal flips.
    """

    goal: str
    degraded: str
    degradation: Mapping[str, Any]
    notice: str
    small: Network
    large: Network
    rotates: bool = True


_SMALL_NAFNET = {
    "type": "NAFNet",
    "img_channel": 3,
    "width": 16,
    "middle_blk_num": 1,
    "enc_blk_nums": [1, 1, 1],
    "dec_blk_nums": [1, 1, 1],
}
_NETWORKS, _RECIPES = "_base_/networks/", "_base_/recipes/"
_SIMULATED = (
    "The {degraded} images are made from your images by a simple model. A network that is trained on them may not work "
    "on real {degraded} images: use real pairs (--lq and --gt) if you have any."
)


def _small(crop: int) -> Network:
    return Network("NAFNet of width 16", crop=crop, batch=8, lr=1e-3, section=_SMALL_NAFNET)


TASKS: Mapping[TaskName, Task] = {
    "sr": Task(
        goal="enlarge images",
        degraded="small",
        degradation={"type": "BicubicDown"},
        notice="The small images are made from your images by bicubic downscaling. Photographs from a camera or the "
        "internet often have noise and JPEG artefacts in addition, which the network then does not remove.",
        small=Network(
            "small EDSR",
            crop=24,
            batch=8,
            lr=1e-3,
            section={"type": "EDSR", "num_feat": 32, "num_block": 4, "img_range": 1.0},
        ),
        large=Network(
            "EDSR-light",
            crop=48,
            batch=16,
            lr=2e-4,
            file=f"{_NETWORKS}edsr_light.yml",
            recipe=f"{_RECIPES}edsr.yml",
        ),
    ),
    "dehaze": Task(
        goal="remove haze",
        degraded="hazy",
        degradation={"type": "SyntheticHaze"},
        notice=_SIMULATED.format(degraded="hazy"),
        small=_small(crop=96),
        large=Network(
            "DehazeFormer-T",
            crop=256,
            batch=8,
            lr=2e-4,
            file=f"{_NETWORKS}dehazeformer_t.yml",
            recipe=f"{_RECIPES}dehazeformer_its_t.yml",
        ),
    ),
    "denoise": Task(
        goal="remove noise",
        degraded="noisy",
        degradation={"type": "GaussianNoise", "sigma": [5, 50], "clip": True},
        notice="The noisy images are made from your images by adding Gaussian noise. The noise of a camera "
        "differs: it depends on the brightness, and neighbouring pixels are similar. Use real pairs if you have any.",
        small=_small(crop=64),
        large=Network(
            "NAFNet of width 32",
            crop=256,
            batch=4,
            lr=1e-3,
            file=f"{_NETWORKS}nafnet_sidd.yml",
            recipe=f"{_RECIPES}nafnet.yml",
        ),
    ),
    "derain": Task(
        goal="remove rain",
        degraded="rainy",
        degradation={"type": "RainStreaks"},
        notice=_SIMULATED.format(degraded="rainy"),
        rotates=False,
        small=_small(crop=64),
        large=Network(
            "IDT",
            crop=128,
            batch=4,
            lr=1e-4,
            file=f"{_NETWORKS}idt.yml",
            recipe=f"{_RECIPES}idt.yml",
            train={"total_iter": 180_000, "scheduler": {"milestones": [45_000, 112_500, 157_500]}},
        ),
    ),
    "deblur": Task(
        goal="remove motion blur",
        degraded="blurred",
        degradation={"type": "MotionBlur"},
        notice=_SIMULATED.format(degraded="blurred"),
        small=_small(crop=96),
        large=Network(
            "NAFNet of width 32",
            crop=256,
            batch=4,
            lr=1e-3,
            file=f"{_NETWORKS}nafnet_gopro.yml",
            recipe=f"{_RECIPES}nafnet.yml",
        ),
    ),
    "jpeg": Task(
        goal="remove JPEG artefacts",
        degraded="compressed",
        degradation={"type": "JPEG", "quality": [10, 60]},
        notice="The compressed images are made from your images by JPEG compression, so your images should have none: "
        "use PNG files, or JPEG files of high quality that were reduced in size.",
        small=_small(crop=64),
        large=Network(
            "SwinIR",
            crop=126,
            batch=1,
            lr=2e-4,
            multiple=7,
            file=f"{_NETWORKS}swinir_color_jpeg.yml",
            recipe=f"{_RECIPES}swinir_denoise.yml",
        ),
    ),
}
"""All tasks, by name."""
