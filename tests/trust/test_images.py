"""Damaged image files: training and restoration accept or reject them alike, with readable errors, in little memory."""

import io
import random
import resource
import struct
import sys

import numpy as np
import pytest

from mcir.data.codec import info_of
from mcir.data.errors import DataError
from mcir.data.reader import decode, probe
from mcir.inference.images import PictureError, read_picture
from tests.data.varied import intact
from tests.trust.campaign import Campaign

SEED = 2026
LARGEST_MIB = 1500
NUMBERS = (0, 1, 255, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1)


def flipped(choose, data):
    changed = bytearray(data)
    for _ in range(choose.choice([1, 1, 1, 8])):
        changed[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    return bytes(changed)


def cut(choose, data):
    return data[: choose.randrange(len(data))]


def zeroed(choose, data):
    start, count = choose.randrange(len(data)), choose.choice([16, 64, 512])
    return data[:start] + bytes(min(count, len(data) - start)) + data[start + count :]


def renumbered(choose, data):
    """Overwrite a number, most often in the header."""
    start = choose.randrange(max(1, min(len(data), choose.choice([60, 300, len(data)])) - 4))
    number = struct.pack(choose.choice("<>") + choose.choice("HI"), choose.choice(NUMBERS) & 0xFFFF)
    if len(number) == 4:
        number = struct.pack(choose.choice("<>") + "I", choose.choice(NUMBERS))
    return data[:start] + number + data[start + len(number) :]


def shifted(choose, data):
    start, count = choose.randrange(len(data)), choose.randrange(1, 64)
    return data[:start] + (choose.randbytes(count) + data[start:] if choose.random() < 0.5 else data[start + count :])


def outcome(function, *arguments):
    """Return the result of a function; None for an error that is meant for users."""
    try:
        return function(*arguments)
    except (DataError, PictureError):
        return None


def is_alike(path, data, original):
    """Return whether a file is accepted or rejected by all, with the same pixels; PNG has checksums of everything."""
    path.write_bytes(data)
    trained, picture = outcome(decode, data, path.name), outcome(read_picture, path)
    header = outcome(probe, io.BytesIO(data))
    if trained is None or picture is None:
        return trained is None and picture is None
    if data.startswith(b"\x89PNG") and not np.array_equal(trained, original):
        return False
    return np.array_equal(trained, picture.pixels) and header == info_of(trained)


@pytest.mark.filterwarnings("ignore")
def peak_memory():
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("damage", [flipped, cut, zeroed, renumbered, shifted], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_images(tmp_path, damage, count):
    before = peak_memory() + 2**20  # of this process, which may have run other tests
    campaign, choose = Campaign(f"images, {damage.__name__}", SEED), random.Random(SEED)
    files = [(name, data) for name, data in intact().items() if not name.startswith(("turned2", "turned4", "turned7"))]
    originals = {name: decode(data, name) for name, data in files}
    for number in range(count):
        name, data = files[number % len(files)] if count > len(files) else choose.choice(files)
        label, damaged = f"{number} of {name}", damage(choose, data)
        path = tmp_path / name
        campaign.attempt(label, lambda: is_alike(path, damaged, originals[name]))  # noqa: B023 (called at once)
    campaign.finish()
    assert peak_memory() < max(before, LARGEST_MIB * 2**20)
