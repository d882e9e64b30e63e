"""Helpers that make images and data sets for tests."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import cv2
import numpy as np

from mcir.data.paired import PairDataset, Sources
from mcir.data.pairing import PairRules
from mcir.data.storage import Storage


def noise(height, width, channels=3, dtype=np.uint8, seed=0):
    rng = np.random.default_rng((seed, height, width, channels))
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True)


def smooth(height, width, channels=3, seed=0):
    """Return an image that compresses about as well as a photograph."""
    return cv2.GaussianBlur(noise(height, width, channels, seed=seed), (0, 0), 3).reshape(height, width, channels)


def save(path, image, parameters=()):
    """Write an image (H, W, C), RGB, with OpenCV only."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    bgr = image[:, :, ::-1] if image.shape[2] == 3 else image
    assert cv2.imwrite(str(path), np.ascontiguousarray(bgr), list(parameters))


def truncate(path, count=200):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:-count])


def pairs(root, count=4, scale=2, height=24, width=32, **arguments):
    """Write the folders gt and lq, with noise of matching sizes; return both folders and the images."""
    images = []
    for index in range(count):
        gt = noise(height * scale, width * scale, seed=index, **arguments)
        lq = noise(height, width, seed=1000 + index, **arguments)
        save(root / "gt" / f"{index:02d}.png", gt)
        save(root / "lq" / f"{index:02d}.png", lq)
        images.append((gt, lq))
    return root / "gt", root / "lq", images


@dataclass(eq=False)
class StoredPairs(PairDataset):
    """Data set of pairs from two storages; also an example of a custom data set."""

    gt: Storage
    lq: Storage | None = None
    _: KW_ONLY
    negatives: tuple[Storage, ...] = ()
    filename_tmpl: str = "{}"
    gt_crop: str | None = None
    small: str = "error"

    def pair_rules(self):
        return PairRules(
            scale=self.scale,
            gt_size=self.gt_size,
            filename_tmpl=self.filename_tmpl,
            gt_crop=self.gt_crop,
            small=self.small,
        )

    def open_sources(self):
        return Sources(self.gt, self.lq, negatives=self.negatives)
