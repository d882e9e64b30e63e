"""Networks that modify their input in place, networks with other outputs than a tensor, and wrapped networks."""

import logging

import pytest
import torch
from torch import nn
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from mcir.inference import Restorer
from mcir.models import EMA, ContrastiveModel, FrozenNegatives, HistoryNegatives
from mcir.network_call import _warn_once, call_network, copy_network, unwrapped
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import ARCHS, NEGATIVES
from tests.models.conftest import SPN


class InPlace(nn.Module):
    """A network that doubles its input in place."""

    def __init__(self, only_small: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.only_small = only_small
        self.inputs = []

    def forward(self, x):
        self.inputs.append(x.data_ptr())
        if not self.only_small or x.shape[-1] < 8:
            x.mul_(2)
        return self.conv(x)


class Returning(nn.Module):
    """A network that returns an object made of its output."""

    def __init__(self, kind: str = "list") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.kind = kind

    def forward(self, x):
        x = self.conv(x)
        return {"list": [x, x], "tuple": (x, x, x), "dict": {"image": x}, "none": None}[self.kind]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for cls in (InPlace, Returning):
        monkeypatch.setitem(ARCHS._classes, cls.__name__, cls)
    _warn_once.cache_clear()


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("is_training", [True, False])
def test_images_do_not_change(images, is_training, caplog):
    network, before = InPlace().train(is_training), images.clone()
    expected = network.conv(2 * images)
    for _ in range(3):
        assert torch.equal(call_network(network, images), expected)
        assert torch.equal(images, before)
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("InPlace modifies its input in place.") and "network(images.clone())" in warning


def test_only_networks_that_modify_their_input_get_copies(images):
    network = InPlace(only_small=True).eval()
    large = torch.rand(1, 3, 16, 16)
    for batch in (large, large, images[..., :4, :4].clone(), images[..., :4, :4].clone()):
        before = batch.clone()
        call_network(network, batch)
        assert torch.equal(batch, before)
    assert network.inputs[0] != large.data_ptr() == network.inputs[1]
    network.inputs.clear()
    network.train()  # another mode may run other code, so it is checked again
    call_network(network, large)
    call_network(network, large)
    assert network.inputs[0] != large.data_ptr() == network.inputs[1]


def test_images_do_not_change_in_inference_mode(images):
    with torch.inference_mode():
        before = images.clone()
        for _ in range(2):
            call_network(InPlace(), images)
    assert torch.equal(images, before)


def test_a_step_with_negatives_that_equal_the_network(images):
    """Without protection, the negatives would get another input than the network, so l_neg would not be 0."""
    model = ContrastiveModel(
        network_g={"type": "InPlace"},
        optim_g={"type": "SGD", "lr": 1e-30},
        pixel_opt={"type": "L1Loss"},
        contrastive_opt=SPN,
        negatives={"type": "HistoryNegatives", "steps": [1, 2, 3, 4], "start": 0.0},
        ema_decay=0.9,
    )
    lq = images.clone()
    batch = {"lq": lq, "gt": images.clone(), "lq_path": ["a", "b"], "gt_path": ["a", "b"]}
    for iteration in (1, 2):
        assert float(model.training_step(batch, iteration)["l_neg"]) == 0
        assert torch.equal(lq, images)
    model.restore(lq)
    assert torch.equal(lq, images)


def test_averages_and_frozen_negatives_do_not_change_their_input(images):
    network, before = InPlace(), images.clone()
    EMA(network)(images)
    FrozenNegatives(network, arch={"type": "InPlace"}, count=2)(images)
    Restorer(network)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("kind", "got"),
    [
        ("list", "a list of 2 entries"),
        ("tuple", "a tuple of 3 entries"),
        ("dict", "a dict of 1 entries"),
        ("none", "an object NoneType"),
    ],
)
def test_other_outputs_than_a_tensor_are_rejected(images, kind, got):
    message = rf"Returning: expected one tensor \(B, C, H, W\) as output, got {got}\. Return only the restored image"
    network = Returning(kind)
    negatives = HistoryNegatives(network, steps=[1], start=0.0)
    for use in (lambda x: call_network(network, x), negatives, lambda x: Restorer(network)(x)):
        with pytest.raises(ValueError, match=message):
            use(images)


# -- wrapped networks -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["compile", "DataParallel", "DistributedDataParallel", "both"])
def wrap(request):
    """Return a function that wraps a network."""

    def compiled(network):
        return torch.compile(network, backend="eager")

    if request.param in ("compile", "DataParallel"):
        yield compiled if request.param == "compile" else nn.DataParallel
        return
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield DistributedDataParallel if request.param != "both" else lambda net: DistributedDataParallel(compiled(net))
    destroy_process_group()


def make_network(seed=1):
    torch.manual_seed(seed)
    return ARCHS.build({"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1.0})


def test_wrapped_networks_are_unwrapped(wrap):
    network = make_network()
    assert unwrapped(wrap(network)) is network
    assert spec_of(wrap(network)) == network.spec and isinstance(network.spec, NetworkSpec)
    assert Restorer(wrap(network)).architecture == "EDSR"


@pytest.mark.parametrize("kind", ["HistoryNegatives", "AdaptiveHistoryNegatives", "FrozenNegatives"])
def test_negatives_of_a_wrapped_network_equal_those_of_the_network(kind, wrap, images):
    network = make_network()
    plain, wrapped = (NEGATIVES.build({"type": kind, "seed": 3}, net) for net in (network, wrap(network)))
    assert plain.state_dict().keys() == wrapped.state_dict().keys()
    gt = torch.rand(2, 3, 16, 16)
    assert torch.equal(plain(images), wrapped(images))
    for negatives, net in ((plain, network), (wrapped, wrap(network))):
        negatives.update_before_step(net, gt + torch.randn_like(gt), gt)
        negatives.update(net, 100)
    assert torch.equal(plain(images), wrapped(images))
    for negatives, net in ((plain, network), (wrapped, wrap(network))):
        negatives.start_from(net)
    assert torch.equal(plain(images), wrapped(images))


def test_averages_of_a_wrapped_network_are_those_of_the_network(wrap):
    network = make_network()
    average = EMA(wrap(network))
    assert type(average.network) is type(network)
    with torch.no_grad():
        network.conv_first.weight.add_(1)
    average.update(wrap(network), decay=0.0)
    assert torch.equal(average.network.conv_first.weight, network.conv_first.weight)


def weight_normed():
    return nn.utils.weight_norm(nn.Conv2d(3, 3, 3, padding=1))


def parametrized():
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1))


def spectral():
    return nn.utils.spectral_norm(nn.Conv2d(3, 3, 3, padding=1))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("layer", [weight_normed, parametrized, spectral])
def test_networks_with_computed_weights_can_be_averaged(layer):
    network, images = nn.Sequential(layer(), nn.ReLU(), layer()), torch.rand(2, 3, 8, 8)
    network(images)  # a layer keeps the computed weight, with its graph
    average = EMA(network)
    before = network.eval()(images)
    assert torch.equal(average(images), before)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    assert torch.equal(average(images), before)
    average.update(network, decay=0.0)
    assert torch.equal(average(images), network(images))


def test_a_copy_shares_no_tensor_with_its_network():
    network = nn.Conv2d(3, 3, 3)
    network.kept = network.weight * 2
    copied = copy_network(network)
    assert torch.equal(copied.kept, network.kept) and not copied.kept.requires_grad
    assert {t.data_ptr() for t in copied.state_dict().values()}.isdisjoint(
        {t.data_ptr() for t in network.state_dict().values()}
    )
