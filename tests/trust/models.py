"""A tiny model with everything that a training state contains."""

import torch

from mcir.models import ContrastiveModel


def make_model():
    """Return a model before its first step."""
    model = ContrastiveModel(
        network_g={"type": "EDSR", "num_feat": 2, "num_block": 1, "upscale": 2},
        pixel_opt={"type": "L1Loss"},
        contrastive_opt={"type": "SPNLoss", "weights": "random", "layer_weights": {"relu1_1": 1.0}},
        negatives={"type": "HistoryNegatives", "steps": [1, 2]},
        ema_decay=0.5,
        optim_g={"type": "Adam", "lr": 1e-2},
    )
    model.configure_optimizer()
    return model


def batch(iteration):
    """Return the batch of an iteration."""
    gt = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(iteration))
    return {"lq": gt[..., ::2, ::2], "gt": gt}
