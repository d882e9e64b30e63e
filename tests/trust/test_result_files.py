"""Flipped bits in the files of results: a damaged number is never read as a result."""

import math
import random

import cv2
import pytest

from mcir.checked_json import append_record, checked_line, checked_text, read_records
from mcir.report.progress import store_images
from mcir.report.records import read_collapse, read_run
from mcir.tables.cache import RunCache
from tests.report.runs import START, compared, train_line, val_line
from tests.trust.campaign import Campaign

SEED = 20262


@pytest.fixture
def folder(tmp_path):
    """A folder with all files of records that mcir writes and reads again."""
    for iteration in range(10, 130, 10):
        append_record(tmp_path / "results.jsonl", train_line(iteration, l_neg=math.inf))
        if iteration % 40 == 0:
            append_record(tmp_path / "results.jsonl", val_line(iteration, 29 + iteration / 100))
    for iteration in (0, 50):
        append_record(
            tmp_path / "environment.jsonl", {**START, "iteration": iteration, "changes": ["-lr: 1", "+lr: 2"]}
        )
    (tmp_path / "collapse.json").write_bytes(checked_line({"iteration": 7, "scalars": ["l_pix"], "options": "a: 1\n"}))
    (tmp_path / "options.yml").write_bytes(checked_text("name: run\ntrain:\n  total_iter: 400\n"))
    for iteration in (40, 80):
        store_images(tmp_path, "photographs", "cat", iteration, compared(iteration / 200, side=24))
    cache = RunCache(tmp_path / "evaluated.jsonl")
    for number in range(3):
        cache.add({"fingerprint": f"{number:016x}", "set": "Set5", "scores": {"psnr": {"mean": 31.4 + number}}})
    return tmp_path


def facts(folder):
    """Return every value that is read from the files."""
    run = read_run(folder)
    found = {(name, point) for name, points in run.scalars.items() for point in points}
    for data_set, metrics in run.metrics.items():
        for name, metric in metrics.items():
            about = (data_set, name, metric.baseline, metric.baseline_value, metric.unit, metric.higher_is_better)
            found |= {(*about, point) for point in metric.points}
            found |= {(*about, at, str(images)) for at, images in metric.images.items()}
    found |= {str(start) for start in run.starts}
    found |= {run.options} if not any("options.yml" in text for text in run.missing) else set()
    for history in run.pictures.get("photographs", {}).values():
        shown = {"input": history.input, "gt": history.gt, **history.outputs}
        found |= {(at, cv2.imread(str(file)).tobytes()) for at, file in shown.items() if file}
    found |= {str(record) for record in RunCache(folder / "evaluated.jsonl").records.values()}
    return found | {str(read_collapse(folder))}


@pytest.mark.parametrize("count", [300, pytest.param(4000, marks=pytest.mark.slow)])
def test_flipped_bits(folder, count):
    campaign = Campaign("flipped bits in files of results", SEED)
    choose = random.Random(SEED)
    right = facts(folder) | {"None"}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert {file.suffix for file in files} == {".json", ".jsonl", ".yml", ".jpg"}
    for number in range(count):
        file = choose.choice(files)
        data = file.read_bytes()
        position, bit = choose.randrange(len(data)), choose.randrange(8)
        file.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
        campaign.attempt(f"{number}: {file.name}, bit {bit} of byte {position}", lambda: facts(folder) <= right)
        if file.suffix in (".json", ".jsonl"):
            assert read_records(file).problem or position == len(data) - 1  # the last line break is not needed
        file.write_bytes(data)
    campaign.finish()
