"""Measure the gradient of a contrastive loss at the output, relative to that of L1, in a feature network.

The gradients are measured for an artificial state of a ×4 training, on eight crops of 128×128 from the photographs of
scikit-image. The output is halfway between the bicubic upscaling and the ground truth. The four negatives of SPN are
earlier points on the same line, at 0, ⅛, ¼ and ⅜. The negative of CR is the upscaled image, its positive the ground
truth. The weights are ``--weight`` for SPN (λ = 1e-4 in the paper) and 0.1 for CR (as in the paper). The benchmark
prints

- the ratio of the L2 norms of both gradients at the output, contrastive loss over L1,
- the cosine between them: 1 if the negatives agree with L1, −1 if they cancel it.

Mean, minimum and maximum are over several seeds, for the crops and for random weights. The numbers show the scale of λ
for a feature network, not its benefit in training. Earlier states of a real network are not on a line; the log of a
training contains its real ratios. CR has its default layers in the VGGs without batch norm, and those of SPN in other
networks::

    python benchmarks/balance.py --network vgg16 --weights random --json balance.json
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.measuring import write_report
from mcir.data import BundledPhotos
from mcir.data.resize import imresize
from mcir.data.sampler import SampleIndex
from mcir.losses import ContrastiveRegularization, L1Loss, SPNLoss
from mcir.tables.formatting import counted

SCALE, CROP, HALFWAY = 4, 128, 0.5
EARLIER = (0.0, 0.125, 0.25, 0.375)
LAYERS = {
    "resnet50": {"layer1": 0.2, "layer2": 0.3, "layer3": 0.5},
    "convnext_tiny": {"features.1": 0.5, "features.3": 0.5},
}
PLAIN_VGGS = ("vgg11", "vgg13", "vgg16", "vgg19")


def crops(seed: int) -> tuple[Tensor, Tensor]:
    """Return ground truths (8, 3, 128, 128) in [0, 1], one per photograph, and their bicubically upscaled inputs."""
    photographs = BundledPhotos("train", scale=SCALE, gt_size=CROP)
    items = [photographs[SampleIndex(index, index, seed)] for index in range(len(photographs))]
    lq, gt = (torch.stack([item[key].float() / 255 for item in items]) for key in ("lq", "gt"))
    return gt, imresize(lq, SCALE).clamp_(0, 1)


def compare_with_l1(loss: nn.Module, output: Tensor, gt: Tensor, negatives: Tensor) -> tuple[float, float]:
    """Return the ratio of the gradients of a contrastive loss and of L1 at the output, and their cosine."""
    output = output.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss(output, negatives, [gt]), output)
    (grad_l1,) = torch.autograd.grad(L1Loss()(output, gt), output)
    ratio = float(grad.norm() / grad_l1.norm())
    return ratio, float(torch.sum(grad * grad_l1) / (grad.norm() * grad_l1.norm()))


def measure(arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """Return ratio and cosine of SPN and of CR for a seed."""
    gt, upscaled = crops(seed)
    point_at = partial(torch.lerp, upscaled, gt)
    layers = dict(arguments.layers or LAYERS.get(arguments.network, {}))
    features = {
        "network": arguments.network,
        "weights": arguments.weights,
        "normalize": arguments.normalize,
        "seed": seed,
    }
    if layers:
        features["layer_weights"] = layers
    spn = SPNLoss(**features, loss_weight=arguments.weight)
    if not layers and arguments.network not in PLAIN_VGGS:
        features["layer_weights"] = spn.layer_weights
    cr = ContrastiveRegularization(**features)
    found = {}
    for name, loss, negatives in (
        ("SPN", spn, torch.stack([point_at(fraction) for fraction in EARLIER])),
        ("CR", cr, upscaled[None]),
    ):
        found[f"{name}.ratio"], found[f"{name}.cosine"] = compare_with_l1(loss, point_at(HALFWAY), gt, negatives)
    return found


def _layer(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    return name, float(weight)


def main() -> None:
    """Measure, print a table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vgg16", help="a VGG, or any classifier in torchvision (default: vgg16)")
    parser.add_argument(
        "--layers",
        nargs="+",
        type=_layer,
        metavar="NAME=WEIGHT",
        help="layers of SPN and CR (default: the default layers of the losses)",
    )
    parser.add_argument("--weights", default="random", help="random, imagenet or a file (default: random)")
    parser.add_argument(
        "--normalize", choices=("none", "unit"), default="none", help="normalization of the features (default: none)"
    )
    parser.add_argument("--weight", type=float, default=1e-4, help="λ of SPN (default: 1e-4)")
    parser.add_argument(
        "--seeds", type=int, default=3, help="number of seeds for crops and random weights (default: 3)"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds: expected at least 1, got {arguments.seeds}")
    logging.getLogger("mcir").setLevel(logging.ERROR)  # random features are intended
    torch.set_num_threads(1)
    try:
        found = [measure(arguments, seed) for seed in range(arguments.seeds)]
    except ValueError as error:
        parser.error(str(error))

    weights = arguments.weights if arguments.weights in ("random", "imagenet") else "custom"
    title = f"{arguments.network}, {weights} weights, normalize: {arguments.normalize}, {counted(len(found), 'seed')}"
    table = Table(title=title)
    for heading in ("gradient at the output", "mean", "minimum", "maximum"):
        table.add_column(heading, justify="left" if heading.startswith("gradient") else "right")
    labels = {"SPN": f"SPN at λ = {arguments.weight:g}", "CR": "CR at λ = 0.1"}
    for key in found[0]:
        loss, _, what = key.partition(".")
        values = [numbers[key] for numbers in found]
        row = (f"{value:.3g}" for value in (fmean(values), min(values), max(values)))
        table.add_row(f"{labels[loss]}: {'relative to L1' if what == 'ratio' else 'cosine with L1'}", *row)
    Console(width=120).print(table)
    write_report(arguments.json, {"title": title, "seeds": found}, torch.device("cpu"))


if __name__ == "__main__":
    main()
