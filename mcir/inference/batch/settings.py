"""Settings of ``mcir restore``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcir.data.codec import EXTENSIONS


@dataclass(frozen=True)
class FolderSettings:
    """Settings of ``mcir restore``.

    Attributes:
        inputs: files, folders and patterns.
        weights: checkpoint.
        out: folder of the results, or for one file the result itself.
        opt: option file whose network is built; default: the network of the checkpoint.
        key: which weights of the checkpoint to use, such as ``params``.
        tile: longest side of the tiles, ``auto``, or None for whole images.
        overlap: overlap of the tiles in pixels; default: that of ``Restorer``.
        ensemble: whether the mean over the eight orientations is computed.
        precision: precision of the arithmetic.
        device: device such as ``cuda:1``; default: the GPU if there is one.
        batch: number of images of one size that are restored together.
        format: format of the results, such as ``png``; default: that of the image.
        bits: bits per sample of the results, 8 or 16; default: those of the image.
        quality: quality of JPEG and WebP, 1 to 100; default: ``mcir.inference.images.QUALITY``.
        suffix: text that is appended to the names.
        skip_existing: whether results that exist are kept.
        compare: whether comparisons are made.
        gt: folder of the ground truths.
        crop_border: pixels on each side that are not measured; default: the scale, 0 for scale 1.
    """

    inputs: Sequence[str]
    weights: Path
    out: Path = Path("restored")
    opt: Path | None = None
    key: str | None = None
    tile: int | Literal["auto"] | None = "auto"
    overlap: int | None = None
    ensemble: bool = False
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    device: str | None = None
    batch: int = 1
    format: str | None = None
    bits: Literal[8, 16] | None = None
    quality: int | None = None
    suffix: str = ""
    skip_existing: bool = False
    compare: bool = False
    gt: Path | None = None
    crop_border: int | None = None


def check_settings(settings: FolderSettings) -> None:
    """Raise a ``ValueError`` for settings that are invalid or contradict each other."""
    if settings.batch < 1:
        raise ValueError(f"--batch: expected at least 1, got {settings.batch}")
    if settings.quality is not None and not 1 <= settings.quality <= 100:
        raise ValueError(f"--quality: expected 1 to 100, got {settings.quality}")
    if settings.format is not None and f".{settings.format}" not in EXTENSIONS:
        known = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise ValueError(f"--format: expected one of {known}, got {settings.format}")
    if settings.crop_border is not None and settings.gt is None:
        raise ValueError("--crop-border: has no effect without --gt")
    if settings.crop_border is not None and settings.crop_border < 0:
        raise ValueError(f"--crop-border: expected at least 0, got {settings.crop_border}")
