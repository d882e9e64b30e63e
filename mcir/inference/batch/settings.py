"""Settings of ``mcir restore``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcir.data.listing import EXTENSIONS


@dataclass(frozen=True)
class FolderSettings:
    """Settings of ``mcir restore``.

    Attributes:
        inputs: files, folders and patterns.
        weights: checkpoint.
        out: output folder, or output file for a single input file.
        opt: option file whose network is built; default: the network of the checkpoint.
        key: entry of the checkpoint with the weights, such as ``params``.
        tile: longest side of the tiles, ``auto``, or None for whole images.
        overlap: overlap of the tiles in pixels; default: that of ``Restorer``.
        ensemble: whether the mean over the eight orientations is computed.
        precision: precision of the arithmetic.
        device: device such as ``cuda:1``; default: a GPU if there is one.
        batch: number of images of one size that are restored together.
        format: format of the results, such as ``png``; default: that of the image.
        bits: bits per sample of the results, 8 or 16; default: those of the image.
        quality: quality of JPEG and WebP, 1 to 100; default: ``mcir.inference.images.QUALITY``.
        suffix: text that is appended to the names.
        skip_existing: whether existing results are kept.
        compare: whether comparisons are made.
        gt: folder of the ground truths.
        crop_border: pixels on each side that are not measured; default: the scale, 0 for scale 1.

    Raises:
        ValueError: a setting is out of range or has no effect.
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

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"--batch: expected at least 1, got {self.batch}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"--quality: expected 1 to 100, got {self.quality}")
        if self.format is not None and f".{self.format}" not in EXTENSIONS:
            known = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
            raise ValueError(f"--format: expected one of {known}, got {self.format}")
        if self.crop_border is not None and self.gt is None:
            raise ValueError("--crop-border has no effect without --gt")
        if self.crop_border is not None and self.crop_border < 0:
            raise ValueError(f"--crop-border: expected at least 0, got {self.crop_border}")
