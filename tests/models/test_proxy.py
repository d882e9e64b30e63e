"""ProxyModel: only the last layer is trained, and weights of any pre-training can be loaded."""

import copy

import pytest
import torch

from mcir.engine.dry_run import step_cost
from mcir.models import ProxyModel, RestorationModel
from mcir.registry import ARCHS
from tests.models.conftest import in_two_processes

NETWORK = {"type": "UNet", "num_feat": 2}
SECTION = {
    "network_g": NETWORK,
    "optim_g": {"type": "Adam", "lr": 1e-2, "weight_decay": 0.1},
    "pixel_opt": {"type": "L1Loss"},
    "ema_decay": 0.9,
}


def build(**changes):
    return ProxyModel(**{**SECTION, **changes})


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {key: torch.rand(4, 3, 32, 32, generator=generator) for key in ("lq", "gt")}


def state(model):
    return {key: value.clone() for key, value in model.network.state_dict().items()}


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_weights_and_statistics_do_not_change(batch, precision):
    model = build(precision=precision)
    before = state(model)
    average = copy.deepcopy(model.ema.network.state_dict())
    for iteration in (1, 2, 3):
        model.training_step(batch, iteration)
    for after, start in ((model.network.state_dict(), before), (model.ema.network.state_dict(), average)):
        moved = {key for key, value in after.items() if not torch.equal(value, start[key])}
        assert moved == {"last.weight", "last.bias"}
    assert any(key.endswith("running_mean") for key in before)


def test_only_the_last_layer_is_in_training_mode(batch):
    model = build()
    model.restore(batch["lq"])
    model.training_step(batch, 1)
    assert [name for name, module in model.network.named_modules() if module.training] == ["last"]


def test_the_step_equals_training_a_layer_on_fixed_features(batch):
    """The reference computes the features once, in evaluation mode, and trains a layer with its own optimizer."""
    model = build(ema_decay=0.0)
    twin, features = copy.deepcopy(model.network).eval(), []
    layer = twin.last
    layer.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        twin(batch["lq"])
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2, weight_decay=0.1)
    for iteration in (1, 2, 3):
        scalars = model.training_step(batch, iteration)
        optimizer.zero_grad()
        loss = (torch.nn.functional.conv2d(features[0], layer.weight, layer.bias) - batch["gt"]).abs().mean()
        loss.backward()
        torch.testing.assert_close(scalars["l_pix"], loss.detach())
        length = torch.cat([parameter.grad.flatten() for parameter in layer.parameters()]).norm()
        torch.testing.assert_close(scalars["grad_norm"], length)
        optimizer.step()
    torch.testing.assert_close(model.network.last.weight, layer.weight)


def test_the_frozen_part_has_no_graph(batch):
    kept = {}
    for kind in (ProxyModel, RestorationModel):
        model, sizes = kind(**SECTION), []
        weights = {tensor.data_ptr() for tensor in model.network.state_dict().values()}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append((tensor.data_ptr(), tensor.nbytes)) or tensor,  # noqa: B023
            lambda tensor: tensor,
        ):
            model.training_step(batch, 1)
        kept[kind] = sum(size for address, size in dict(sizes).items() if address not in weights)
    features = 4 * 2 * 32 * 32 * 4
    assert kept[ProxyModel] <= features + 2 * 4 * 3 * 32 * 32 * 4  # input of the layer, difference and its sign
    assert kept[ProxyModel] < kept[RestorationModel] / 5


def test_the_estimated_cost_is_a_forward_pass_and_one_layer():
    """A backward pass of the whole network costs twice the forward pass."""
    sizes = (2, (32, 32), (32, 32))
    whole, proxy = (step_cost({"type": kind, **SECTION}, *sizes) for kind in ("RestorationModel", "ProxyModel"))
    assert proxy.flops < 0.4 * whole.flops
    assert proxy.activation_bytes < whole.activation_bytes / 5
    assert proxy.parameters == whole.parameters
    assert proxy.state_bytes < whole.state_bytes


def test_another_layer_can_be_trained():
    model = build(last_layer="decoder.3", optim_g={"type": "SGD", "lr": 0.1})
    trained = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.network.named_parameters() if name.startswith("decoder.3.")}
    assert sum(parameter.numel() for parameter in model.trained_part.parameters()) == sum(
        parameter.numel() for parameter in model.network.decoder[3].parameters()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"last_layer": "lats"},
            r"of UNet with weights, got 'lats'. Did you mean 'last'\? The last modules are .*last",
        ),
        ({"last_layer": "decoder.0.pair.nothing"}, "got 'decoder.0.pair.nothing'"),
        ({"network_g": {"type": "Headless"}}, "of Headless with weights, got ''"),
    ],
)
def test_unknown_layers_are_rejected(changes, message, monkeypatch):
    class Headless(torch.nn.Conv2d):
        def __init__(self):
            super().__init__(3, 3, 1)

    monkeypatch.setitem(ARCHS._classes, "Headless", Headless)
    with pytest.raises(ValueError, match=message):
        build(**changes)


# -- weights and state ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2])
def test_weights_are_loaded_except_for_the_last_layer(scale):
    trained = RestorationModel(network_g=NETWORK, seed=7).network.state_dict()
    model = build(network_g={**NETWORK, "scale": scale}, seed=1)
    fresh = state(model)
    assert model.load_weights(trained) == []
    for after in (model.network.state_dict(), model.ema.network.state_dict()):
        for key, value in after.items():
            assert torch.equal(value, fresh[key] if key.startswith("last.") else trained[key]), key
    same, other = (build(network_g={**NETWORK, "scale": scale}, seed=seed).network.last.weight for seed in (1, 2))
    assert torch.equal(same, fresh["last.weight"]) and not torch.equal(other, fresh["last.weight"])


@pytest.mark.parametrize("scale", [1, 2])
def test_a_prefix_of_the_keys_is_removed(scale):
    trained = RestorationModel(network_g=NETWORK, seed=7).network.state_dict()
    model = build(network_g={**NETWORK, "scale": scale}, seed=1)
    assert model.load_weights({f"model.{key}": value for key, value in trained.items()}) == []
    assert torch.equal(model.network.state_dict()["encoder.0.conv1.weight"], trained["encoder.0.conv1.weight"])


def test_weights_of_which_none_matches_are_an_error():
    weights = RestorationModel(network_g=NETWORK).network.state_dict()
    others = {f"stage.{key}.x": value for key, value in weights.items()}
    with pytest.raises(ValueError, match="no weight of the file matches UNet"):
        build().load_weights(others, strict=False)


def test_weights_of_another_architecture_are_rejected():
    model = build()
    with pytest.raises(ValueError, match="98 weights do not match UNet"):
        model.load_weights(RestorationModel(network_g={**NETWORK, "num_feat": 3}).network.state_dict())
    weights = RestorationModel(network_g=NETWORK).network.state_dict()
    del weights["encoder.0.conv1.weight"], weights["last.weight"]
    assert model.load_weights(weights, strict=False) == ["encoder.0.conv1.weight (missing in the file)"]


def test_without_an_optimizer_all_weights_are_loaded(batch):
    trained = build(seed=4)
    trained.training_step(batch, 1)
    tester = ProxyModel(network_g=NETWORK)
    tester.load_weights(trained.weights()["params_ema"])
    assert torch.equal(tester.restore(batch["lq"]), trained.restore(batch["lq"]))


def test_a_resumed_run_continues_bit_for_bit(batch):
    through, first, second = build(), build(), build(seed=3)
    for iteration in (1, 2, 3, 4):
        through.training_step(batch, iteration)
    for iteration in (1, 2):
        first.training_step(batch, iteration)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for iteration in (3, 4):
        second.training_step(batch, iteration)
    for part in ("network", "ema"):
        assert all(map(torch.equal, *(getattr(model, part).state_dict().values() for model in (through, second))))


# -- several processes ------------------------------------------------------------------------------------------------

WORK = """
import sys
import torch
from mcir.config.options import DistOptions
from mcir.engine.distributed import init_distributed
from tests.models.test_proxy import build

torch.set_num_threads(1)
whole = torch.load(sys.argv[1] + "/batch.pt", weights_only=True)
with init_distributed(0, DistOptions(timeout_minutes=1)) as process:
    model = build(ema_decay=0.0)
    model.parallelize(process)
    share = {key: value[2 * process.rank :][:2] for key, value in whole.items()}
    for iteration in (1, 2):
        model.training_step(share, iteration)
    torch.save(model.network.state_dict(), f"{sys.argv[1]}/{process.rank}.pt")
"""


def test_two_processes_equal_one(tmp_path, batch):
    torch.save(batch, tmp_path / "batch.pt")
    in_two_processes(WORK, tmp_path)
    alone = build(ema_decay=0.0)
    before = state(alone)
    for iteration in (1, 2):
        alone.training_step(batch, iteration)
    for rank in (0, 1):
        for key, value in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            if key.startswith("last."):
                torch.testing.assert_close(value, alone.network.state_dict()[key], rtol=1e-5, atol=1e-7)
            else:
                assert torch.equal(value, before[key]), key
