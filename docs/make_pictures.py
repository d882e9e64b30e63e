"""Make the pictures of these pages again, of photographs that scikit-image brings and that nothing here was trained on.

torchrun mcir/train.py -opt options/quickstart.yml
mcir train -opt mcir/tables/mini/denoise.yml --set sweep=plain train.total_iter=3000 train.scheduler.T_max=3000 \
        datasets.train.gt_size=64 datasets.train.batch_size_per_gpu=8
python docs/make_pictures.py experiments/quickstart/models/net_g_800.pth \
        experiments/mini_denoise_plain/models/net_g_3000.pth
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate

import mcir
from mcir.data import imresize, to_device
from mcir.data.bundled import BundledPhotos
from mcir.report.comparison import comparison

PICTURES = Path(__file__).parent / "pictures"
PARTS = {"super_resolution": (1, 60, 250, 200), "denoising": (0, 40, 110, 200)}
"""Which photograph, and which part of it (top, left, side) is shown."""


def main(super_resolution: str, denoising: str) -> None:
    """Restore a photograph by each checkpoint and write what went in, came out, and was wanted."""
    degradations = {"super_resolution": {"type": "BicubicDown"}, "denoising": {"type": "GaussianNoise", "sigma": 25}}
    for name, checkpoint in (("super_resolution", super_resolution), ("denoising", denoising)):
        restorer = mcir.Restorer(mcir.load_network(checkpoint))
        number, top, left, side = PARTS[name]
        photographs = BundledPhotos("val", scale=restorer.scale, degradation=degradations[name])
        item = to_device(default_collate([photographs[number]]), torch.device("cpu"))
        given, wanted = imresize(item["lq"][0].double(), restorer.scale).float(), item["gt"][0]
        restored = restorer(item["lq"])[0]
        part = (slice(None), slice(top, top + side), slice(left, left + side))
        psnr = mcir.build_metric({"type": "PSNR", "crop_border": restorer.scale if restorer.scale > 1 else 0})
        captions = [
            f"{what}: {float(psnr(image[None], wanted[None])):.2f} dB"
            for what, image in (("bicubic" if restorer.scale > 1 else "input", given), ("output", restored))
        ]
        drawn = comparison(given[part], restored[part], wanted[part], (captions[0], captions[1]))
        Image.fromarray(np.asarray(drawn)).save(PICTURES / f"{name}.webp", quality=90)


if __name__ == "__main__":
    main(*sys.argv[1:3])
