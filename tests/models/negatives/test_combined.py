"""Kinds together; how a section becomes negatives; what option files say of them."""

import pytest
import torch

from mcir.config.checker import Checker
from mcir.models import CombinedNegatives, FrozenNegatives, HardNegatives, HistoryNegatives, InputNegatives
from mcir.models.negatives import build_negatives
from mcir.registry import NEGATIVES, RegistryError
from tests.config.test_json_schema import SCHEMA, fits
from tests.models.negatives.test_history import network, vector, walk

MEMBERS = [
    {"type": "HistoryNegatives", "steps": [1, 2]},
    {"type": "FrozenNegatives", "weights": "random"},
    {"type": "HardNegatives", "blurred": 2, "sharpened": 1},
    {"type": "InputNegatives"},
]
COMBINED = {"type": "CombinedNegatives", "members": MEMBERS}


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)


def test_the_members_stand_one_after_the_other(images):
    combined = build_negatives(COMBINED, network(), seed=3)
    assert isinstance(combined, CombinedNegatives)
    kinds = [HistoryNegatives, FrozenNegatives, HardNegatives, InputNegatives]
    assert [type(member) for member in combined.kinds()] == kinds
    outputs = combined(*images)
    assert outputs.shape == (6, 2, 3, 16, 16) and not outputs.requires_grad
    assert torch.equal(outputs, torch.cat([member(*images) for member in combined.kinds()]))
    gt, sharpened = combined.positives(images[1])
    assert gt is images[1] and torch.equal(sharpened, combined.kinds()[2].positives(images[1])[1])


def test_stored_images_reach_who_wants_them(images):
    combined = CombinedNegatives(
        network(), [{"type": "ConsensusNegatives", "stored": True}, {"type": "InputNegatives"}]
    )
    stored = torch.rand(2, 3, 3, 16, 16)
    outputs = combined(*images, stored)
    assert len(outputs) == 4 and torch.equal(outputs[1], stored[:, 1])


def test_members_follow_begin_anew_and_are_kept(images):
    net = network()
    combined = build_negatives(COMBINED, net, seed=3)
    first = combined(*images)
    walk(net, 0.2)
    combined.update(net, 2, *images)
    assert combined.kinds()[0].updates.tolist() == [1, 1]
    later = combined(*images)
    changed = [not torch.equal(a, b) for a, b in zip(first, later, strict=True)]
    assert changed == [True, True, False, True, True, False]
    resumed = build_negatives(COMBINED, network(9), seed=4)
    resumed.load_state_dict(combined.state_dict())
    resumed.kinds()[2].seed = combined.kinds()[2].seed  # the seed is the option file's
    assert torch.equal(resumed(*images), later)
    combined.start_from(net)
    assert combined.kinds()[0].updates.tolist() == [0, 0]
    assert torch.equal(combined(*images)[3:5], first[3:5])


def test_every_member_has_a_seed_of_its_own_unless_it_says_one():
    twins = [{"type": "FrozenNegatives"}, {"type": "FrozenNegatives"}]
    one, other = CombinedNegatives(network(), twins, seed=3).kinds()
    assert not torch.equal(vector(one), vector(other))
    said = [{**section, "seed": 5} for section in twins]
    one, other = CombinedNegatives(network(), said, seed=3).kinds()
    assert torch.equal(vector(one), vector(other)) and torch.equal(
        vector(one), vector(FrozenNegatives(network(), seed=5))
    )


def test_the_seed_goes_to_who_takes_one_and_the_section_stays_as_it_is():
    section = {"type": "HistoryNegatives", "steps": [1]}
    assert build_negatives(section, network(), seed=6).seed == 6
    assert build_negatives({**section, "seed": 2}, network(), seed=6).seed == 2
    assert isinstance(build_negatives({"type": "InputNegatives"}, network(), seed=6), InputNegatives)
    assert section == {"type": "HistoryNegatives", "steps": [1]}
    with pytest.raises(RegistryError, match="Did you mean 'HistoryNegatives'"):
        build_negatives({"type": "HistoryNegative"}, network(), seed=0)
    with pytest.raises(RegistryError, match="with the key 'type'"):
        build_negatives({}, network(), seed=0)
    with pytest.raises(ValueError, match="at least one kind"):
        CombinedNegatives(network(), [])


def problems(section):
    checker = Checker()
    converted = checker.section(NEGATIVES, section, ("negatives",))
    return converted, [(".".join(map(str, path)), message) for path, message in checker.problems]


@pytest.mark.parametrize(
    "section",
    [
        COMBINED,
        {"type": "HistoryNegatives", "sample": 2},
        {"type": "FrozenNegatives", "arch": {"type": "EDSR"}, "weights": ["random", "a.pth"]},
        {"type": "ConsensusNegatives", "weights": ["a.pth", "b.pth"], "archs": [None, {"type": "EDSR"}]},
        {"type": "HardNegatives", "sigma": [0.1, 3], "sharpness": [1, 2]},
    ],
)
def test_option_files_may_say_it(section):
    assert problems(section)[1] == []
    assert fits(section, SCHEMA["$defs"]["kind_of_negatives"])


@pytest.mark.parametrize(
    ("member", "path", "message"),
    [
        ({"type": "HistoryNegatives", "step": [1]}, "negatives.members.1.step", "Did you mean 'steps'"),
        ({"type": "HistoryNegatives", "sample": 1.5}, "negatives.members.1.sample", "an integer"),
        ({"type": "FrozenNegatives", "arch": {"type": "EDRS"}}, "negatives.members.1.arch.type", "Did you mean 'EDSR'"),
        ({"steps": [1]}, "negatives.members.1", "needs a 'type'"),
        ({"type": "InputNegatives", "network": 1}, "negatives.members.1.network", "takes no 'network'"),
    ],
)
def test_mistakes_inside_are_found(member, path, message):
    section = {"type": "CombinedNegatives", "members": [{"type": "InputNegatives"}, member]}
    ((where, said),) = problems(section)[1]
    assert where == path and message in said
    assert not fits(section, SCHEMA["$defs"]["kind_of_negatives"])
