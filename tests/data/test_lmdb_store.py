"""Tests of reading databases: both codecs, databases of BasicSR, forked and pickled stores."""

import gc
import json
import os
import pickle
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import lmdb
import numpy as np
import pytest
from PIL import Image

from mcir.data.codec import ImageInfo
from mcir.data.errors import DataError
from mcir.data.lmdb_store import RECORD_PREFIX, SUMMARY_KEY, LmdbStore, summarize
from mcir.data.prepare import create_lmdb
from mcir.data.storage import Folder
from mcir.data.transforms import Window
from tests.data.images import noise, save
from tests.processes import in_child


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "in" / "a.png", noise(20, 30))
    save(tmp_path / "in" / "a.bmp", noise(20, 30, seed=1))
    save(tmp_path / "in" / "deep" / "a.png", noise(21, 31, 1, np.uint16))
    save(tmp_path / "in" / "ä ö.png", noise(5, 300, 1))
    return tmp_path / "in"


@pytest.mark.parametrize("codec", ["encoded", "raw"])
def test_a_database_has_the_images_of_its_folder(folder, tmp_path, codec):
    create_lmdb(folder, tmp_path / "x.lmdb", codec)
    files, store = Folder(folder), LmdbStore(tmp_path / "x.lmdb")
    assert store.keys() == files.keys()
    for key in files.keys():  # noqa: SIM118
        assert store.info(key) == files.info(key)
        assert np.array_equal(store.read(key), files.read(key))
        assert store.read(key).dtype == files.read(key).dtype
        assert np.array_equal(store.read(key, Window(1, 2, 3, 4)), files.read(key, Window(1, 2, 3, 4)))
    with pytest.raises(DataError, match=r"gone\.png: no such image"):
        store.read("gone.png", Window(0, 0, 1, 1)) if codec == "encoded" else store.value("gone.png")


def test_reading_a_raw_crop_copies_only_the_crop(tmp_path):
    image = noise(2000, 2000)
    save(tmp_path / "in" / "large.png", image)
    create_lmdb(tmp_path / "in", tmp_path / "x.lmdb", "raw")
    store = LmdbStore(tmp_path / "x.lmdb")
    assert np.array_equal(store.read("large.png", Window(700, 800, 16, 16)), image[700:716, 800:816])

    def peak_memory(function):
        """Return the peak memory of a call in bytes."""
        tracemalloc.start()
        function()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert peak_memory(lambda: store.read("large.png", Window(700, 800, 16, 16))) < 20_000
    assert peak_memory(lambda: store.read("large.png")) > 2000 * 2000 * 3


@pytest.mark.parametrize("codec", ["encoded", "raw"])
def test_images_stay_valid_without_their_store(folder, tmp_path, codec):
    create_lmdb(folder, tmp_path / "x.lmdb", codec)
    full = LmdbStore(tmp_path / "x.lmdb").read("a.png")
    crop = LmdbStore(tmp_path / "x.lmdb").read("a.png", Window(0, 0, 20, 30))
    gc.collect()
    assert np.array_equal(full, crop) and full.flags.writeable


def test_two_stores_of_one_database(folder, tmp_path):
    create_lmdb(folder, tmp_path / "x.lmdb")
    one, two = LmdbStore(tmp_path / "x.lmdb"), LmdbStore(tmp_path / "x.lmdb")
    assert np.array_equal(one.read("a.png"), two.read("a.png"))
    del one
    gc.collect()
    assert two.read("a.png").shape == (20, 30, 3)


@pytest.mark.parametrize("codec", ["encoded", "raw"])
def test_a_forked_process_and_a_pickled_store_read_the_same(folder, tmp_path, codec):
    create_lmdb(folder, tmp_path / "x.lmdb", codec)
    unread, store = LmdbStore(tmp_path / "x.lmdb"), LmdbStore(tmp_path / "x.lmdb")
    image = store.read("a.png")
    for each in (unread, store, pickle.loads(pickle.dumps(store))):
        assert in_child(lambda each=each: np.array_equal(each.read("a.png"), image))
        assert np.array_equal(each.read("a.png"), image)


def write_basicsr(root, images):
    """Write a database as BasicSR does: keys without extension, and a list of names."""
    with lmdb.open(str(root), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        for name, data in images.items():
            transaction.put(os.path.splitext(name)[0].encode(), data)
    lines = [f"{name} ({20},{30},{3}) 1\n" for name in images]
    (root / "meta_info.txt").write_text("".join(lines))


def test_databases_of_basicsr_can_be_read(folder, tmp_path):
    names = ["a.png", "deep/a.png", "ä ö.png"]
    root = tmp_path / "b.lmdb"
    root.mkdir()
    write_basicsr(root, {name: (folder / name).read_bytes() for name in names})
    store = LmdbStore(root)
    assert store.keys() == names
    assert store.codec == "encoded"
    for name in names:
        assert np.array_equal(store.read(name), Folder(folder).read(name))
        assert store.info(name) == Folder(folder).info(name)


def test_other_databases_are_rejected(tmp_path):
    with lmdb.open(str(tmp_path / "x.lmdb")) as env, env.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    with pytest.raises(DataError, match=r"expected a database of mcir .* or of BasicSR"):
        LmdbStore(tmp_path / "x.lmdb")
    (tmp_path / "y.lmdb").mkdir()
    (tmp_path / "y.lmdb" / "data.mdb").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(DataError, match="not a readable LMDB database"):
        LmdbStore(tmp_path / "y.lmdb")


def test_several_threads_read_at_the_same_time(folder, tmp_path):
    create_lmdb(folder, tmp_path / "x.lmdb", "raw")
    store = LmdbStore(tmp_path / "x.lmdb")
    keys = 8 * store.keys()
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(store.read, keys))
    assert all(np.array_equal(image, Folder(folder).read(key)) for key, image in zip(keys, images, strict=True))


def test_a_value_is_verified_when_it_is_read_first(folder, tmp_path):
    save(folder / "large.png", noise(90, 100))
    create_lmdb(folder, tmp_path / "x.lmdb", "raw")
    file = tmp_path / "x.lmdb" / "data.mdb"
    store, data = LmdbStore(tmp_path / "x.lmdb"), bytearray(file.read_bytes())
    data[data.index(noise(90, 100).tobytes()) + 20_000] ^= 1
    file.write_bytes(data)
    store.read("a.png")
    with pytest.raises(DataError, match=r"x\.lmdb/large\.png: differs from its checksum"):
        store.read("large.png", Window(0, 0, 1, 1))  # the damage is outside of the crop


def test_a_file_that_was_truncated_after_it_was_opened(folder, tmp_path):
    create_lmdb(folder, tmp_path / "x.lmdb", "raw")
    store = LmdbStore(tmp_path / "x.lmdb")
    store.read("a.png")
    os.truncate(tmp_path / "x.lmdb" / "data.mdb", 8192)
    with pytest.raises(DataError, match=r"data\.mdb: was truncated: expected at least .* bytes, got 8,192"):
        store.read("a.png")


def test_a_pipe_is_not_opened(tmp_path):
    (tmp_path / "x.lmdb").mkdir()
    os.mkfifo(tmp_path / "x.lmdb" / "data.mdb")
    with pytest.raises(DataError, match=r"data\.mdb: is a named pipe"):
        LmdbStore(tmp_path / "x.lmdb")
    write_basicsr(tmp_path / "y.lmdb", {})
    (tmp_path / "y.lmdb" / "meta_info.txt").unlink()
    os.mkfifo(tmp_path / "y.lmdb" / "meta_info.txt")
    with pytest.raises(DataError, match=r"meta_info\.txt: is a named pipe"):
        LmdbStore(tmp_path / "y.lmdb")


def test_a_listed_image_that_is_not_in_the_database(folder, tmp_path):
    write_basicsr(tmp_path / "b.lmdb", {"a.png": (folder / "a.png").read_bytes()})
    with (tmp_path / "b.lmdb" / "meta_info.txt").open("a") as lines:
        lines.write("gone.png (20,30,3) 1\n")
    with pytest.raises(DataError, match=r"gone\.png: no such image in the database"):
        LmdbStore(tmp_path / "b.lmdb")


def make_old(root, turned):
    """Change a database to one of an earlier version, which ignored the EXIF orientation of an image."""
    store = LmdbStore(root)
    records = {key: store.record(key) for key in store.keys()}  # noqa: SIM118
    height, width, *rest = records[turned].info
    old = records[turned]._replace(info=ImageInfo(width, height, *rest))
    samples = store.value(turned)
    if store.codec == "raw":
        samples = np.rot90(store.read(turned), 1).tobytes()
        old = old._replace(crc=zlib.crc32(samples))
    records[turned] = old
    summary = summarize(store.codec, {key.encode(): record for key, record in records.items()})
    del summary["upright"]
    with lmdb.open(str(root)) as environment, environment.begin(write=True) as transaction:
        transaction.put(turned.encode(), bytes(samples))
        transaction.put(RECORD_PREFIX + turned.encode(), old.pack())
        transaction.put(SUMMARY_KEY, json.dumps(summary).encode())


@pytest.mark.parametrize("codec", ["encoded", "raw"])
def test_databases_of_earlier_versions_ignored_the_orientation(tmp_path, codec):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(10, 20)).save(tmp_path / "in" / "turned.png", exif=exif)
    save(tmp_path / "in" / "other.png", noise(6, 8))
    root = tmp_path / "x.lmdb"
    assert create_lmdb(tmp_path / "in", root, codec).written == 2
    upright = LmdbStore(root).read("turned.png")
    assert upright.shape == (20, 10, 3)
    make_old(root, "turned.png")
    old = LmdbStore(root)
    assert old.info("turned.png")[:2] == old.read("turned.png").shape[:2]
    assert np.array_equal(old.read("turned.png"), upright if codec == "encoded" else np.rot90(upright, 1))
    assert create_lmdb(tmp_path / "in", root, codec).written == 2
    assert np.array_equal(LmdbStore(root).read("turned.png"), upright)
    assert create_lmdb(tmp_path / "in", root, codec).written == 0
