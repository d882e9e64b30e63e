"""A disk that becomes full at any point: one readable error, and no file is half-written.

A limit on the size of files stands for the disk; it fails like one, in the middle of a write.
"""

import functools
import resource
import shutil
from pathlib import Path

import pytest

import mcir.config
from mcir.cli.options import Schema
from mcir.data.prepare import create_lmdb, create_lr, extract_subimages
from mcir.data.split import create_split
from mcir.report.progress import store_images
from mcir.report.run import write_report
from tests.data.images import noise, save
from tests.report.runs import compared, write_run
from tests.trust.campaign import Campaign

SOME_LIMITS = (0, 700, 9000)
LIMITS = (*SOME_LIMITS, 10, 100, 2000, 5000, 40_000, 100_000)
WRITERS = {
    "subimages": lambda source, out: extract_subimages(source, out, 16, 16),
    "lr": lambda source, out: create_lr(source, out, 2),
    "lmdb": lambda source, out: create_lmdb(source, out, "raw"),
    "split": lambda source, out: create_split(source, out, val=1),
    "schema": lambda source, out: Schema(file=out / "schema.json").run(),
    "report": lambda source, out: write_report([source.parent / "run"], out / "report.html"),
    "progress": lambda source, out: store_images(out, "val", "a", 5, compared(0.5)),
}


@pytest.mark.parametrize("limits", [SOME_LIMITS, pytest.param(LIMITS, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk(writer, limits, tmp_path, monkeypatch):
    for index in range(3):
        save(tmp_path / "in" / f"{index}.png", noise(48, 48, seed=index))
    write_run(tmp_path / "run", until=100)
    monkeypatch.setattr("mcir.config.json_schema", functools.cache(mcir.config.json_schema))  # it is slow
    write, source = WRITERS[writer], tmp_path / "in"
    write(source, tmp_path / "right")
    right = contents(tmp_path / "right")

    def write_with(limit, out):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(OSError, match="No space left"):
            write(source, out)
            assert contents(out) == right  # it fits
            raise OSError("No space left")
        return contents(out).items() <= right.items()

    campaign = Campaign(f"full disk, {writer}", seed="limits")
    for limit in limits:
        out = tmp_path / f"out{limit}"
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
            campaign.attempt_in_process(f"limit {limit}", lambda: write_with(limit, out))  # noqa: B023
        write(source, out)
        campaign.attempt(f"again after limit {limit}", lambda: contents(out) == right)  # noqa: B023
    campaign.finish()


def contents(folder: Path):
    """Return the files in a folder with their content; an incomplete database has none."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    read = {name: (folder / name).read_bytes() for name in names}
    read.pop(".lock", None)
    if "mcir_lmdb.json" not in read:
        read.pop("data.mdb", None)
    logs = {name: read[name] for name in read if name.endswith(".jsonl")}
    return {**read, **dict.fromkeys(logs, b""), "data.mdb": read.get("data.mdb", b"")[:0]}
