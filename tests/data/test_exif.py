"""EXIF blocks of both byte orders are edited in place."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from mcir.data.exif import kept_exif, take_orientation, with_size, without_orientation

DIRECTORY, NOTE, WIDTH, HEIGHT, ORIENTATION, MAKE, MODEL = 0x8769, 0x927C, 0xA002, 0xA003, 0x0112, 271, 272


def block(order, orientation=6, thumbnail=True):
    """Return a block as cameras write it, with a maker note, and with a thumbnail in a second directory."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]

    def entry(tag, kind, count, value):
        inline = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
        return struct.pack(order + "HHI", tag, kind, count) + inline

    first = [
        entry(MAKE, 2, 6, 200),
        entry(ORIENTATION, 3, 1, orientation),
        entry(MODEL, 2, 6, 206),
        entry(DIRECTORY, 4, 1, 100),
    ]
    second = [entry(NOTE, 7, 8, 212), entry(WIDTH, 3, 1, 1), entry(HEIGHT, 4, 1, 2)]
    data = bytearray(mark + struct.pack(order + "IH", 8, len(first)) + b"".join(first))
    data += struct.pack(order + "I", 230 if thumbnail else 0)
    data = data.ljust(100, b"\0") + struct.pack(order + "H", len(second)) + b"".join(second) + bytes(4)
    data = data.ljust(200, b"\0") + b"Maker\0Model\0" + b"see @212"
    data = data.ljust(230, b"\0") + struct.pack(order + "H", 1) + entry(ORIENTATION, 3, 1, 8) + bytes(4)
    return b"Exif\0\0" + bytes(data)


def parsed(exif):
    read = Image.Exif()
    read.load(exif)
    return read


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [True, False])
def test_orientation_and_thumbnail_are_removed_and_everything_else_is_kept(order, prefix):
    before = block(order)
    after = without_orientation(before if prefix else before.removeprefix(b"Exif\0\0"))
    assert len(after) == len(before)
    read = parsed(after)
    assert dict(read) == {MAKE: "Maker", MODEL: "Model", DIRECTORY: 100}
    assert read.get_ifd(DIRECTORY)[NOTE] == b"see @212"
    assert not read.get_ifd(ExifTags.IFD.IFD1)
    assert parsed(before).get_ifd(ExifTags.IFD.IFD1)
    assert after[6 + 100 : 6 + 230] == before[6 + 100 : 6 + 230]
    assert without_orientation(after) == after


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_size_is_replaced(order):
    read = parsed(with_size(block(order), 4000, 70_000))
    assert dict(read.get_ifd(DIRECTORY)) == {NOTE: b"see @212", WIDTH: 70_000, HEIGHT: 4000}
    without = Image.Exif()
    without[MAKE] = "Maker"
    assert with_size(without.tobytes(), 3, 4) == without.tobytes()


@pytest.mark.filterwarnings("ignore")
@given(st.integers(6, 290), st.binary(min_size=1, max_size=60))
def test_damage_is_ignored(start, junk):
    data = bytearray(block("<"))
    data[start : start + len(junk)] = junk
    for exif in (bytes(data), junk, b"Exif\0\0II*\0\x08\0\0\0" + junk):
        image = Image.new("L", (2, 2))
        image.info["exif"] = exif
        orientation, kept = take_orientation(image), kept_exif(image)
        assert orientation in range(1, 9)
        assert kept is None or len(kept) >= len(exif)
        assert with_size(exif, 5, 6) is not None
