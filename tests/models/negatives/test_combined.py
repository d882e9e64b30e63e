"""Combinations of several kinds of negatives, and building negatives from a section."""

import pytest
import torch

from mcir.errors import ArgumentError, RegistryError
from mcir.models import CombinedNegatives, FrozenNegatives, HardNegatives, HistoryNegatives, InputNegatives
from mcir.models.negatives import build_negatives
from mcir.registry import NEGATIVES
from tests.models.negatives.contract import make_network, shift, to_vector

COMBINED = {
    "type": "CombinedNegatives",
    "members": [
        {"type": "HistoryNegatives", "steps": [1, 2]},
        {"type": "FrozenNegatives", "weights": "random"},
        {"type": "HardNegatives", "blurred": 2, "sharpened": 1},
        {"type": "InputNegatives"},
    ],
}


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)


def test_negatives_and_positives_of_all_members_are_in_order(images):
    combined = build_negatives(COMBINED, make_network(), seed=3)
    kinds = [HistoryNegatives, FrozenNegatives, HardNegatives, InputNegatives]
    assert [type(member) for member in combined.kinds] == kinds
    outputs = combined(*images)
    assert torch.equal(outputs, torch.cat([member(*images) for member in combined.kinds]))
    gt, sharpened = combined.positives(images[1])
    assert gt is images[1] and torch.equal(sharpened, combined.kinds[2].positives(images[1])[1])


def test_stored_negatives_are_passed_to_the_members(images):
    members = [{"type": "ConsensusNegatives", "stored": True}, {"type": "InputNegatives"}]
    stored = torch.rand(2, 3, 3, 16, 16)
    outputs = CombinedNegatives(make_network(), members)(*images, stored)
    assert len(outputs) == 4 and torch.equal(outputs[1], stored[:, 1])


def test_all_members_are_updated_and_restarted(images):
    net = make_network()
    combined = build_negatives(COMBINED, net, seed=3)
    first = combined(*images)
    shift(net, 0.2)
    combined.update(net, 2, *images)
    assert combined.kinds[0].updates.tolist() == [1, 1]
    changed = [not torch.equal(a, b) for a, b in zip(first, combined(*images), strict=True)]
    assert changed == [True, True, False, True, True, False]
    combined.start_from(net)
    assert combined.kinds[0].updates.tolist() == [0, 0]
    assert torch.equal(combined(*images)[3:5], first[3:5])


def test_each_member_has_its_own_seed_unless_it_sets_one():
    twins = [{"type": "FrozenNegatives"}, {"type": "FrozenNegatives"}]
    one, other = CombinedNegatives(make_network(), twins, seed=3).kinds
    assert not torch.equal(to_vector(one), to_vector(other))
    one, other = CombinedNegatives(make_network(), [{**section, "seed": 5} for section in twins], seed=3).kinds
    assert torch.equal(to_vector(one), to_vector(other))
    assert torch.equal(to_vector(one), to_vector(FrozenNegatives(make_network(), seed=5)))


def test_the_seed_is_a_default_and_the_section_is_not_changed():
    section = {"type": "HistoryNegatives", "steps": [1]}
    assert build_negatives(section, make_network(), seed=6).seed == 6
    assert build_negatives({**section, "seed": 2}, make_network(), seed=6).seed == 2
    assert section == {"type": "HistoryNegatives", "steps": [1]}


def test_errors_name_the_member():
    with pytest.raises(RegistryError, match="Did you mean 'HistoryNegatives'"):
        build_negatives({"type": "HistoryNegative"}, make_network(), seed=0)
    with pytest.raises(RegistryError, match="with the key 'type'"):
        build_negatives({}, make_network(), seed=0)
    with pytest.raises(ArgumentError, match="members: expected a list of kinds"):
        CombinedNegatives(make_network(), [])
    members = [{"type": "InputNegatives"}, {"type": "HistoryNegatives", "steps": [0]}]
    with pytest.raises(ArgumentError, match=r"steps\.0: expected an integer ≥ 1") as caught:
        NEGATIVES.build({"type": "CombinedNegatives", "members": members}, make_network())
    assert caught.value.path == ("members", 1, "steps", 0)
