"""What the encoders write, byte by byte where that matters."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mcir.inference.images import Picture, write_picture
from mcir.inference.images.encoders import _filtered, _paeth
from tests.data.pictures import noise, smooth


def chunks(path):
    """The chunks of a PNG file, their sums checked."""
    stream = io.BytesIO(path.read_bytes())
    assert stream.read(8) == b"\x89PNG\r\n\x1a\n"
    found = []
    while head := stream.read(8):
        size, name = struct.unpack(">I4s", head)
        data = stream.read(size)
        assert struct.unpack(">I", stream.read(4))[0] == zlib.crc32(name + data)
        found.append((name, data))
    return found


def test_chunks_of_png_stand_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("mcir.inference.images.image._BAND", 2000)
    write_picture(tmp_path / "x.png", Picture(noise(400, 200), icc=b"a profile", exif=b"Exif\0\0II*\0\x08\0\0\0"))
    found = chunks(tmp_path / "x.png")
    names = [name for name, _ in found]
    assert names[:3] == [b"IHDR", b"iCCP", b"eXIf"]
    assert set(names[3:-1]) == {b"IDAT"}
    assert len(names) > 5
    assert names[-1] == b"IEND"
    assert dict(found)[b"eXIf"].startswith(b"II")


def slow_paeth(left, up, corner):
    guess = left + up - corner
    return min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]


def test_paeth_is_that_of_the_standard():
    left, up, corner = (values[:, :, 0] for values in (noise(50, 60, 1, seed=seed) for seed in range(3)))
    corner[:10], up[10:20] = left[:10], left[10:20]  # equals
    expected = [slow_paeth(*map(int, triple)) for triple in zip(left.flat, up.flat, corner.flat, strict=True)]
    assert np.array_equal(_paeth(left, up, corner).ravel(), expected)


def test_every_filter_has_its_use():
    flat = np.arange(300, dtype=np.uint8)
    across = np.pad(np.tile(flat * 7, (3, 1)), ((0, 0), (1, 0)))  # first rows differ from nothing above
    rows = np.vstack((np.zeros((1, 301), np.uint8), across, noise(1, 301, 1)[:, :, 0], across[:1]))
    numbers = set(_filtered(rows, 1)[:, 0])
    photograph = np.pad(smooth(40, 50, 1)[:, :, 0], ((1, 0), (1, 0)))
    assert numbers | set(_filtered(photograph, 1)[:, 0]) == {1, 2, 4}


def test_photographs_are_packed_as_well_as_pillow_does(tmp_path):
    photograph = smooth(300, 400)
    write_picture(tmp_path / "ours.png", Picture(photograph))
    Image.fromarray(photograph).save(tmp_path / "pillow.png")
    assert (tmp_path / "ours.png").stat().st_size < 1.05 * (tmp_path / "pillow.png").stat().st_size


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_of_bmp_end_at_four_bytes(tmp_path, width, channels):
    samples = noise(3, width, channels)
    write_picture(tmp_path / "x.bmp", Picture(samples))
    palette = 1024 if channels == 1 else 0
    assert (tmp_path / "x.bmp").stat().st_size == 54 + palette + 3 * (-(-width * channels // 4) * 4)
    with Image.open(tmp_path / "x.bmp") as stored:
        assert stored.mode == ("L" if channels == 1 else "RGB")
        assert np.array_equal(np.asarray(stored).reshape(samples.shape), samples)
