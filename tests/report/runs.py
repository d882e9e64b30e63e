"""Folders as trainings leave them, made up: a page must tell of each what is there and what is not."""

import json

import torch

from mcir.report import progress
from mcir.report.comparison import comparison

NASTY = "<script>alert(1)</script> & \"x\" 'y'"
START = {"started": "2026-11-21 12:00:00+00:00", "total_iter": 400, "torch": "2.15", "processes": 1, "device": "cpu"}


def train_line(iteration, **values):
    told = {"l_pix": 1 / iteration, "lr": 1e-3, "grad_norm": 0.5, "images_per_s": 40.0, "data_time": 0.01}
    return {"kind": "train", "iteration": iteration, **told, "memory_mib": 900.0, **values}


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
    """A picture side by side whose input is black, whose ground truth is white, and whose output is in between."""
    black = torch.zeros(3, side, side)
    return comparison(black, black + level, black + 1, ("a", "b"))


def leave_run(folder, until=400, image="cat", data_set="photographs", gain=0.0, **start):
    """Leave what a training of 400 iterations, watched each hundred, has left when it is at ``until``."""
    folder.mkdir(parents=True)
    records = []
    for iteration in range(10, until + 1, 10):
        records.append(train_line(iteration))
        if iteration % 100 == 0:
            records.append(val_line(iteration, 29 + iteration / 100 + gain, data_set, image))
            progress.keep(folder, data_set, image, iteration, compared(iteration / 500))
    (folder / "results.jsonl").write_text(as_lines(records))
    (folder / "environment.jsonl").write_text(as_lines([{**START, "iteration": 0, **start}]))
    (folder / "options.yml").write_text(f"name: {folder.name}\ntrain:\n  total_iter: 400\n")
    return folder
