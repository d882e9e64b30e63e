"""Measure the memory of restoring images of different sizes, and the time per megapixel with and without tiles.

Memory: a separate process reads a PNG, restores it with a small NAFNet and writes a PNG, with default settings. The
result is the peak of the whole process, including PyTorch, as the operating system reports it. Targets are for a CPU.

Time: processor seconds of one thread, or seconds of the GPU; medians of interleaved rounds::

    python benchmarks/restore.py --megapixels 1 10 100 --json restore.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from skimage import data

from benchmarks.measuring import interleaved, peak_mib, run_and_read_number, write_report
from mcir.inference import Restorer, restore
from mcir.inference.images import read_picture, write_picture
from mcir.registry import ARCHS

TARGET_MB = {100: 2000}
SMALL = {"type": "NAFNet", "width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
TIMED: dict[str, dict[str, Any]] = {
    "NAFNet": {"type": "NAFNet", "width": 32, "enc_blk_nums": [1, 1, 1, 4]},
    "EDSR ×2": {"type": "EDSR", "upscale": 2},
    "SwinIR-light ×2": {
        "type": "SwinIR",
        "embed_dim": 60,
        "mlp_ratio": 2,
        "upscale": 2,
        "upsampler": "pixelshuffledirect",
    },
}


def photograph(megapixels: float) -> np.ndarray[Any, Any]:
    """Return an 8-bit image (H, W, 3) with a number of megapixels, made by repeating a photograph."""
    side = round((megapixels * 1e6) ** 0.5)
    photo = data.astronaut()
    count = -(-side // len(photo))
    return np.ascontiguousarray(np.tile(photo, (count, count, 1))[:side, :side])


def restore_file(source: Path, device: torch.device) -> None:
    """Read, restore and write an image, and print the peak memory of the process in megabytes."""
    torch.manual_seed(0)
    restorer = Restorer(ARCHS.build(SMALL), device=device)
    write_picture(source.with_suffix(".out.png"), restorer.pictures([read_picture(source)])[0])
    print(peak_mib(torch.device("cpu")) * 2**20 / 1e6)


def peaks(sizes: list[float], device: torch.device) -> dict[float, float]:
    """Return the peak memory in megabytes for images of these sizes in megapixels."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            source = Path(folder) / "source.png"
            cv2.imwrite(str(source), photograph(size)[:, :, ::-1])
            found[size] = run_and_read_number(__file__, "--file", source, "--device", device)
    return found


def variants(
    section: dict[str, Any], side: int, tiles: list[int], device: torch.device
) -> dict[str, Callable[[], Any]]:
    """Return functions that restore an image, by the name of their settings."""
    torch.manual_seed(0)
    net = ARCHS.build(section)
    pixels = photograph((side / 1000) ** 2)
    restorers = {"whole": Restorer(net, device=device, tile=None), "auto": Restorer(net, device=device)}
    restorers |= {f"tile {tile}": Restorer(net, device=device, tile=tile) for tile in tiles}
    restorers["whole, bf16"] = Restorer(net, device=device, tile=None, precision="bf16")
    restorers["whole, ensemble"] = Restorer(net, device=device, tile=None, ensemble=True)
    return {name: partial(restore, pixels, restorer) for name, restorer in restorers.items()}


def main() -> None:
    """Measure, print tables and write a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--megapixels", type=float, nargs="*", default=[1, 10, 100], help="image sizes for the measurement of memory"
    )
    parser.add_argument("--side", type=int, default=768, help="side of the image that is timed (default: 768)")
    parser.add_argument(
        "--tiles", type=int, nargs="*", default=[256, 384, 512], help="sides of the tiles that are timed"
    )
    parser.add_argument(
        "--networks", nargs="*", default=list(TIMED), choices=list(TIMED), help="networks that are timed"
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)
    if arguments.file:
        restore_file(arguments.file, device)
        return
    console = Console(width=120)
    memory = peaks(arguments.megapixels, device)
    if memory:
        table = Table("megapixels", "peak, MB", "target", title="A PNG read, restored (NAFNet, width 8) and written")
        for size, peak in memory.items():
            table.add_row(f"{size:g}", f"{peak:.0f}", f"≤ {TARGET_MB[int(size)]}" if size in TARGET_MB else "")
        console.print(table)

    times: dict[str, dict[str, float]] = {}
    for name in arguments.networks:
        calls = variants(TIMED[name], arguments.side, arguments.tiles, device)
        measured = interleaved(calls, arguments.rounds, device)
        times[name] = {
            variant: statistics.median(values) / (arguments.side / 1000) ** 2 for variant, values in measured.items()
        }
    if times:
        table = Table("", *times, title=f"Seconds per megapixel, {arguments.side}×{arguments.side}")
        for name in next(iter(times.values())):
            table.add_row(name, *(f"{seconds[name]:.2f}" for seconds in times.values()))
        console.print(table)
    write_report(arguments.json, {"peak_mb": memory, "seconds_per_megapixel": times, "side": arguments.side}, device)


if __name__ == "__main__":
    main()
