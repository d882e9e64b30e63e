"""Captions, units and explanations of the values that a training logs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scalar:
    """A logged value: caption of its curve, label of its axis, and one sentence that explains it (may be empty)."""

    caption: str
    label: str
    explanation: str = ""


_LOSSES = {
    "l_pix": Scalar("pixel loss", "loss", "Distance between output and ground truth; it includes loss_weight."),
    "l_percep": Scalar("perceptual loss", "loss", "Distance between features of output and ground truth."),
    "l_neg": Scalar(
        "contrastive loss",
        "loss",
        "Compares the output with negatives (degraded or earlier outputs) and with the ground truth. Its sign and size "
        "depend on the loss; its effect is seen in ratio_l_neg.",
    ),
    "l_contrast": Scalar("contrastive loss", "loss", "Compares residuals or features of image parts."),
    "l_consist": Scalar("consistency loss", "loss", "Distance between features of the output and of the noisy image."),
}
_STEPS = {
    "lr": Scalar("learning rate", "lr", "Step size of the optimizer, from the schedule."),
    "grad_norm": Scalar(
        "norm of the gradient", "norm", "L2 norm over all weights, before clipping. Spikes are unstable steps."
    ),
    "loss_scale": Scalar("loss scale", "factor", "Factor of the loss in fp16, which keeps small gradients above zero."),
}
_GRADIENTS = {
    "grad_": Scalar("gradient of {}", "norm", "L2 norm of the gradient of {} at the output of the network."),
    "ratio_": Scalar(
        "gradient of {} relative to the first loss",
        "ratio",
        "Below 0.001, {} has no effect; above 1, it dominates the first loss.",
    ),
    "cosine_": Scalar(
        "cosine of {} and the first loss",
        "cosine",
        "1: both losses move the output in the same direction; 0: independent; −1: opposite.",
    ),
    "factor_": Scalar("factor of {}", "factor", "Factor that keeps the gradient ratio of {} constant."),
    "weight_": Scalar("weight of {}", "weight", "Weight of {} including its factor."),
}
_SPEED = {
    "images_per_s": Scalar("speed", "images/s", "Training images per second, over all processes."),
    "data_time": Scalar(
        "time spent waiting for data", "fraction", "Fraction of each step. Above 0.1, more data workers may help."
    ),
    "memory_mib": Scalar("memory", "MiB", "Highest memory of a process so far: of the GPU, or of the CPU without one."),
}

GROUPS = ("Losses", "Steps", "Gradients of the losses", "Other logged values", "Speed and memory")
"""Headings of the groups of values, in order."""


def describe(name: str) -> tuple[str, Scalar]:
    """Return the group and the description of a logged value. An unknown one has its name as the caption."""
    for group, known in zip(GROUPS, (_LOSSES, _STEPS, {}, {}, _SPEED), strict=True):
        if name in known:
            return group, known[name]
    for prefix, scalar in _GRADIENTS.items():
        if (loss := name.removeprefix(prefix)) != name and loss:
            return GROUPS[2], Scalar(scalar.caption.format(loss), scalar.label, scalar.explanation.format(loss))
    return (GROUPS[0], Scalar("", "loss")) if name.startswith("l_") else (GROUPS[3], Scalar("", "value"))
