"""Make the images of these pages from photographs of scikit-image that the networks were not trained on.

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
CROPS = {"super_resolution": (1, 60, 250, 200), "denoising": (0, 40, 110, 200)}
"""Photograph and crop (top, left, side) to show."""
DEGRADATIONS = {"super_resolution": {"type": "BicubicDown"}, "denoising": {"type": "GaussianNoise", "sigma": 25}}


def main(super_resolution: str, denoising: str) -> None:
    """Restore a photograph with each checkpoint, and save input, output and ground truth side by side."""
    for name, checkpoint in (("super_resolution", super_resolution), ("denoising", denoising)):
        restorer = mcir.Restorer(mcir.load_network(checkpoint))
        index, top, left, side = CROPS[name]
        dataset = BundledPhotos("val", scale=restorer.scale, degradation=DEGRADATIONS[name])
        item = to_device(default_collate([dataset[index]]), torch.device("cpu"))
        upscaled, gt = imresize(item["lq"][0].double(), restorer.scale).float(), item["gt"][0]
        output = restorer(item["lq"])[0]
        psnr = mcir.build_metric({"type": "PSNR", "crop_border": restorer.scale if restorer.scale > 1 else 0})
        captions = [
            f"{label}: {float(psnr(image[None], gt[None])):.2f} dB"
            for label, image in (("bicubic" if restorer.scale > 1 else "input", upscaled), ("output", output))
        ]
        crop = (slice(None), slice(top, top + side), slice(left, left + side))
        image = comparison(upscaled[crop], output[crop], gt[crop], (captions[0], captions[1]))
        Image.fromarray(np.asarray(image)).save(PICTURES / f"{name}.webp", quality=90)


if __name__ == "__main__":
    main(*sys.argv[1:3])
