"""Tests of writing databases: growth, interruptions, changes of the source."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zlib

import lmdb
import numpy as np
import pytest

from mcir.data.codec import info_of
from mcir.data.errors import DataError
from mcir.data.lmdb_store import ImageRecord, LmdbStore
from mcir.data.lmdb_writer import LmdbWriter
from mcir.data.prepare import create_lmdb
from mcir.data.storage import Folder
from mcir.errors import ArgumentError
from tests.data.images import noise, save
from tests.processes import in_child


def put(writer, key, image):
    data = image.tobytes()
    writer.put(key, data, ImageRecord(info_of(image), zlib.crc32(data), len(data), 0))


def test_the_map_grows_automatically(tmp_path):
    images = {f"{index:02d}.png": noise(100, 100, seed=index) for index in range(40)}
    with LmdbWriter(tmp_path / "x.lmdb", "raw", map_size=1 << 16) as writer:
        for key, image in images.items():
            put(writer, key, image)
        put(writer, "large.png", noise(900, 900))
        writer.complete()
    store = LmdbStore(tmp_path / "x.lmdb")
    assert len(store.keys()) == 41
    assert all(np.array_equal(store.read(key), image) for key, image in images.items())
    assert (tmp_path / "x.lmdb" / "data.mdb").stat().st_size > 50 * (1 << 16)


def test_the_summary_describes_the_database(tmp_path):
    with LmdbWriter(tmp_path / "x.lmdb", "raw") as writer:
        put(writer, "a", noise(10, 12))
        put(writer, "b", noise(10, 12, 1, np.uint16))
        checksum = writer.complete()
    summary = json.loads((tmp_path / "x.lmdb" / "mcir_lmdb.json").read_text())
    assert summary["images"] == 2 and summary["codec"] == "raw" and summary["complete"]
    assert summary["shapes"] == {"10x12x1": 1, "10x12x3": 1}
    assert summary["checksum"] == checksum == LmdbStore(tmp_path / "x.lmdb").summary["checksum"]


def test_the_checksum_depends_on_every_key_and_image(tmp_path):
    def checksum(name, images):
        with LmdbWriter(tmp_path / name, "raw") as writer:
            for key, image in images:
                put(writer, key, image)
            return writer.complete()

    a, b = noise(4, 4), noise(4, 4, seed=1)
    base = checksum("1", [("a", a), ("b", b)])
    assert checksum("2", [("b", b), ("a", a)]) == base
    others = [checksum("3", [("a", a)]), checksum("4", [("a", a), ("c", b)]), checksum("5", [("a", b), ("b", a)])]
    assert len({base, *others}) == 4


def test_an_incomplete_database_is_not_readable(tmp_path):
    with LmdbWriter(tmp_path / "x.lmdb", "raw") as writer:
        put(writer, "a", noise(4, 4))
    with pytest.raises(DataError, match="interrupted"):
        LmdbStore(tmp_path / "x.lmdb")


def test_other_files_and_databases_are_not_overwritten(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not a database"):
        LmdbWriter(tmp_path / "x", "raw")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["mine.txt"]
    with lmdb.open(str(tmp_path / "y")) as env, env.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    with pytest.raises(DataError, match="was not written by mcir"):
        LmdbWriter(tmp_path / "y", "raw")
    with LmdbWriter(tmp_path / "z", "raw"):
        pass
    with pytest.raises(DataError, match="codec 'encoded', got 'raw'"):
        LmdbWriter(tmp_path / "z", "encoded")
    with pytest.raises(ArgumentError, match="codec: expected one of 'encoded', 'raw', got 'zip'"):
        LmdbWriter(tmp_path / "w", "zip")


SLOW_WRITER = """
import sys, time
import mcir.data.lmdb_writer as writer_module
from mcir.data.prepare import create_lmdb
writer_module._BATCH_IMAGES = 2
create_lmdb(sys.argv[1], sys.argv[2], "raw", progress=lambda done, total: (print(done, flush=True), time.sleep(0.05)))
"""


def test_a_killed_writer_resumes(tmp_path):
    for index in range(24):
        save(tmp_path / "in" / f"{index:02d}.png", noise(40, 40, seed=index))
    create_lmdb(tmp_path / "in", tmp_path / "complete.lmdb", "raw")
    target = tmp_path / "x.lmdb"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(tmp_path / "in"), str(target)], stdout=subprocess.PIPE, text=True
    )
    while int(process.stdout.readline()) < 9:
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with pytest.raises(DataError, match="interrupted"):
        LmdbStore(target)
    report = create_lmdb(tmp_path / "in", target, "raw")
    assert report.images == 24
    assert 6 <= report.skipped <= 14 and report.written == 24 - report.skipped
    assert report.checksum == LmdbStore(tmp_path / "complete.lmdb").summary["checksum"]
    assert all(
        np.array_equal(LmdbStore(target).read(key), Folder(tmp_path / "in").read(key)) for key in ("00.png", "23.png")
    )


def test_a_second_run_updates_and_repairs_the_database(tmp_path):
    for index in range(4):
        save(tmp_path / "in" / f"{index}.png", noise(10, 10, seed=index))
    target = tmp_path / "x.lmdb"
    create_lmdb(tmp_path / "in", target, "raw")
    save(tmp_path / "in" / "0.png", noise(10, 10, seed=9))
    later = time.time_ns() + 10**9
    os.utime(tmp_path / "in" / "0.png", ns=(later, later))
    (tmp_path / "in" / "1.png").unlink()
    with lmdb.open(str(target)) as env, env.begin(write=True) as transaction:
        transaction.put(b"2.png", bytes(300))  # damage
    report = create_lmdb(tmp_path / "in", target, "raw")
    assert (report.written, report.skipped, report.removed) == (2, 1, 1)
    store, files = LmdbStore(target), Folder(tmp_path / "in")
    assert store.keys() == ["0.png", "2.png", "3.png"]
    assert all(np.array_equal(store.read(key), files.read(key)) for key in files.keys())  # noqa: SIM118


@pytest.mark.parametrize("bytes_left", [1000, 60_000])
def test_a_full_disk_is_one_readable_error_and_leaves_nothing_unusable(tmp_path, monkeypatch, bytes_left):
    for index in range(4):
        save(tmp_path / "in" / f"{index}.png", noise(100, 100, seed=index))
    target = tmp_path / "x.lmdb"

    def prepare():
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, bytes_left))
        with pytest.raises(OSError, match="No space left") as caught:
            create_lmdb(tmp_path / "in", target, "raw")
        return str(caught.value)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
        assert in_child(prepare) == f"[Errno 28] No space left on device: '{target}/data.mdb'"
    with pytest.raises(DataError, match="no LMDB database" if bytes_left == 1000 else "run `mcir prepare lmdb` again"):
        LmdbStore(target)
    assert create_lmdb(tmp_path / "in", target, "raw").written == 4
    assert len(LmdbStore(target).keys()) == 4


def test_a_database_has_one_writer(tmp_path):
    with (
        LmdbWriter(tmp_path / "x.lmdb", "raw"),
        pytest.raises(DataError, match=r"x\.lmdb: another process writes this database"),
    ):
        LmdbWriter(tmp_path / "x.lmdb", "raw")


def test_a_damaged_database_is_not_updated(tmp_path):
    save(tmp_path / "in" / "a.png", noise(100, 100))
    create_lmdb(tmp_path / "in", tmp_path / "x.lmdb")
    os.truncate(tmp_path / "x.lmdb" / "data.mdb", 9000)
    with pytest.raises(DataError, match=r"not a readable LMDB database \(truncated"):
        create_lmdb(tmp_path / "in", tmp_path / "x.lmdb")
