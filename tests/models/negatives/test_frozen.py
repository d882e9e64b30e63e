"""Outputs of frozen networks, random or pretrained, and stored outputs as negatives."""

import pytest
import torch

from mcir.models import ConsensusNegatives, FrozenNegatives
from mcir.models.negatives import build_negatives
from mcir.models.negatives.base import child_seed
from mcir.registry import ARCHS, config_of
from mcir.weights import WeightsError
from tests.models.conftest import NETWORK
from tests.models.negatives.contract import make_network, shift, to_vector

OTHER = {"type": "SwinIR", "upscale": 2, "upsampler": "pixelshuffledirect", "embed_dim": 8, "depths": [2],
         "num_heads": [2], "window_size": 4, "img_size": 8, "mlp_ratio": 2.0}  # fmt: skip


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 3, 16, 16, generator=generator)


def saved(path, net, **more):
    torch.save({"params": net.state_dict(), **more}, path)
    return str(path)


def released(seed=3):
    """Return a network whose arguments can be detected from its weights."""
    torch.manual_seed(seed)
    return ARCHS.build({key: value for key, value in NETWORK.items() if key != "img_range"})


def other(seed=3):
    torch.manual_seed(seed)
    return ARCHS.build(OTHER)


def test_random_networks_depend_on_the_seed_and_their_number(images):
    net = make_network()
    state = torch.get_rng_state()
    negatives = FrozenNegatives(net, count=3, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    for number, member in enumerate(negatives.members):
        assert torch.equal(to_vector(member), to_vector(make_network(child_seed(7, number))))
    outputs = negatives(*images)
    assert outputs.shape == (3, 2, 3, 16, 16) and not outputs.requires_grad
    for output, member in zip(outputs, negatives.members, strict=True):
        torch.testing.assert_close(output, member(images[0]).detach())
    assert not torch.equal(to_vector(FrozenNegatives(net, seed=8)), to_vector(FrozenNegatives(net, seed=7)))


def test_random_networks_may_have_another_architecture(images):
    negatives = FrozenNegatives(make_network(), arch=OTHER, seed=2)
    assert type(negatives.members[0]).__name__ == "SwinIR"
    assert torch.equal(to_vector(negatives), to_vector(other(child_seed(2, 0))))
    assert negatives(*images).shape == (1, 2, 3, 16, 16)


@pytest.mark.parametrize("is_explicit", [True, False])
@pytest.mark.parametrize("make", [released, other])
def test_a_file_is_loaded_with_an_explicit_or_detected_architecture(tmp_path, images, is_explicit, make):
    trained = make()
    section = {"type": type(trained).__name__, **config_of(trained).arguments} if is_explicit else None
    negatives = FrozenNegatives(make_network(2), arch=section, weights=saved(tmp_path / "a.pth", trained))
    assert type(negatives.members[0]) is type(trained)
    trained.eval()
    torch.testing.assert_close(negatives(*images)[0], trained(images[0]).detach())


def test_a_list_may_contain_files_and_random_networks(tmp_path):
    trained = make_network(5)
    file = saved(tmp_path / "a.pth", trained, params_ema=make_network(6).state_dict())
    negatives = FrozenNegatives(make_network(), weights=[file, "random"], param_key="params", seed=1)
    assert torch.equal(to_vector(negatives.members[0]), to_vector(trained))
    assert torch.equal(to_vector(negatives.members[1]), to_vector(make_network(child_seed(1, 1))))
    default = FrozenNegatives(make_network(), weights=file)
    assert torch.equal(to_vector(default), to_vector(make_network(6)))  # the moving average


def test_updates_change_nothing(images):
    net = make_network()
    negatives = FrozenNegatives(net, count=2)
    before = to_vector(negatives)
    shift(net, 0.3)
    negatives.start_from(net)
    negatives.update(net, 1, *images)
    assert torch.equal(to_vector(negatives), before)


@pytest.mark.parametrize("is_combined", [False, True])
def test_a_resumed_run_uses_the_weights_of_its_options(tmp_path, is_combined):
    """Also with a state of version 0.1.0, which contains the weights."""

    def build(seed):
        section = {"type": "FrozenNegatives", "weights": saved(tmp_path / f"{seed}.pth", make_network(seed))}
        combined = {"type": "CombinedNegatives", "members": [section, {"type": "HardNegatives"}]}
        return build_negatives(combined if is_combined else section, make_network(), 0)

    resumed = build(6)
    assert not [key for key in resumed.state_dict() if "clock" not in key]
    resumed.load_state_dict(build(5).state_dict())
    assert torch.equal(to_vector(resumed), to_vector(make_network(6)))
    prefix = "members.0.members." if is_combined else "members."
    weights = make_network(5).state_dict(prefix=f"{prefix}0.")
    resumed.load_state_dict({**resumed.state_dict(), **weights, f"{prefix}1.conv.weight": torch.ones(1)})
    assert torch.equal(to_vector(resumed), to_vector(make_network(6)))


def test_costs_are_estimated_without_reading_weights(images):
    with torch.device("meta"):
        negatives = FrozenNegatives(ARCHS.build(NETWORK), arch=NETWORK, weights="not/there.pth")
    assert negatives(*(image.to("meta") for image in images)).shape == (1, 2, 3, 16, 16)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"count": 0}, "count: expected an integer ≥ 1, got 0"),
        ({"weights": []}, "weights: expected 'random' or checkpoint files"),
        ({"weights": "a.pth", "count": 2}, "count: expected 1, because weights is not 'random'"),
        ({"weights": "not/there.pth"}, "expected a weight file, but the path does not exist"),
        (
            {"arch": {**NETWORK, "upscale": 4}},
            "with scale 2 and 3 channels, got EDSR with scale 4",
        ),
        ({"arch": {**OTHER, "in_chans": 1}}, "got SwinIR with scale 2 and 1 channels"),
    ],
)
def test_invalid_arguments_are_rejected(section, message):
    with pytest.raises(ValueError, match=message):
        FrozenNegatives(make_network(), **section)


def test_weights_of_another_architecture_are_rejected(tmp_path):
    file = saved(tmp_path / "a.pth", other())
    with pytest.raises(WeightsError, match=r"a\.pth: .*do not match EDSR(.|\n)*weights match SwinIR"):
        FrozenNegatives(make_network(), arch=NETWORK, weights=file)
    with pytest.raises(ValueError, match="like Conv2d cannot be built"):
        FrozenNegatives(torch.nn.Conv2d(3, 3, 1))


def test_weights_that_are_not_finite_are_rejected_by_name(tmp_path):
    model = released()
    with torch.no_grad():
        model.conv_first.bias[0] = torch.nan
    file = saved(tmp_path / "a.pth", model)
    arguments = (
        {"weights": file},
        {"weights": file, "arch": {"type": "EDSR", **config_of(model).arguments}},
    )
    for section in arguments:
        with pytest.raises(WeightsError, match=r"a\.pth: 1 of \d+ weights are not finite .*: conv_first\.bias\."):
            FrozenNegatives(make_network(), **section)


# -- consensus -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archs", [None, [None, OTHER], [config_of(released()).arguments | {"type": "EDSR"}, None]])
def test_consensus_negatives_are_the_outputs_of_the_models_in_order(tmp_path, images, archs):
    models = [released(5), other(6).eval()]
    files = [saved(tmp_path / f"{number}.pth", model) for number, model in enumerate(models)]
    outputs = ConsensusNegatives(make_network(), weights=files, archs=archs)(*images)
    assert outputs.shape == (2, 2, 3, 16, 16) and not outputs.requires_grad
    for output, model in zip(outputs, models, strict=True):
        torch.testing.assert_close(output, model(images[0]).detach())


def test_stored_negatives_come_from_the_batch(images):
    stored = torch.rand(2, 5, 3, 16, 16, requires_grad=True)
    negatives = ConsensusNegatives(make_network(), stored=True)
    outputs = negatives(*images, stored)
    assert outputs.shape == (5, 2, 3, 16, 16) and not outputs.requires_grad
    assert torch.equal(outputs[3, 1], stored[1, 3])
    assert not negatives.state_dict()
    with pytest.raises(ValueError, match="dataroot_negatives"):
        negatives(*images)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "expected either 'weights'"),
        ({"weights": ["a.pth"], "stored": True}, "expected either 'weights'"),
        (
            {"weights": ["a.pth", "b.pth"], "archs": [None]},
            "for each of the 2 weights, got 1",
        ),
    ],
)
def test_a_consensus_requires_one_source(section, message):
    with pytest.raises(ValueError, match=message):
        ConsensusNegatives(make_network(), **section)
