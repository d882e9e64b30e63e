"""What λ means in a feature network: the gradient of a contrastive loss at the output, over that of L1.

At one made-up point of a ×4 training, on eight crops of 128×128 out of the photographs that come with scikit-image: the
output is halfway from the bicubic enlargement to the ground truth. SPN's four negatives are earlier on the same way, at
0, ⅛, ¼ and ⅜ of it, which is what the past of a network would be that walks straight. CR's negative is the enlargement,
its positive the ground truth. Printed are, for SPN at ``--weight`` (λ = 1e-4, the paper's) and CR at 0.1 (the paper's):

- the ratio of the L2 norms of the two gradients at the output, the contrastive loss's over L1's,
- the cosine between them: at 1 the negatives ask for what L1 asks for, at −1 they undo it.

Mean, least and greatest over the seeds: a seed chooses crops and, where weights are random, weights. It says what λ is
worth in this feature network, and not what a training gains by it: past states of a real network lie on no straight
line, and its own ratios stand in its log. CR has its default layers in the VGGs without batch norm, elsewhere those of
SPN::

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
    """Return ground truths (8, 3, 128, 128) in [0, 1], one of each photograph, and their bicubic enlargements."""
    photographs = BundledPhotos("train", scale=SCALE, gt_size=CROP)
    items = [photographs[SampleIndex(index, index, seed)] for index in range(len(photographs))]
    lq, gt = (torch.stack([item[key].float() / 255 for item in items]) for key in ("lq", "gt"))
    return gt, imresize(lq, SCALE).clamp_(0, 1)


def against_l1(loss: nn.Module, output: Tensor, gt: Tensor, negatives: Tensor) -> tuple[float, float]:
    """Return the norm of a contrastive loss's gradient at ``output`` over that of L1's, and their cosine."""
    output = output.detach().requires_grad_()
    (of_loss,) = torch.autograd.grad(loss(output, negatives, [gt]), output)
    (of_l1,) = torch.autograd.grad(L1Loss()(output, gt), output)
    ratio = float(of_loss.norm() / of_l1.norm())
    return ratio, float(torch.sum(of_loss * of_l1) / (of_loss.norm() * of_l1.norm()))


def measure(arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """Return ratio and cosine of SPN and of CR for a seed."""
    gt, enlarged = crops(seed)
    on_the_way = partial(torch.lerp, enlarged, gt)
    layers = dict(arguments.layers or LAYERS.get(arguments.network, {}))
    given = {"network": arguments.network, "weights": arguments.weights, "normalize": arguments.normalize, "seed": seed}
    space = given | ({"layer_weights": layers} if layers else {})
    spn = SPNLoss(**space, loss_weight=arguments.weight)
    if not layers and arguments.network not in PLAIN_VGGS:
        space["layer_weights"] = spn.layer_weights
    cr = ContrastiveRegularization(**space)
    found = {}
    for name, loss, negatives in (
        ("SPN", spn, torch.stack([on_the_way(share) for share in EARLIER])),
        ("CR", cr, enlarged[None]),
    ):
        found[f"{name}.ratio"], found[f"{name}.cosine"] = against_l1(loss, on_the_way(HALFWAY), gt, negatives)
    return found


def _layer(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    return name, float(weight)


def main() -> None:
    """Measure, print a table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vgg16", help="a VGG, or any classifier of torchvision (default: vgg16)")
    parser.add_argument(
        "--layers", nargs="+", type=_layer, metavar="NAME=WEIGHT", help="of SPN and CR (default: those of the losses)"
    )
    parser.add_argument("--weights", default="random", help="random, imagenet or a file (default: random)")
    parser.add_argument("--normalize", choices=("none", "unit"), default="none", help="scale of the features")
    parser.add_argument("--weight", type=float, default=1e-4, help="λ of SPN (default: 1e-4)")
    parser.add_argument("--seeds", type=int, default=3, help="how many crops and random networks (default: 3)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds is at least 1, not {arguments.seeds}")
    logging.getLogger("mcir").setLevel(logging.ERROR)  # random features are meant here
    torch.set_num_threads(1)
    try:
        found = [measure(arguments, seed) for seed in range(arguments.seeds)]
    except ValueError as error:
        parser.error(str(error))

    weights = arguments.weights if arguments.weights in ("random", "imagenet") else "a file's"
    title = f"{arguments.network}, {weights} weights, normalize: {arguments.normalize}, {counted(len(found), 'seed')}"
    table = Table(title=title)
    for heading in ("gradient at the output", "mean", "least", "greatest"):
        table.add_column(heading, justify="left" if heading.startswith("gradient") else "right")
    labels = {"SPN": f"SPN at λ = {arguments.weight:g}", "CR": "CR at λ = 0.1"}
    for key in found[0]:
        loss, _, what = key.partition(".")
        values = [numbers[key] for numbers in found]
        row = (f"{value:.3g}" for value in (fmean(values), min(values), max(values)))
        table.add_row(f"{labels[loss]}: {'over L1' if what == 'ratio' else 'cosine with L1'}", *row)
    Console(width=120).print(table)
    write_report(arguments.json, {"title": title, "seeds": found}, torch.device("cpu"))


if __name__ == "__main__":
    main()
