"""The common tests for every registered kind of negatives."""

import pytest
import torch

from mcir.registry import NEGATIVES
from tests.models.negatives.contract import STORED, NegativesContract, make_network

KINDS = {
    "HistoryNegatives": ({"steps": [1, 2, 3], "sample": 2}, 2),
    "AdaptiveHistoryNegatives": ({"members": 2}, 2),
    "FrozenNegatives": ({"count": 2}, 2),
    "ConsensusNegatives": ({"stored": True}, STORED),
    "InputNegatives": ({}, 1),
    "HardNegatives": ({}, 3),
    "CombinedNegatives": ({"members": [{"type": "InputNegatives"}, {"type": "HistoryNegatives", "steps": [1, 2]}]}, 3),
}


@pytest.mark.parametrize("kind", NEGATIVES.names())
class TestEveryKind(NegativesContract):
    @pytest.fixture(autouse=True)
    def choose(self, kind):
        arguments, self.count = KINDS[kind]
        self.section = {"type": kind, **arguments}

    def test_only_images_that_are_used_are_required(self, kind, batch):
        network, (lq, gt, stored) = make_network(), batch
        negatives = self.build(network)
        if kind == "HardNegatives":
            with pytest.raises(ValueError, match="HardNegatives: expected the ground truths 'gt'"):
                negatives(lq)
            assert torch.equal(negatives(lq, gt), negatives(lq, gt, stored))
        elif kind == "ConsensusNegatives":
            assert torch.equal(negatives(lq, stored=stored), negatives(*batch))
        elif kind == "InputNegatives":
            assert torch.equal(negatives(gt), gt[None])  # without a larger ground truth, the size does not change
        elif kind != "CombinedNegatives":  # its first member enlarges the input
            assert torch.equal(negatives(lq), negatives(*batch))
        if kind == "AdaptiveHistoryNegatives":
            negatives.update_before_step(network, gt, gt)
        negatives.update(network, 1)
