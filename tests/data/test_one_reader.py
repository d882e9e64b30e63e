"""Every part of mcir accepts and rejects the same files, and reads the same pixels from them."""

import re
import shutil

import numpy as np
import pytest

from mcir.data.errors import DataError
from mcir.data.lmdb_store import LmdbStore
from mcir.data.loader import evaluation_loader
from mcir.data.paired import PairedImageDataset
from mcir.data.prepare import create_lmdb, extract_subimages
from mcir.data.sampler import SampleIndex
from mcir.data.storage import Folder
from mcir.data.verify import verify
from mcir.inference.batch import FolderSettings, restore_folder
from mcir.inference.demo.service import DemoService, RequestError
from mcir.inference.images import probe_picture, read_picture
from tests.data.varied import RGB, intact, unreadable
from tests.inference.demo.conftest import checkpoints

assert checkpoints  # a fixture

SIZE = 16


def pair(folder, **arguments):
    return PairedImageDataset(str(folder), str(folder), **arguments)


def database(folder, codec):
    target = folder.with_name(f"{codec}.lmdb")
    create_lmdb(folder, target, codec)
    return LmdbStore(target)


def floats(pixels):
    """Return samples as a data set does: (3, H, W), in [0, 1]."""
    values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    return np.broadcast_to(values, (*values.shape[:2], 3)).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def readable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readable") / "in"
    folder.mkdir()
    for number, (name, data) in enumerate(intact().items()):  # numbered, because data sets match names
        (folder / f"{number:03d} {name}").write_bytes(data)
    return folder


def test_all_read_the_same_headers_and_pixels(readable):
    stores = [Folder(readable), database(readable, "encoded"), database(readable, "raw")]
    full, crops = pair(readable), pair(readable, gt_size=SIZE)
    assert verify(readable).problems == ()
    extract_subimages(readable, readable.with_name("squares"), SIZE, SIZE)
    for index, (name, item) in enumerate(zip(stores[0].keys(), evaluation_loader(full), strict=True)):
        found = read_picture(readable / name)
        info = (*found.pixels.shape, found.bits)
        assert probe_picture(readable / name) == (*info, found.alpha is not None), name
        for store in stores:
            assert store.info(name) == info, name
            assert np.array_equal(store.read(name), found.pixels), name
        expected = floats(found.pixels)
        assert np.abs(item["gt"][0].numpy() - expected).max() < 1e-6, name
        crop = crops[SampleIndex(index, 5, 0)]["gt"].numpy()
        places = np.lib.stride_tricks.sliding_window_view(expected, (3, SIZE, SIZE))
        assert (np.abs(places - crop) < 1e-6).all(axis=(-1, -2, -3)).any(), name


@pytest.mark.parametrize("suffix", ["[1-8].png", "[1-8].tif", " at the end.png"])
def test_turned_images_are_upright(readable, suffix):
    for path in readable.glob(f"*turned{suffix}"):
        turn = 6 if "end" in suffix else int(path.name[len("000 turned")])
        stored = RGB.swapaxes(0, 1) if turn > 4 else RGB
        flips = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[turn]
        assert np.array_equal(read_picture(path).pixels, stored[:: flips[0], :: flips[1]])


@pytest.mark.parametrize("name", unreadable())
def test_unreadable_files_are_rejected_everywhere(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(unreadable()[name])
    for function in (
        lambda: read_picture(folder / name),
        lambda: Folder(folder).read(name),
        lambda: pair(folder)[0],
        lambda: pair(folder, gt_size=SIZE)[0],
        lambda: database(folder, "raw"),
    ):
        with pytest.raises(ValueError, match=re.escape(name)):
            function()
    problems = verify(folder).problems
    assert len(problems) == 1
    assert name in problems[0]
    try:  # the files are stored unread, and damage behind the header is found when they are read
        store = database(folder, "encoded")
    except DataError:
        return
    with pytest.raises(DataError, match=re.escape(name)):
        store.read(name)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection")
    for number, (name, data) in enumerate({**intact(), **unreadable()}.items()):
        (folder / f"{number:03d} {name}").write_bytes(data)
    rejected = {f"{len(intact()) + number:03d} {name}" for number, name in enumerate(unreadable())}
    return folder, rejected


def test_restore_rejects_the_same_files(tmp_path, collection, checkpoints, capsys):
    folder, rejected = collection
    settings = FolderSettings([str(folder)], weights=checkpoints["same"], out=tmp_path / "out", device="cpu")
    assert restore_folder(settings) == 1
    restored = {path.name for path in (tmp_path / "out").iterdir()}
    assert restored == {path.name for path in folder.iterdir()} - rejected


def test_the_demo_rejects_the_same_files(tmp_path, collection, checkpoints):
    folder, rejected = collection
    shutil.copytree(folder, tmp_path / "files")
    service = DemoService(checkpoints, tmp_path / "files", 1, device="cpu")
    found = set()
    for path in sorted((tmp_path / "files").iterdir()):
        try:
            service.preview(str(path), "same")
        except RequestError:
            found.add(path.name)
        else:
            assert service.check_image(str(path)) == read_picture(path).pixels.shape[:2]
    assert found == rejected
