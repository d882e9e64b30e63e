"""Networks that never change: random and pretrained ones, of one architecture or another, and stored outputs."""

import pytest
import torch

from mcir.models import ConsensusNegatives, FrozenNegatives
from mcir.registry import ARCHS
from mcir.weights import WeightsError
from tests.models.conftest import NETWORK
from tests.models.negatives.test_history import network, stream, vector, walk

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
    """A network whose arguments all show in its weights, or are the defaults."""
    torch.manual_seed(seed)
    return ARCHS.build({key: value for key, value in NETWORK.items() if key != "img_range"})


def other(seed=3):
    torch.manual_seed(seed)
    return ARCHS.build(OTHER)


def test_random_networks_come_from_the_seed_and_their_number(images):
    net = network()
    state = torch.get_rng_state()
    negatives = FrozenNegatives(net, count=3, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    for number, member in enumerate(negatives.members):
        assert torch.equal(vector(member), vector(network(stream(7, number))))
    outputs = negatives(*images)
    assert outputs.shape == (3, 2, 3, 16, 16) and not outputs.requires_grad
    for output, member in zip(outputs, negatives.members, strict=True):
        torch.testing.assert_close(output, member(images[0]).detach())
    assert not torch.equal(vector(FrozenNegatives(net, seed=8)), vector(FrozenNegatives(net, seed=7)))


def test_a_random_network_of_another_architecture(images):
    negatives = FrozenNegatives(network(), arch=OTHER, seed=2)
    assert type(negatives.members[0]).__name__ == "SwinIR"
    assert torch.equal(vector(negatives), vector(other(stream(2, 0))))
    assert negatives(*images).shape == (1, 2, 3, 16, 16)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("make", [released, other])
def test_a_file_gives_its_network(tmp_path, images, told, make):
    trained = make()
    section = {"type": trained.registered_as, **trained.hyperparameters} if told else None
    negatives = FrozenNegatives(network(2), arch=section, weights=saved(tmp_path / "a.pth", trained))
    assert type(negatives.members[0]) is type(trained)
    trained.eval()
    torch.testing.assert_close(negatives(*images)[0], trained(images[0]).detach())


def test_a_list_holds_files_and_random_networks_in_order(tmp_path):
    trained = network(5)
    file = saved(tmp_path / "a.pth", trained, params_ema=network(6).state_dict())
    negatives = FrozenNegatives(network(), weights=[file, "random"], param_key="params", seed=1)
    assert torch.equal(vector(negatives.members[0]), vector(trained))
    assert torch.equal(vector(negatives.members[1]), vector(network(stream(1, 1))))
    by_itself = FrozenNegatives(network(), weights=file)
    assert torch.equal(vector(by_itself), vector(network(6)))  # the moving average, if nothing else is said


def test_they_never_change_and_never_learn(images):
    net = network()
    negatives = FrozenNegatives(net, count=2)
    before = vector(negatives)
    walk(net, 0.3)
    negatives.start_from(net)
    negatives.update(net, 1, *images)
    negatives.train()
    assert torch.equal(vector(negatives), before)
    assert not any(parameter.requires_grad for parameter in negatives.parameters())
    assert not any(module.training for module in negatives.modules())


def test_they_are_in_the_type_of_the_network_and_nothing_is_shared(images):
    net = network().double()
    negatives = FrozenNegatives(net, count=2)
    assert {parameter.dtype for parameter in negatives.parameters()} == {torch.float64}
    assert negatives(images[0].double(), images[1].double()).dtype == torch.float64


def test_the_state_keeps_the_weights_even_when_the_file_changed(tmp_path):
    file = saved(tmp_path / "a.pth", network(5))
    state = FrozenNegatives(network(), weights=file).state_dict()
    saved(tmp_path / "a.pth", network(6))
    resumed = FrozenNegatives(network(), weights=file)
    assert torch.equal(vector(resumed), vector(network(6)))
    resumed.load_state_dict(state)
    assert torch.equal(vector(resumed), vector(network(5)))


def test_costs_are_told_without_reading_weights(images):
    with torch.device("meta"):
        negatives = FrozenNegatives(ARCHS.build(NETWORK), arch=NETWORK, weights="not/there.pth")
    assert negatives(*(image.to("meta") for image in images)).shape == (1, 2, 3, 16, 16)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"count": 0}, "at least one network"),
        ({"weights": []}, "at least one network"),
        ({"weights": "a.pth", "count": 2}, "list the files instead"),
        ({"weights": "not/there.pth"}, "there is no such weight file"),
        ({"arch": {**NETWORK, "upscale": 4}}, "EDSR has scale 4, but EDSR 2"),
        ({"arch": {**OTHER, "in_chans": 1}}, "SwinIR has in_channels 1, but EDSR 3"),
    ],
)
def test_what_does_not_fit_is_said(section, message):
    with pytest.raises(ValueError, match=message):
        FrozenNegatives(network(), **section)


def test_weights_of_another_architecture_than_was_said_are_named(tmp_path):
    file = saved(tmp_path / "a.pth", other())
    with pytest.raises(WeightsError, match=r"a\.pth: .*do not fit EDSR(.|\n)*look like those of SwinIR"):
        FrozenNegatives(network(), arch=NETWORK, weights=file)
    with pytest.raises(ValueError, match="Conv2d does not keep its arguments"):
        FrozenNegatives(torch.nn.Conv2d(3, 3, 1))


# -- consensus -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archs", [None, [None, OTHER], [released().hyperparameters | {"type": "EDSR"}, None]])
def test_the_consensus_is_what_the_models_make_in_order(tmp_path, images, archs):
    models = [released(5), other(6).eval()]
    files = [saved(tmp_path / f"{number}.pth", model) for number, model in enumerate(models)]
    outputs = ConsensusNegatives(network(), weights=files, archs=archs)(*images)
    assert outputs.shape == (2, 2, 3, 16, 16) and not outputs.requires_grad
    for output, model in zip(outputs, models, strict=True):
        torch.testing.assert_close(output, model(images[0]).detach())


def test_stored_outputs_are_taken_from_the_batch(images):
    stored = torch.rand(2, 5, 3, 16, 16, requires_grad=True)
    negatives = ConsensusNegatives(network(), stored=True)
    outputs = negatives(*images, stored)
    assert outputs.shape == (5, 2, 3, 16, 16) and not outputs.requires_grad
    assert torch.equal(outputs[3, 1], stored[1, 3])
    assert not negatives.state_dict()
    with pytest.raises(ValueError, match="dataroot_negatives"):
        negatives(*images)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "either 'weights'"),
        ({"weights": ["a.pth"], "stored": True}, "either 'weights'"),
        ({"weights": ["a.pth", "b.pth"], "archs": [None]}, "2 weights need as many archs"),
    ],
)
def test_a_consensus_of_nothing_is_refused(section, message):
    with pytest.raises(ValueError, match=message):
        ConsensusNegatives(network(), **section)
