"""Synthetic folders of trainings."""

import json

import torch

from mcir.report import progress
from mcir.report.comparison import comparison

NASTY = "<script>alert(1)</script> & \"x\" 'y'"
START = {"started": "2026-11-21 12:00:00+00:00", "total_iter": 400, "torch": "2.15", "processes": 1, "device": "cpu"}


def train_line(iteration, **values):
    defaults = {"l_pix": 1 / iteration, "lr": 1e-3, "grad_norm": 0.5, "images_per_s": 40.0, "data_time": 0.01}
    return {"kind": "train", "iteration": iteration, **defaults, "memory_mib": 900.0, **values}


def val_line(iteration, psnr, data_set="photographs", image="cat"):
    return {
        "kind": "val",
        "iteration": iteration,
        "dataset": data_set,
        "psnr": psnr,
        "ssim": 0.9,
        "given": "bicubic",
        "of_input": {"psnr": 30.0, "ssim": 0.85},
        "unit": {"psnr": "dB", "ssim": ""},
        "higher_is_better": {"psnr": True, "ssim": True},
        "images": {"psnr": {image: psnr + 1}, "ssim": {image: 0.91}},
    }


def as_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def compared(level, side=40):
    """Return a comparison with a black input, a white ground truth, and an output in between."""
    black = torch.zeros(3, side, side)
    return comparison(black, black + level, black + 1, ("a", "b"))


def write_run(folder, until=400, image="cat", data_set="photographs", gain=0.0, **start):
    """Write the files of a training of 400 iterations at iteration ``until``. It is evaluated every 100 iterations."""
    folder.mkdir(parents=True)
    records = []
    for iteration in range(10, until + 1, 10):
        records.append(train_line(iteration))
        if iteration % 100 == 0:
            records.append(val_line(iteration, 29 + iteration / 100 + gain, data_set, image))
            progress.store_images(folder, data_set, image, iteration, compared(iteration / 500))
    (folder / "results.jsonl").write_text(as_lines(records))
    (folder / "environment.jsonl").write_text(as_lines([{**START, "iteration": 0, **start}]))
    (folder / "options.yml").write_text(f"name: {folder.name}\ntrain:\n  total_iter: 400\n")
    return folder
