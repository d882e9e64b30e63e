"""SPN in your own training loop. Only the lines marked SPN are added.

Run it in a clone, with random images and random VGG weights (no download)::

    python examples/spn_in_your_loop.py --steps 20 --vgg random

In a real training use the VGG weights ``imagenet`` and your own network and images.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from your_network import YourNetwork

import mcir


def batches(count: int, size: int = 32, scale: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs (lq, gt) of images in [0, 1]. Replace this function with your data loader."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        coarse = torch.rand(4, 3, size // 4, size // 4, generator=generator)
        gt = F.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
        yield F.avg_pool2d(gt, scale), gt


def train(steps: int, vgg: str = "imagenet", checkpoint: Path | None = None) -> list[dict[str, float]]:
    """Train up to iteration ``steps``, and return the losses of each step.

    If the file ``checkpoint`` exists, the training resumes from it. The file is written at the end.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = YourNetwork(num_feat=16, scale=2).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    negatives = mcir.HistoryNegatives(network, weight=0.1, steps=[100, 500, 1000, 2000])  # SPN
    spn = mcir.SPNLoss(loss_weight=1e-4, weights=vgg).to(device)  # SPN

    done = 0
    if checkpoint is not None and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        negatives.load_state_dict(state["negatives"])  # SPN
        done = state["iteration"]

    log = []
    for iteration, (lq, gt) in enumerate(batches(steps), start=1):
        if iteration <= done:
            continue
        lq, gt = lq.to(device), gt.to(device)
        output = network(lq)
        l_pix = F.l1_loss(output, gt)
        l_neg = spn(output, negatives(lq))  # SPN: includes λ and the minus sign
        optimizer.zero_grad()
        (l_pix + l_neg).backward()
        optimizer.step()
        negatives.update(network, iteration)  # SPN: iterations start at 1
        log.append({"iteration": iteration, "l_pix": l_pix.item(), "l_neg": l_neg.item()})

    if checkpoint is not None:
        state = {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "negatives": negatives.state_dict(),  # SPN
            "iteration": steps,
        }
        torch.save(state, checkpoint)
    return log


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=20, help="number of training steps")
    parser.add_argument("--vgg", default="imagenet", help="VGG weights: imagenet, random or a file")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint to resume from and to write")
    arguments = parser.parse_args()
    for entry in train(arguments.steps, arguments.vgg, arguments.checkpoint):
        print("  ".join(f"{name} {value:.6g}" for name, value in entry.items()))  # noqa: T201 (a command-line script)


if __name__ == "__main__":
    main()
