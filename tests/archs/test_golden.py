"""Every configuration equals its authors' code: keys, shapes, parameters, multiply-adds, outputs, gradients.

The networks run without the normalization that their authors apply outside the network.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mcir.archs import dehazeformer
from mcir.archs.network import Network
from mcir.registry import ARCHS
from tests.golden import networks
from tests.golden.deterministic import deterministic_state_dict
from tests.golden.networks import Golden

FLOAT32 = 2e-5
"""Largest error in float32, relative to the output's standard deviation; libraries round convolutions differently."""

EXACT = 1e-9
"""Largest error in float64, relative to the output's standard deviation."""


@pytest.fixture(scope="module", params=networks.configs())
def golden(request: pytest.FixtureRequest) -> Golden:
    return networks.load(request.param)


@pytest.fixture(scope="module")
def net(golden: Golden) -> Iterator[Network]:
    """Return the network with generated weights; derived buffers keep their values."""
    net = ARCHS.build(golden.section)
    weights = {
        golden.own_name(key): value for key, value in deterministic_state_dict(golden.shapes, golden.gain).items()
    }
    assert not weights.keys() - net.state_dict().keys()
    net.load_state_dict({**net.state_dict(), **weights}, strict=True)
    yield net.eval()
    del net


def test_every_measured_configuration_is_stored() -> None:
    measured = {file.stem for file in networks.manifests()}
    if not measured:
        pytest.skip("the full measurements are not available")
    assert set(networks.configs()) == measured


def test_keys_shapes_and_parameters_are_official(golden: Golden, net: Network) -> None:
    own = {key: list(value.shape) for key, value in net.state_dict().items()}
    official = {golden.own_name(key): shape for key, shape in golden.shapes.items()}
    assert own == official
    assert list(own) == list(official)
    assert sum(parameter.numel() for parameter in net.parameters()) == golden.param_count


def saved_macs(net: Network) -> int:
    """Return the multiply-adds that mcir saves: DehazeFormer's bias is computed once per relative position."""
    layers = [layer for layer in net.modules() if isinstance(layer, dehazeformer.WindowAttention)]
    return sum(
        (layer.relative_positions[..., 0].numel() - len(layer.positions))
        * sum(linear.weight.numel() for linear in (layer.meta[0], layer.meta[2]))
        for layer in layers
    )


def test_multiply_adds_are_official(golden: Golden) -> None:
    with torch.device("meta"):
        net = ARCHS.build(golden.section).eval()
    for measured in golden.macs:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            Network.forward(net, torch.empty(measured["input_shape"], device="meta"))
        assert counter.get_total_flops() // 2 == measured["macs"] - saved_macs(net)


def test_outputs_are_official(golden: Golden, net: Network, record_property) -> None:
    with torch.no_grad():
        for case in golden.cases:
            error = case.error(Network.forward(net, case.input))
            record_property(f"error_{case.name}", error)
            assert error < FLOAT32, case.name


def test_float64_outputs_and_gradients_are_official(golden: Golden, net: Network, record_property) -> None:
    """Only float64 is precise enough to reveal a wrong epsilon or variant of GELU."""
    net.double()
    try:
        for case in golden.cases:
            if case.exact is None and case.grad_probe is None:
                continue
            with torch.set_grad_enabled(case.grad_probe is not None):
                output = Network.forward(net, case.input.double())
            if case.exact is not None:
                error = case.exact_error(output.detach())
                record_property(f"exact_error_{case.name}", error)
                assert error < EXACT, case.name
            if case.grad_probe is not None:
                check_gradients(golden, net, output, case.grad_probe)
    finally:
        net.float()


def check_gradients(golden: Golden, net: Network, output: Tensor, probe: dict[str, float]) -> None:
    direction = np.random.default_rng(int(probe["seed"])).standard_normal(tuple(output.shape)).astype(np.float32)
    loss = (output * torch.from_numpy(direction).double()).mean()
    assert loss.item() == pytest.approx(probe["loss_f64"], rel=1e-9, abs=1e-12)
    net.zero_grad()
    loss.backward()
    parameters = dict(net.named_parameters())
    for key, norm in golden.grad_l2.items():
        gradient = parameters[golden.own_name(key)].grad
        own_norm = 0.0 if gradient is None else float(gradient.norm())
        assert own_norm == pytest.approx(norm, rel=1e-6, abs=1e-12), key
    net.zero_grad()
