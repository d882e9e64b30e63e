"""Pictures that the tests of this room write and read."""

from pathlib import Path

import cv2
import numpy as np


def noise(height, width, channels=3, dtype=np.uint8, seed=0):
    rng = np.random.default_rng((seed, height, width, channels))
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True)


def smooth(height, width, channels=3, seed=0):
    """A picture that compresses as photographs do, more or less."""
    return cv2.GaussianBlur(noise(height, width, channels, seed=seed), (0, 0), 3).reshape(height, width, channels)


def save(path, image, parameters=()):
    """Write an image (H, W, C), RGB, with OpenCV alone."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    ordered = image[:, :, ::-1] if image.shape[2] == 3 else image
    assert cv2.imwrite(str(path), np.ascontiguousarray(ordered), list(parameters))


def shorten(path, count=200):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:-count])


def pairs(root, count=4, scale=2, height=24, width=32, **kind):
    """Write folders gt and lq of unrelated noise in sizes that fit; return them and the images."""
    images = []
    for index in range(count):
        gt = noise(height * scale, width * scale, seed=index, **kind)
        lq = noise(height, width, seed=1000 + index, **kind)
        save(root / "gt" / f"{index:02d}.png", gt)
        save(root / "lq" / f"{index:02d}.png", lq)
        images.append((gt, lq))
    return root / "gt", root / "lq", images
