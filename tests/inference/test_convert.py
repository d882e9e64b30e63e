"""Arrays and PIL images are restored to the same type."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base

from mcir.data.resize import imresize
from mcir.inference.functional import restore
from mcir.inference.images import read_picture
from tests.inference.samples import RANDOM, Enlarge


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3), (8, 9, 2), (8, 9, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.float16])
def test_arrays(shape, dtype):
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    image = (RANDOM.random(shape) * top).astype(dtype)
    made = restore(image, Enlarge(2))
    assert made.dtype == dtype
    assert made.shape == (16, 18, *shape[2:])
    colors = image if len(shape) == 2 or shape[2] in (1, 3) else image[:, :, :-1]
    expected = colors.repeat(2, 0).repeat(2, 1)
    expected = expected.reshape(16, 18, -1)
    assert np.allclose(made.reshape(16, 18, -1)[:, :, : expected.shape[2]], expected, rtol=1e-6)
    if len(shape) == 3 and shape[2] in (2, 4):
        alpha = imresize(torch.from_numpy(image[:, :, -1].astype(np.float64)), 2).clamp(0, top).numpy()
        assert np.abs(made[:, :, -1] - alpha).max() <= (0.5 + 1e-9 if top > 1 else 1e-3)


def test_arrays_of_any_memory_layout():
    image = RANDOM.random((8, 9, 3)).astype(np.float32)
    expected = restore(image, Enlarge(2))
    frozen = image.copy()
    frozen.flags.writeable = False
    for other in (image[::-1][::-1], np.asfortranarray(image), frozen, image.astype(">f4")):
        assert np.array_equal(restore(other, Enlarge(2)), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "I;16"])
def test_pil_images_keep_their_mode(mode):
    bands = {"L": (), "RGB": (3,), "LA": (2,), "RGBA": (4,), "I;16": ()}[mode]
    pixels = RANDOM.integers(0, 256, (8, 9, *bands)).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.info.update(icc_profile=b"profile", exif=b"Exif", dpi=(72, 72))
    made = restore(image, Enlarge(2))
    assert isinstance(made, Image.Image)
    assert (made.mode, made.size) == (mode, (18, 16))
    assert made.info == image.info
    assert np.array_equal(np.asarray(made), restore(pixels, Enlarge(2)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_pil_images_are_rotated_according_to_exif(mode, orientation, tmp_path):
    bands = {"L": (), "RGB": (3,), "RGBA": (4,), "I;16": ()}[mode]
    pixels = RANDOM.integers(0, 256, (8, 9, *bands)).astype(np.uint16 if mode == "I;16" else np.uint8)
    exif = Image.Exif()
    exif[Base.Orientation], exif[271] = orientation, "a camera"
    Image.fromarray(pixels).save(tmp_path / "rotated.png", exif=exif)
    made = restore(Image.open(tmp_path / "rotated.png"), Enlarge(1))
    assert made.size == ((9, 8) if orientation <= 4 else (8, 9))
    assert made.getexif().get(Base.Orientation, 1) == 1
    assert made.getexif()[271] == "a camera"
    made.save(tmp_path / "restored.png")
    expected = read_picture(tmp_path / "rotated.png")
    assert np.array_equal(read_picture(tmp_path / "restored.png").pixels, expected.pixels)


@pytest.mark.parametrize(
    ("mode", "becomes"), [("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("PA", "RGBA")]
)
def test_other_modes_become_grey_or_rgb(mode, becomes):
    image = Image.fromarray(RANDOM.integers(0, 256, (8, 9, 3)).astype(np.uint8)).convert("P" if mode == "PA" else mode)
    if mode == "PA":
        image = image.convert("PA")
    made = restore(image, Enlarge(1))
    assert made.mode == becomes
    assert np.array_equal(np.asarray(made), np.asarray(image.convert(becomes)))


def test_transparency_of_a_palette_becomes_alpha():
    image = Image.fromarray(RANDOM.integers(0, 256, (8, 9, 3)).astype(np.uint8)).convert("P")
    image.info["transparency"] = 0
    made = restore(image, Enlarge(1))
    assert made.mode == "RGBA"
    assert "transparency" not in made.info
