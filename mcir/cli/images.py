"""Commands that use trained networks: restore, compare, export, inspect and demo."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcir.arguments import option, positional
from mcir.paths import UserPath
from mcir.terminal import show


def _tile(text: str) -> int | str | None:
    if text.isdecimal():
        return int(text)
    if text not in ("auto", "none"):
        raise argparse.ArgumentTypeError(f"expected a number of pixels, auto or none, got '{text}'")
    return None if text == "none" else text


_TILE = "side of the tiles in pixels; auto: as memory requires; none: no tiles"
_INPUTS = "files, folders (with subfolders) and patterns like 'a/**/*.jpg'"
_NETWORK_FILE = "option file whose network_g replaces the architecture in the weight file; its imports are run"
_KEY = "entry of the weight file, like params (default: the moving average, if there is one)"
_WEIGHTS = "weight file (.pth or .safetensors) of mcir or of an official release"
_CROP_BORDER = "border in pixels that PSNR and SSIM ignore (default: the scale, 0 for ×1)"
_DEVICE = "cpu, cuda, cuda:N or mps (default: a GPU if there is one)"


@dataclass(kw_only=True)
class Restore:
    """Restore images with a trained network."""

    inputs: list[UserPath] = positional(_INPUTS, metavar="INPUT")
    weights: Path = option(_WEIGHTS, "-w", "--weights", required=True, metavar="CHECKPOINT")
    out: Path = option("output folder, or output file for a single input file", "-o", "--out", default=Path("restored"))
    opt: Path | None = option(_NETWORK_FILE, "-opt", metavar="FILE")
    key: str | None = option(_KEY)
    tile: Any = option(_TILE, default="auto", parse=_tile)
    overlap: int | None = option("pixels that neighbouring tiles share, at most half a tile (default: 64)")
    ensemble: bool = option("average the results for the eight flipped and rotated versions of an image", default=False)
    half: bool = option("compute in fp16, which is faster on a GPU", group="precision", default=False)
    bf16: bool = option("compute in bf16, which is faster on a GPU", group="precision", default=False)
    device: str | None = option(_DEVICE)
    batch: int = option("number of images of the same size that are restored together", default=1)
    format: str | None = option("format of the results: png, jpg, tif, webp … (default: that of the input)")
    bits: Literal[8, 16] | None = option("bit depth of the results (default: that of the input)")
    quality: int | None = option("quality of JPEG and WebP, 1 to 100 (default: 95)")
    suffix: str = option("text to append to the name of each result", default="", metavar="TEXT")
    skip_existing: bool = option("skip images whose results exist, for example to resume", default=False)
    compare: bool = option("also write side-by-side images to OUT/comparisons", default=False)
    gt: Path | None = option(
        "folder of ground truths; PSNR and SSIM are written to OUT/metrics.json and .csv", metavar="DIR"
    )
    crop_border: int | None = option(_CROP_BORDER, metavar="N")

    def run(self) -> int:
        """Restore the images."""
        from mcir.engine.loggers import log_to_console
        from mcir.inference.batch import FolderSettings, restore_folder

        log_to_console()
        settings = {key: value for key, value in vars(self).items() if key not in ("half", "bf16")}
        precision: Literal["fp16", "bf16", "fp32"] = "fp16" if self.half else "bf16" if self.bf16 else "fp32"
        return restore_folder(FolderSettings(**settings, precision=precision))


@dataclass(kw_only=True)
class Compare:
    """Compare two trained networks on images: crops, errors, differences, PSNR and SSIM on one page."""

    first: str = positional(_WEIGHTS + "; NAME=FILE to set its name", metavar="A")
    second: str = positional("weight file of another network", metavar="B")
    inputs: list[UserPath] = positional(_INPUTS, metavar="IMAGE")
    gt: Path | None = option("folder of ground truths, for errors, PSNR and SSIM", metavar="DIR")
    out: Path = option(
        "page; the numbers are written next to it as JSON", "-o", "--out", default=Path("comparison.html")
    )
    pictures: int = option("maximum number of images on the page, those that differ most", default=20, metavar="N")
    crop_border: int | None = option(_CROP_BORDER, metavar="N")
    key: str | None = option("entry of both weight files, like params (default: the moving average, if there is one)")
    tile: Any = option(_TILE, default="auto", parse=_tile)
    device: str | None = option(_DEVICE)

    def run(self) -> int:
        """Compare the networks."""
        from mcir.engine.loggers import log_to_console
        from mcir.inference.compare import compare

        log_to_console()
        return compare(**vars(self))


@dataclass(kw_only=True)
class Export:
    """Write a checkpoint as ONNX, TorchScript, safetensors or an archive of torch.export."""

    checkpoint: Path = positional(_WEIGHTS)
    onnx: bool = option("write ONNX, for images of any size", default=False)
    safetensors: bool = option("write safetensors, with the name and arguments of the network", default=False)
    torchscript: bool = option("write TorchScript (.pt), for C++ and older programs", default=False)
    torch_export: bool = option("write an archive of torch.export (.pt2)", default=False)
    output: Path | None = option("file or folder (default: the folder of the checkpoint)", "-o", "--output")
    opt: Path | None = option(_NETWORK_FILE, "-opt", metavar="FILE")
    key: str | None = option(_KEY)
    opset: int | None = option("ONNX opset version (default: 18, which most runtimes support)")
    check: bool = option("do not compare the exported network with the original", "--no-check", default=True)
    overwrite: bool = option("replace existing files", default=False)

    def run(self) -> int:
        """Write the files."""
        from mcir.inference.export import export

        settings = dict(vars(self))
        formats = ("onnx", "safetensors", "torchscript", "torch_export")
        chosen = [name.replace("_", "-") for name in formats if settings.pop(name)]
        for written in export(**settings, formats=chosen):
            error = (
                "" if written.difference is None else f", maximum difference from the network {written.difference:.1e}"
            )
            show(f"{written.file}: {written.file.stat().st_size / 2**20:.1f} MiB{error}")
        return 0


@dataclass(kw_only=True)
class Inspect:
    """Print the architecture of a weight file."""

    file: Path = positional(_WEIGHTS)
    key: str | None = option(_KEY)

    def run(self) -> int:
        """Print the description."""
        from mcir.inference.inspection import inspect_weights

        lines, is_complete = inspect_weights(self.file, self.key)
        show("\n".join(lines))
        return 0 if is_complete else 1


@dataclass(kw_only=True)
class Demo:
    """Start a web page that restores images with trained networks."""

    checkpoints: list[str] = positional(
        "weight file (.pth or .safetensors), or NAME=FILE to set its name", metavar="CHECKPOINT"
    )
    host: str | None = option("address to listen on, like 0.0.0.0 for all (default: this machine only)")
    port: int | None = option("port to listen on (default: 7860, or the next free port)")
    max_megapixels: float = option("maximum size of a restored image, in megapixels", default=8.0)
    max_size: float = option("maximum size of an uploaded file, in megabytes", default=20.0)
    queue: int = option("maximum number of waiting visitors", default=16)
    device: str | None = option(_DEVICE)
    tile: Any = option(_TILE, default="auto", parse=_tile)

    def run(self) -> int:
        """Serve the page until it is stopped."""
        from mcir.engine.loggers import log_to_console
        from mcir.inference.demo import demo

        log_to_console()
        return demo(**vars(self))
