"""Small models and batches."""

import pytest
import torch

NETWORK = {"type": "EDSR", "num_feat": 8, "num_block": 1, "upscale": 2, "img_range": 1.0}
SPN = {"type": "SPNLoss", "weights": "random", "layer_weights": {"relu1_1": 0.4, "relu1_2": 0.6}, "loss_weight": 0.05}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(4, 3, 16, 16, generator=generator)
    lq = torch.nn.functional.avg_pool2d(gt, 2)
    names = [f"{number}.png" for number in range(4)]
    return {"lq": lq, "gt": gt, "lq_path": names, "gt_path": names}
