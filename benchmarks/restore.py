"""What restoring pictures takes: memory as they grow, and time a megapixel in tiles and without.

Memory: a process of its own reads a PNG, restores it with a small NAFNet and writes a PNG, all with the defaults; its
peak is what the operating system saw (all of the process, PyTorch's own part included). Targets are for a processor.

Time: processor seconds of one thread, seconds of the device on a GPU; medians of interleaved rounds::

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

from benchmarks.measuring import interleaved, last_number_of, peak_mib, write_report
from mcir.inference import Restorer
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
    """Return a picture of so many megapixels, (H, W, 3), 8 bit: a photograph again and again."""
    side = round((megapixels * 1e6) ** 0.5)
    once = data.astronaut()
    times = -(-side // len(once))
    return np.ascontiguousarray(np.tile(once, (times, times, 1))[:side, :side])


def restore_file(source: Path, device: torch.device) -> None:
    """Read, restore and write a picture, and print the peak memory of the process in megabytes."""
    torch.manual_seed(0)
    restorer = Restorer(ARCHS.build(SMALL), device=device)
    write_picture(source.with_suffix(".out.png"), restorer.pictures([read_picture(source)])[0])
    print(peak_mib(torch.device("cpu")) * 2**20 / 1e6)


def peaks(sizes: list[float], device: torch.device) -> dict[float, float]:
    """Return the peak memory in megabytes for pictures of so many megapixels."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            source = Path(folder) / "source.png"
            cv2.imwrite(str(source), photograph(size)[:, :, ::-1])
            found[size] = last_number_of(__file__, "--file", source, "--device", device)
    return found


def ways(section: dict[str, Any], side: int, tiles: list[int], device: torch.device) -> dict[str, Callable[[], Any]]:
    """Return the ways of restoring a picture that take turns."""
    torch.manual_seed(0)
    net = ARCHS.build(section)
    pixels = photograph((side / 1000) ** 2)
    restorers = {"whole": Restorer(net, device=device, tile=None), "auto": Restorer(net, device=device)}
    restorers |= {f"tile {tile}": Restorer(net, device=device, tile=tile) for tile in tiles}
    restorers["whole, bf16"] = Restorer(net, device=device, tile=None, precision="bf16")
    restorers["whole, ensemble"] = Restorer(net, device=device, tile=None, ensemble=True)
    return {name: partial(restorer.array, pixels) for name, restorer in restorers.items()}


def main() -> None:
    """Measure, print tables and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[1, 10, 100], help="whose peak is measured")
    parser.add_argument("--side", type=int, default=768, help="side of the picture that is timed (default: 768)")
    parser.add_argument("--tiles", type=int, nargs="*", default=[256, 384, 512], help="tiles that are timed")
    parser.add_argument("--networks", nargs="*", default=list(TIMED), choices=list(TIMED), help="which are timed")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
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
        calls = ways(TIMED[name], arguments.side, arguments.tiles, device)
        measured = interleaved(calls, arguments.rounds, device)
        times[name] = {way: statistics.median(each) / (arguments.side / 1000) ** 2 for way, each in measured.items()}
    if times:
        table = Table("", *times, title=f"Seconds a megapixel, {arguments.side}×{arguments.side}")
        for way in next(iter(times.values())):
            table.add_row(way, *(f"{of_network[way]:.2f}" for of_network in times.values()))
        console.print(table)
    write_report(arguments.json, {"peak_mb": memory, "seconds_per_megapixel": times, "side": arguments.side}, device)


if __name__ == "__main__":
    main()
