"""Damaged databases: a readable error or the right images, in reading, training, verifying and updating.

Each attempt runs in a process of its own, because a damaged database can end a process that trusts it.
"""

import random
from pathlib import Path

import lmdb
import numpy as np
import pytest

from mcir.data.lmdb_store import LmdbStore
from mcir.data.paired import PairedImageDataset
from mcir.data.prepare import create_lmdb
from mcir.data.sampler import SampleIndex
from mcir.data.storage import Folder
from mcir.data.verify import verify
from tests.data.images import noise, save, smooth
from tests.trust.campaign import Campaign

SEED = 20261
PAGE = 4096


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of images whose databases have several leaf pages, and short and long values."""
    folder = tmp_path_factory.mktemp("source")
    for index in range(60):
        save(folder / f"small {index:02d}.png", noise(17, 19, 1, seed=index))
    for index in range(4):
        save(folder / f"large {index}.png", smooth(70, 80, seed=index))
    save(folder / "deep.png", noise(20, 40, 1, np.uint16))
    return folder


@pytest.fixture(scope="module")
def databases(source, tmp_path_factory):
    """Return the contents of ``data.mdb`` by kind."""
    root = tmp_path_factory.mktemp("databases")
    for codec in ("encoded", "raw"):
        create_lmdb(source, root / codec, codec)
    with (
        lmdb.open(str(root / "basicsr"), map_size=1 << 24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key in Folder(source).keys():  # noqa: SIM118
            transaction.put(Path(key).stem.encode(), (source / key).read_bytes())
    return {kind: (root / kind / "data.mdb").read_bytes() for kind in ("encoded", "raw", "basicsr")}


def flipped(choose, data):
    position = choose.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << choose.randrange(8)]) + data[position + 1 :]


def overwritten(choose, data, start, count):
    return data[:start] + choose.randbytes(count) + data[start + count :]


def damage(choose, data):
    """Return the name of a kind of damage, and the damaged data."""
    pages = len(data) // PAGE
    one, other = choose.randrange(pages) * PAGE, choose.randrange(pages) * PAGE
    contents = data[one : one + PAGE], data[other : other + PAGE]
    header = one + choose.randrange(40)
    return choose.choice(
        [
            ("bit", flipped(choose, data)),
            ("byte", overwritten(choose, data, choose.randrange(len(data)), 1)),
            ("header", overwritten(choose, data, header, choose.choice([1, 2, 8]))),
            ("meta page", overwritten(choose, data, choose.randrange(2 * PAGE // 25), choose.choice([1, 4]))),
            ("block", overwritten(choose, data, choose.randrange(len(data) // 512) * 512, 512)),
            ("empty page", data[:one] + bytes(PAGE) + data[one + PAGE :]),
            ("copied page", data[:other] + contents[0] + data[other + PAGE :]),
            ("truncated", data[: choose.randrange(len(data))]),
            ("truncated at a page", data[:one]),
            ("extended", data + choose.randbytes(choose.choice([1, PAGE, 3 * PAGE]))),
        ]
        + [("swapped pages", data[:one] + contents[1] + data[one + PAGE : other] + contents[0] + data[other + PAGE :])]
        * (one < other)
    )


def has_right_images(root, source):
    """Return whether all images of a database are those of its source."""
    store, files = LmdbStore(root), Folder(source)
    keys = store.keys()
    return keys == files.keys() and all(np.array_equal(store.read(key), files.read(key)) for key in keys)


def trains(root, source):
    dataset = PairedImageDataset(str(root), str(source), gt_size=8, io_backend={"type": "lmdb"})
    samples = [dataset[SampleIndex(index, index, 0)] for index in range(len(dataset))]
    return all((sample["gt"] == sample["lq"]).all() for sample in samples)


def is_verified(root, source):
    found = verify(root, workers=1)
    return not found.ok or has_right_images(root, source)


def updates(root, source, codec):
    create_lmdb(source, root, codec, workers=1)
    return has_right_images(root, source)


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_databases(databases, source, tmp_path, count):
    campaign = Campaign("damaged databases", SEED)
    choose = random.Random(SEED)
    for number in range(count):
        codec = choose.choice(["encoded", "raw"])
        kind, data = damage(choose, databases[codec])
        root = tmp_path / f"{number}.lmdb"
        root.mkdir()
        (root / "data.mdb").write_bytes(data)
        for use in (has_right_images, is_verified, trains, updates):
            arguments = (root, source, codec) if use is updates else (root, source)
            campaign.attempt_in_process(f"{codec} {number}, {kind}: {use.__name__}", lambda: use(*arguments))  # noqa: B023
    campaign.finish()


@pytest.mark.parametrize("count", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_databases_of_basicsr(databases, source, tmp_path, count):
    """They have no checksums, so that the images may differ; the process must not end."""
    campaign = Campaign("damaged databases of BasicSR", SEED)
    choose = random.Random(SEED)
    listing = "".join(f"{key} (1,1,1) 1\n" for key in Folder(source).keys())  # noqa: SIM118
    for number in range(count):
        root = tmp_path / f"{number}.lmdb"
        root.mkdir()
        kind, data = damage(choose, databases["basicsr"])
        (root / "data.mdb").write_bytes(data)
        text = listing.encode()
        (root / "meta_info.txt").write_bytes(flipped(choose, text) if choose.random() < 0.3 else text)
        for use in (has_right_images, is_verified):
            campaign.attempt_in_process(f"{number}, {kind}: {use.__name__}", lambda: use(root, source) in (True, False))  # noqa: B023
    campaign.finish()


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_flipped_bits(databases, source, tmp_path, count):
    campaign = Campaign("flipped bits in databases", SEED)
    choose = random.Random(SEED)
    (tmp_path / "x.lmdb").mkdir()
    for number in range(count):
        codec = choose.choice(["encoded", "raw"])
        (tmp_path / "x.lmdb" / "data.mdb").write_bytes(flipped(choose, databases[codec]))
        campaign.attempt(f"{codec} {number}", lambda: has_right_images(tmp_path / "x.lmdb", source))
    campaign.finish()
