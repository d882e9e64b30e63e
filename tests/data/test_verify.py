"""Tests of the complete verification of a set."""

import lmdb
import pytest

from mcir.data.errors import DataError
from mcir.data.prepare import create_lmdb
from mcir.data.verify import verify
from tests.data.images import noise, pairs, save, truncate


@pytest.mark.parametrize("codec", ["encoded", "raw"])
def test_damage_in_databases_is_found(tmp_path, codec):
    for index in range(3):
        save(tmp_path / "in" / f"{index}.png", noise(24, 24, seed=index))
    create_lmdb(tmp_path / "in", tmp_path / "x.lmdb", codec)
    intact = verify(tmp_path / "x.lmdb")
    assert intact.ok and intact.images == 3
    with lmdb.open(str(tmp_path / "x.lmdb")) as env, env.begin(write=True) as transaction:
        data = bytearray(transaction.get(b"1.png"))
        data[700] ^= 1
        transaction.put(b"1.png", bytes(data))
    damaged = verify(tmp_path / "x.lmdb")
    assert damaged.problems == (f"{tmp_path}/x.lmdb/1.png: differs from its checksum",)
    assert damaged.checksum != intact.checksum


def test_damage_in_files_and_wrong_pairs_are_found(tmp_path):
    gt, lq, _ = pairs(tmp_path, 6, scale=3)
    assert verify(gt, lq).problems == ()
    data = bytearray((gt / "01.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (gt / "01.png").write_bytes(data)
    truncate(lq / "02.png", 100)
    (lq / "03.png").unlink()
    save(lq / "04.png", noise(10, 10))
    report = verify(gt, lq)
    assert not report.ok
    for name, reason in (
        ("gt/01", "damaged"),
        ("lq/02", "truncated"),
        ("gt/03", "no degraded image"),
        ("gt/04", "at scale 3"),
    ):
        assert any(f"{name}.png" in line and reason in line for line in report.problems)
    assert len(report.problems) == 4


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no images"):
        verify(tmp_path)
