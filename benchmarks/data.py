"""How many training crops a second one processor prepares from PNG files, an encoded and a raw LMDB data base.

Pairs of 480-pixel sub-images (of the bundled photographs) and their ×4 bicubic images, from which crops of 192 and 48
pixels are cut with flips. Measured in processor time of all processes, per item and through the loader with one worker
(as batches of uint8), in interleaved rounds, of which the medians are shown::

    python benchmarks/data.py --json data.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
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
from mcir.data.transforms import in_color

TARGETS = {"item": 50.0, "loader": 20.0}


def make_sets(root: Path) -> dict[str, PairedImageDataset]:
    """Write the sub-images three times and open them."""
    photos = photographs(TRAIN)
    for key in photos.keys():  # noqa: SIM118
        image = in_color(photos.read(key), "rgb")
        if min(image.shape[:2]) >= 480:
            write_atomically((root / "photos" / key).with_suffix(".png"), encode_png(image))
    extract_subimages(root / "photos", root / "gt", size=480, step=240)
    create_lr(root / "gt", root / "lq", scale=4)
    roots = {"PNG folder": ("gt", "lq")}
    for codec in ("encoded", "raw"):
        for name in ("gt", "lq"):
            create_lmdb(root / name, root / f"{name}_{codec}.lmdb", codec)
        roots[f"{codec} LMDB"] = (f"gt_{codec}.lmdb", f"lq_{codec}.lmdb")
    return {
        label: PairedImageDataset(str(root / gt), str(root / lq), scale=4, gt_size=192, use_hflip=True, use_rot=True)
        for label, (gt, lq) in roots.items()
    }


def seconds_per_item(dataset: PairedImageDataset, items: int, first: int) -> float:
    """Return the processor time of one item in this process."""
    began = time.process_time()
    for position in range(first, first + items):
        dataset[SampleIndex(position % len(dataset), position, 0)]
    return (time.process_time() - began) / items


class Loader:
    """An endless loader with one worker, and the processor time that it and its worker have used."""

    def __init__(self, dataset: PairedImageDataset, batch_size: int) -> None:
        self.batch_size = batch_size
        loader = training_loader(dataset, batch_size=batch_size, num_workers=1, seed=0)
        self._batches = iter(loader)
        next(self._batches)
        self._worker = self._batches._workers[0].pid  # type: ignore[attr-defined]

    def _clock(self) -> float:
        worker = time.clock_gettime((~self._worker << 3) | 2)  # Linux: the processor clock of another process
        return worker + time.process_time()

    def seconds_per_item(self, batches: int) -> float:
        """Return the processor time of one item, from the data set to the batch in this process."""
        began = self._clock()
        for _ in islice(self._batches, batches):
            pass
        return (self._clock() - began) / (batches * self.batch_size)


def measure(sets: dict[str, PairedImageDataset], rounds: int, batch_size: int) -> dict[str, dict[str, float]]:
    """Return the median items per second of processor time, by set and by way."""
    amounts = {label: (2000, 100) if "raw" in label else (40, 12) for label in sets}
    times: dict[str, dict[str, list[float]]] = {label: {"item": [], "loader": []} for label in sets}
    for dataset in sets.values():
        seconds_per_item(dataset, len(dataset), 0)
        loader = Loader(dataset, batch_size)
        loader.seconds_per_item(8)  # what was prefetched in advance
        del loader
    for round_ in range(rounds):
        for label, dataset in sets.items():
            items, batches = amounts[label]
            times[label]["item"].append(seconds_per_item(dataset, items, round_ * items))
            loader = Loader(dataset, batch_size)
            loader.seconds_per_item(8)
            times[label]["loader"].append(loader.seconds_per_item(batches))
            del loader
    return {
        label: {way: 1 / statistics.median(values) for way, values in ways.items()} for label, ways in times.items()
    }


def main() -> None:
    """Measure, print a table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="samples of a batch (default: 16)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        sets = make_sets(Path(folder))
        count = len(sets["PNG folder"])
        rates = measure(sets, arguments.rounds, arguments.batch_size)
    base = rates["PNG folder"]
    table = Table(title=f"Pairs of crops (48 → 192) a second of processor time, {count} pairs of sub-images")
    for heading in ("source", "per item", "× PNG", "through the loader", "× PNG"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for label, rate in rates.items():
        table.add_row(
            label,
            f"{rate['item']:,.0f}",
            f"{rate['item'] / base['item']:.1f}",
            f"{rate['loader']:,.0f}",
            f"{rate['loader'] / base['loader']:.1f}",
        )
    Console().print(table)
    ratios = {way: rates["raw LMDB"][way] / base[way] for way in TARGETS}
    for way, target in TARGETS.items():
        verdict = "reached" if ratios[way] >= target else "missed"
        print(f"raw LMDB, {way}: {ratios[way]:.1f} × PNG folder; target {target:g} ×: {verdict}")
    if arguments.json:
        report = {
            "pairs": count,
            "rounds": arguments.rounds,
            "batch_size": arguments.batch_size,
            "items_per_cpu_second": rates,
            "raw_over_png": ratios,
            "targets": TARGETS,
            "machine": platform.platform(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
