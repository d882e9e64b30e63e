"""Tests that every architecture must pass. A test class inherits them and sets the section to build."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from mcir.archs.network import Network, pad
from mcir.inference.export_backends import trace
from mcir.network_spec import spec_of
from mcir.registry import ARCHS
from mcir.weights import derived_keys, detect
from tests.archs.sizes import accepted_sides, accepts_side, spec_error


class ArchitectureContract:
    """Base class for the tests of one architecture.

    Attributes:
        section: section of a small network that has every kind of layer of the architecture.
        channels: channels of the images.
        no_gradient: reasons why parameters cannot influence the output, by name pattern.
        reach: radius of the input pixels that an output pixel depends on; None if it depends on all pixels.
        detected_as: architecture that is detected instead, because it has the same keys.
    """

    section: ClassVar[dict[str, Any]]
    channels: ClassVar[int] = 3
    no_gradient: ClassVar[dict[str, str]] = {}
    reach: ClassVar[int | None] = None
    detected_as: ClassVar[str | None] = None

    @pytest.fixture
    def net(self) -> Network:
        torch.manual_seed(0)
        return ARCHS.build(self.section)

    def images(self, net: Network, batch: int = 2, height: int = 9, width: int = 12, seed: int = 1) -> Tensor:
        """Return random images in [0, 1]."""
        return torch.rand(batch, self.channels, height, width, generator=torch.Generator().manual_seed(seed))

    # -- spec and sizes -------------------------------------------------------------------------------------------

    def test_has_a_spec(self, net: Network) -> None:
        assert isinstance(net, Network)
        assert net.in_channels == self.channels
        assert spec_of(net) is net.spec
        assert net.spec.padding in ("reflect", "zeros")
        assert all(
            value >= 1 for value in (net.scale, net.spec.size_multiple, net.spec.min_size, net.spec.shift_period)
        )

    def test_the_last_layer_of_the_spec_runs_last(self, net: Network) -> None:
        order: list[str] = []
        for name, module in net.named_modules():
            if list(module.parameters(recurse=False)):
                module.register_forward_hook(lambda *_, name=name: order.append(name))
        with torch.no_grad():
            net.eval()(self.images(net))
        assert order[-1] == net.spec.last_layer
        assert isinstance(net.get_submodule(net.spec.last_layer), torch.nn.Conv2d)

    def test_the_sizes_of_the_spec_are_those_that_the_layers_accept(self, net: Network) -> None:
        multiple = net.spec.size_multiple
        minimum = -(-net.spec.min_size // multiple) * multiple
        maximum = minimum + 2 * multiple + 4
        error = spec_error(net.eval(), accepted_sides(accepts_side(net, minimum), maximum), maximum)
        assert error is None, error

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (9, 12), (17, 16)])
    def test_every_size_gives_a_finite_output_of_the_right_shape(self, net: Network, size: tuple[int, int]) -> None:
        with torch.no_grad():
            output = net.eval()(self.images(net, 1, *size))
        assert output.shape == (1, self.channels, size[0] * net.scale, size[1] * net.scale)
        assert output.dtype == torch.float32
        assert output.isfinite().all()

    def test_odd_sizes_are_padded_and_cropped(self, net: Network) -> None:
        """The output equals the cropped output for the padded image."""
        net.eval()
        for height in range(1, net.spec.size_multiple + 3):
            image = self.images(net, 1, height, 2 * net.spec.size_multiple + 1)
            padded = pad(image, net.spec.size_multiple, net.spec.min_size, net.spec.padding)
            with torch.no_grad():
                expected = net(padded)[..., : height * net.scale, : image.shape[3] * net.scale]
                torch.testing.assert_close(net(image), expected, rtol=1e-5, atol=1e-6)

    def test_padding_does_not_matter_far_from_the_border(self, net: Network) -> None:
        if self.reach is None:
            pytest.skip("every pixel depends on all others, or another test class covers this")
        side = -(-(2 * self.reach + net.spec.min_size) // net.spec.size_multiple) * net.spec.size_multiple
        image = self.images(net, 1, side, side)
        unaffected = (side - max(net.spec.size_multiple // 2, 1) - self.reach) * net.scale
        assert unaffected > 0
        with torch.no_grad():
            whole, cropped = net.eval()(image), net(image[..., : side - max(net.spec.size_multiple // 2, 1)])
        torch.testing.assert_close(cropped[..., :unaffected], whole[..., :unaffected], rtol=1e-4, atol=1e-5)
        affected = whole[..., unaffected : cropped.shape[3]]
        assert not torch.allclose(cropped[..., unaffected:], affected, rtol=1e-4, atol=1e-5)

    def test_a_wrong_number_of_channels_is_rejected(self, net: Network) -> None:
        with pytest.raises(ValueError, match=rf"expected images \(B, {self.channels}, H, W\)"):
            net(torch.rand(1, self.channels + 1, 16, 16))

    def test_integers_and_empty_tensors_are_rejected(self, net: Network) -> None:
        with pytest.raises(ValueError, match=r"expected floating-point images in \[0, 1\], got torch.uint8"):
            net(torch.zeros(1, self.channels, 16, 16, dtype=torch.uint8))
        for shape in ((0, self.channels, 16, 16), (1, self.channels, 0, 16)):
            with pytest.raises(ValueError, match="expected images with at least one pixel"):
                net(torch.zeros(shape))

    # -- gradients and arithmetic ---------------------------------------------------------------------------------

    def test_every_parameter_and_the_input_get_a_gradient(self, net: Network) -> None:
        images = self.images(net).requires_grad_()
        output = net.train()(images)
        (output * torch.rand_like(output)).mean().backward()
        for name, parameter in [("input", images), *net.named_parameters()]:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all()
            size, reason = parameter.grad.abs().max(), self.reason_for_no_gradient(name)
            assert (size < 1e-6) if reason else (size > 0), (
                f"gradient of {name}: {size:.1e} ({reason or 'expected > 0'})"
            )

    def reason_for_no_gradient(self, name: str) -> str | None:
        """Return the reason why a parameter has no gradient, or None."""
        return next((reason for pattern, reason in self.no_gradient.items() if fnmatchcase(name, pattern)), None)

    def test_bfloat16_autocast_is_close_to_float32(self, net: Network) -> None:
        images = self.images(net)
        net.eval()
        gradients = []
        for enabled in (False, True):
            net.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                output = net(images)
            output.float().square().mean().backward()
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in net.parameters()]))
            assert all(parameter.grad.dtype == torch.float32 for parameter in net.parameters())
        assert not torch.equal(*gradients)
        assert torch.linalg.vector_norm(gradients[1] - gradients[0]) < 0.1 * torch.linalg.vector_norm(gradients[0])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_runs_in_half_precision(self, net: Network, dtype: torch.dtype) -> None:
        images = self.images(net)
        with torch.no_grad():
            expected = net.eval()(images)
            output = net.to(dtype)(images.to(dtype))
        assert output.dtype == dtype
        assert (output.float() - expected).abs().mean() < 0.05 * expected.abs().mean().clamp(min=0.1)

    def test_channels_last_gives_the_same_output(self, net: Network) -> None:
        images = self.images(net)
        net.eval()
        with torch.no_grad():
            expected = net(images)
            net.to(memory_format=torch.channels_last)
            output = net(images.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)

    def test_is_deterministic(self, net: Network) -> None:
        images = self.images(net)
        net.eval()
        with torch.no_grad():
            assert torch.equal(net(images), net(images))

    @pytest.mark.slow
    def test_compiled_equals_eager(self, net: Network) -> None:
        images = self.images(net)
        net.eval()
        output = torch.compile(net)(images)
        torch.testing.assert_close(output, net(images), rtol=1e-4, atol=1e-5)
        compiled = torch.autograd.grad(output.square().mean(), list(net.parameters()), allow_unused=True)
        eager = torch.autograd.grad(net(images).square().mean(), list(net.parameters()), allow_unused=True)
        for one, other in zip(compiled, eager, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

    def test_an_exported_program_accepts_any_size(self, net: Network) -> None:
        program = trace(net).module()
        least = max(net.spec.min_size, net.spec.size_multiple)
        for batch, height, width in ((1, 1, 1), (3, least, least + 1), (1, least // 2 + 1, 3 * least + 2)):
            images = self.images(net, batch, height, width)
            with torch.no_grad():
                torch.testing.assert_close(program(images), net(images), rtol=1e-4, atol=1e-5)

    # -- independence, weights, copies ------------------------------------------------------------------------------

    def test_forward_does_not_modify_its_input(self, net: Network) -> None:
        images = self.images(net)
        before = images.clone()
        with torch.no_grad():
            net(images)
        assert torch.equal(images, before)

    def test_images_of_a_batch_are_independent(self, net: Network) -> None:
        images = self.images(net)
        net.eval()
        with torch.no_grad():
            separate = torch.cat([net(images[:1]), net(images[1:])])
            torch.testing.assert_close(net(images), separate, rtol=1e-4, atol=1e-5)

    def test_is_rebuilt_from_its_hyperparameters(self, net: Network) -> None:
        images = self.images(net)
        rebuilt = type(net)(**net.hyperparameters)
        rebuilt.load_state_dict(net.state_dict(), strict=True)
        with torch.no_grad():
            assert torch.equal(rebuilt.eval()(images), net.eval()(images))

    def test_is_detected_from_its_keys_and_shapes(self, net: Network) -> None:
        found = detect(net.state_dict())
        assert found is not None
        assert found.architecture == (self.detected_as or self.section["type"])
        assert found.mismatches == []
        assert found.scale == net.scale
        assert found.parameters == sum(parameter.numel() for parameter in net.parameters())

    def test_detection_of_damaged_weights_does_not_fail(self, net: Network) -> None:
        weights = {key: value.to("meta") for key, value in net.state_dict().items()}
        keys = sorted(weights.keys() - derived_keys(net))
        for number, key in enumerate(keys[:: -(-len(keys) // 40)]):
            shape = ((0,), (1, 1), (7, 5, 4, 4))[number % 3]
            for damaged in (
                {name: value for name, value in weights.items() if name != key},
                {**weights, key: torch.empty(shape, device="meta")},
            ):
                found = detect(damaged)
                assert found is None or found.mismatches

    def test_copies_are_equal_and_independent(self, net: Network) -> None:
        images = self.images(net)
        duplicate = copy.deepcopy(net).eval()
        with torch.no_grad():
            expected = net.eval()(images)
            assert torch.equal(duplicate(images), expected)
            for parameter in net.parameters():
                parameter.add_(1)
            assert torch.equal(duplicate(images), expected)

    def test_is_built_on_the_meta_device(self, net: Network) -> None:
        with torch.device("meta"):
            meta_net = ARCHS.build(self.section)
        shapes = {key: value.shape for key, value in net.state_dict().items()}
        assert {key: value.shape for key, value in meta_net.state_dict().items()} == shapes
        assert all(value.is_meta for value in [*meta_net.parameters(), *meta_net.buffers()])
        assert meta_net(self.images(net).to("meta")).shape == net(self.images(net)).shape

    def test_to_converts_parameters_and_buffers(self, net: Network) -> None:
        images = self.images(net)
        with torch.no_grad():
            expected = net.eval()(images)
            output = net.double()(images.double())
        assert output.dtype == torch.float64
        torch.testing.assert_close(output.float(), expected, rtol=1e-4, atol=1e-5)
