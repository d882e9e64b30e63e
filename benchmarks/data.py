"""Measure how many training crops one CPU core prepares per second from PNG files, encoded and raw LMDB databases.

The data are pairs of 480-pixel sub-images (of the bundled photographs) and their ×4 bicubic images, from which crops of
192 and 48 pixels are taken with flips. The rates are per second of processor time of all processes: for single items,
and for batches of uint8 images through the loader with one worker. Rounds are interleaved; medians are shown::

    python benchmarks/data.py --json data.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import psutil
import torch
from rich.console import Console
from rich.table import Table

from mcir.atomic import write_atomically
from mcir.data.bundled import TRAIN, photographs
from mcir.data.codec import encode_png
from mcir.data.loader import training_loader
from mcir.data.paired import PairedImageDataset
from mcir.data.prepare import create_lmdb, create_lr, extract_subimages
from mcir.data.sampler import SampleIndex
from mcir.data.transforms import convert_color


def make_datasets(root: Path) -> dict[str, PairedImageDataset]:
    """Write the sub-images in three formats and open them."""
    photos = photographs(TRAIN)
    for key in photos.keys():  # noqa: SIM118
        image = convert_color(photos.read(key), "rgb")
        if min(image.shape[:2]) >= 480:
            write_atomically((root / "photos" / key).with_suffix(".png"), encode_png(image))
    extract_subimages(root / "photos", root / "gt", size=480, step=240)
    create_lr(root / "gt", root / "lq", scale=4)
    roots = {"PNG folder": ("gt", "lq")}
    for codec in ("encoded", "raw"):
        for name in ("gt", "lq"):
            create_lmdb(root / name, root / f"{name}_{codec}.lmdb", codec)
        roots[f"LMDB, {codec}"] = (f"gt_{codec}.lmdb", f"lq_{codec}.lmdb")
    return {
        label: PairedImageDataset(str(root / gt), str(root / lq), scale=4, gt_size=192, use_hflip=True, use_rot=True)
        for label, (gt, lq) in roots.items()
    }


def cpu_seconds(function: Callable[[], object]) -> float:
    """Return the processor time that a function call takes in this process and its children."""

    def total() -> float:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    start = total()
    function()
    return total() - start


def item_rate(dataset: PairedImageDataset, count: int, first: int) -> float:
    """Return the number of single items per second of processor time."""
    samples = [SampleIndex(index % len(dataset), index, 0) for index in range(first, first + count)]
    return count / cpu_seconds(lambda: deque((dataset[sample] for sample in samples), maxlen=0))


def loader_rate(dataset: PairedImageDataset, count: int, batch_size: int) -> float:
    """Return the number of items per second of processor time through a loader with one worker."""
    batches = iter(training_loader(dataset, batch_size=batch_size, num_workers=1, seed=0))
    list(islice(batches, 8))  # skip prefetched batches
    steps = max(1, count // batch_size)
    return steps * batch_size / cpu_seconds(lambda: deque(islice(batches, steps), maxlen=0))


def measure(datasets: dict[str, PairedImageDataset], rounds: int, batch_size: int) -> dict[str, dict[str, float]]:
    """Return the median rates by data set and kind (``item`` or ``loader``)."""
    rates: dict[str, dict[str, list[float]]] = {label: {"item": [], "loader": []} for label in datasets}
    for number in range(rounds + 1):  # the first round fills caches
        for label, dataset in datasets.items():
            count = 16_000 if "raw" in label else 400
            measured = item_rate(dataset, count, number * count), loader_rate(dataset, count, batch_size)
            if number:
                rates[label]["item"].append(measured[0])
                rates[label]["loader"].append(measured[1])
    return {
        label: {kind: statistics.median(values) for kind, values in kinds.items()} for label, kinds in rates.items()
    }


def main() -> None:
    """Measure, print a table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="samples per batch (default: 16)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        datasets = make_datasets(Path(folder))
        count = len(datasets["PNG folder"])
        rates = measure(datasets, arguments.rounds, arguments.batch_size)
    base = rates["PNG folder"]
    table = Table(title=f"Pairs of crops (48 → 192) per second of processor time, {count} pairs of sub-images")
    for heading in ("source", "single items", "× PNG", "loader", "× PNG"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for label, rate in rates.items():
        cells = [(f"{rate[kind]:,.0f}", f"{rate[kind] / base[kind]:.1f}") for kind in ("item", "loader")]
        table.add_row(label, *cells[0], *cells[1])
    Console().print(table)
    if arguments.json:
        report = {
            "pairs": count,
            "rounds": arguments.rounds,
            "batch_size": arguments.batch_size,
            "items_per_cpu_second": rates,
            "machine": platform.platform(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
