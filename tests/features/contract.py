"""The contract that every feature network fulfils, as a base class of tests."""

import copy
import logging
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from mcir.errors import ArgumentError
from mcir.features import FeatureNetwork, feature_network
from mcir.weights import WeightsError


class FeatureNetworkContract:
    """Tests of one kind of feature network.

    Attributes:
        network: name of the network.
        layers: names of layers, in network order.
        invalid_layers: expected error messages by layer name.
        deeper: name of a layer after all of ``layers``.
        shape: shape of its activation for an image of 32×32 pixels.
    """

    network: ClassVar[str]
    layers: ClassVar[list[str]]
    invalid_layers: ClassVar[dict[str, str]]
    deeper: ClassVar[str]
    shape: ClassVar[tuple[int, int, int]]

    def build(self, layers: list[str] | None = None, weights: str = "random", **changes: Any) -> FeatureNetwork:
        return feature_network(layers or self.layers, self.network, weights, **changes)

    def test_activations_are_a_tensor_per_layer(self) -> None:
        images = torch.rand(2, 3, 32, 32)
        found = self.build([*self.layers, self.deeper])(images)
        assert list(found) == [*self.layers, self.deeper]
        assert found[self.deeper].shape == (2, *self.shape)
        assert all(one.dtype == torch.float32 and one.isfinite().all() and one.any() for one in found.values())
        few = dict(self.build().stream(images, self.layers[:1]))
        assert list(few) == self.layers[:1] and torch.equal(few[self.layers[0]], found[self.layers[0]])

    @pytest.mark.parametrize("norm", [True, False])
    def test_activations_may_be_overwritten_and_images_do_not_change(self, norm: bool) -> None:
        network, images = self.build(use_input_norm=norm), torch.rand(1, 3, 32, 32)
        before = images.clone()
        with torch.no_grad():
            expected = {name: value.clone() for name, value in network(images).items()}
            for name, activation in network.stream(images):
                assert torch.equal(activation, expected[name]), name
                activation.fill_(float("nan"))
        assert torch.equal(images, before)

    def test_is_frozen(self) -> None:
        parent = nn.Sequential(self.build(), nn.BatchNorm2d(3)).train().requires_grad_(True)
        network = parent[0]
        assert not any(module.training for module in network.modules())
        assert not list(network.parameters()) and not any(key.startswith("0.") for key in parent.state_dict())
        before = [buffer.clone() for buffer in network.buffers()]
        images = torch.rand(2, 3, 32, 32).requires_grad_()
        network(images)[self.layers[-1]].mean().backward()
        assert images.grad is not None and images.grad.any()
        assert all(torch.equal(*pair) for pair in zip(before, network.buffers(), strict=True))
        assert network.double()(images)[self.layers[-1]].dtype == torch.float64

    def test_random_weights_depend_on_the_seed_only(self, caplog: pytest.LogCaptureFixture) -> None:
        state, images, layer = torch.get_rng_state(), torch.ones(1, 3, 32, 32), self.layers[-1]
        with caplog.at_level(logging.WARNING):
            first, same, other = (self.build(seed=seed) for seed in (3, 3, 4))
        assert torch.equal(torch.get_rng_state(), state)
        assert len(caplog.records) == 3 and "random weights. The results will differ" in caplog.text
        assert torch.equal(first(images)[layer], same(images)[layer])
        assert not torch.equal(first(images)[layer], other(images)[layer])
        assert first.settings == same.settings != other.settings
        deeper = first.with_layers([*self.layers, self.deeper])
        assert deeper.settings == first.settings and torch.equal(deeper(images)[layer], first(images)[layer])
        assert torch.equal(copy.deepcopy(first)(images)[layer], first(images)[layer])

    def test_range_norm_maps_to_zero_and_one(self) -> None:
        images, layer = torch.rand(1, 3, 32, 32), self.layers[-1]
        torch.testing.assert_close(self.build(range_norm=True)(2 * images - 1)[layer], self.build()(images)[layer])

    def test_reads_no_file_on_the_meta_device(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise AssertionError("weights were read")

        monkeypatch.setattr("mcir.features.base.read_weights", fail)
        monkeypatch.setattr("mcir.features.base.imagenet_file", fail)
        (tmp_path / "empty.pth").touch()
        with torch.device("meta"):
            for weights in ("imagenet", "random", str(tmp_path / "empty.pth")):
                activation = self.build([self.deeper], weights)(torch.rand(2, 3, 32, 32))[self.deeper]
                assert activation.is_meta and activation.shape == (2, *self.shape)
            with pytest.raises(WeightsError, match=r"no weight file 'V0'. For .*, expected 'imagenet', IMAGENET1K_V1"):
                self.build(weights="V0")

    def test_unknown_layers_are_rejected(self) -> None:
        for name, message in self.invalid_layers.items():
            with pytest.raises(ArgumentError, match=message) as caught:
                self.build([name])
            assert caught.value.name == "layer_names"
        with pytest.raises(ArgumentError, match="expected at least one"):
            feature_network([], self.network, "random")

    @pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 4, 32, 32), (3, 32, 32)])
    def test_images_of_a_wrong_shape_are_rejected(self, shape: tuple[int, ...]) -> None:
        message = r"expected images \(B, C, H, W\) with 1 or 3 channels, got \(" + str(shape)[1:-1]
        with pytest.raises(ValueError, match=message):
            self.build()(torch.rand(shape))

    @pytest.mark.parametrize("norm", [True, False])
    def test_grey_images_are_repeated(self, norm: bool) -> None:
        network, grey = self.build(use_input_norm=norm), torch.rand(2, 1, 32, 32).requires_grad_()
        found, expected = network(grey), network(grey.expand(2, 3, 32, 32).contiguous())
        assert all(torch.equal(found[layer], expected[layer]) for layer in self.layers)
        (gradient,) = torch.autograd.grad(found[self.layers[-1]].mean(), grey)
        assert gradient.shape == grey.shape and gradient.any()

    def test_channels_select_red_green_and_blue(self) -> None:
        network, images = self.build(channels=[3, 0, 0]), torch.rand(2, 4, 32, 32)
        expected = self.build()(images[:, [3, 0, 0]])
        assert all(torch.equal(network(images)[layer], expected[layer]) for layer in self.layers)
        assert network.settings != self.build().settings
        assert network.with_layers([self.deeper]).settings == network.settings
        with pytest.raises(ValueError, match=r"expected images .* with at least 4 channels, got"):
            network(images[:, :3])

    @pytest.mark.parametrize("channels", [[], [0, 1], [0, 1, -1], [0, 1, 2, 3]])
    def test_other_numbers_of_channels_are_rejected(self, channels: list[int]) -> None:
        with pytest.raises(ArgumentError, match="channels: expected three indices of channels"):
            self.build(channels=channels)
