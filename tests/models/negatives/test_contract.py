"""The common tests for every registered kind of negatives."""

import pytest

from mcir.registry import NEGATIVES
from tests.models.negatives.contract import STORED, NegativesContract

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
