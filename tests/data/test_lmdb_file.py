"""The reader of LMDB files: the same entries as the library's, for databases with all kinds of pages."""

import random
import struct

import lmdb
import pytest

from mcir.data.errors import DataError
from mcir.data.lmdb_file import LmdbFile


def entries(file):
    """Return the keys and values of a file by our reader, which also checks what writing would use."""
    found = LmdbFile(file)
    found.check_for_update()
    data = file.read_bytes()
    return {key: data[span.offset : span.offset + span.size] for key, span in found.spans.items()}


@pytest.mark.parametrize("seed", range(12))
def test_the_reader_finds_what_the_library_wrote(tmp_path, seed):
    choose = random.Random(seed)
    longest, keys, extra = choose.choice([10, 3000, 20000, 70000]), choose.choice([5, 400]), choose.choice([3, 500])
    written = {}
    with lmdb.open(str(tmp_path), map_size=1 << 28, lock=False) as environment:
        for _ in range(choose.randint(2, 8)):
            with environment.begin(write=True) as transaction:
                for _ in range(choose.randint(1, 150)):
                    key = (b"%d" % choose.randrange(keys) + b"x" * choose.randrange(extra))[:511]
                    if written and choose.random() < 0.35:
                        key = choose.choice(list(written))
                        transaction.delete(key)
                        del written[key]
                    else:
                        written[key] = choose.randbytes(choose.randrange(longest))
                        transaction.put(key, written[key])
            assert entries(tmp_path / "data.mdb") == written


def damaged(tmp_path, offset, data):
    """Return a database with a branch page, whose bytes at an offset are replaced."""
    with lmdb.open(str(tmp_path), lock=False) as environment, environment.begin(write=True) as transaction:
        for number in range(300):
            transaction.put(b"%03d" % number, bytes(number))
    file = tmp_path / "data.mdb"
    content = bytearray(file.read_bytes())
    content[offset : offset + len(data)] = data
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (16, b"\0", "it has no header of LMDB"),
        (4096 + 16, b"\0", "it has no header of LMDB"),
        (20, b"\2", "expected version 1 of the format, got 2"),
        (40, struct.pack("<I", 5000), "its pages have 5000 bytes"),
        (4096 + 24 + 16 + 48 + 4, b"\4", "expected the flags 0x0, got 0x4"),
        (4096 + 24 + 16 + 48 + 6, b"\x50", "expected a depth of at most 32, got 80"),
        (4096 + 24 + 16 + 48 + 32, b"\1", "expected 257 entries, got 300"),
        (4096 + 24 + 16 + 48 + 40, b"\xff", "expected a page from 2 to .*, got"),
    ],
)
def test_damaged_headers(tmp_path, offset, data, message):
    with pytest.raises(DataError, match=rf"data\.mdb: not a readable LMDB database \({message}"):
        LmdbFile(damaged(tmp_path, offset, data))


def test_empty_and_truncated_files(tmp_path):
    with lmdb.open(str(tmp_path), lock=False):
        pass
    assert entries(tmp_path / "data.mdb") == {}
    for size in (0, 100, 4100):
        (tmp_path / "data.mdb").write_bytes((tmp_path / "data.mdb").read_bytes()[:size])
        with pytest.raises(DataError, match="truncated: expected"):
            LmdbFile(tmp_path / "data.mdb")
