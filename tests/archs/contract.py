"""What every architecture promises: a test class inherits the contract and gives the section to build."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from mcir.registry import ARCHS


class ArchitectureContract:
    """Base of the tests of one architecture.

    ``section`` builds a network that is small enough for a test and has every kind of layer of the architecture.
    """

    section: ClassVar[dict[str, Any]]
    channels: ClassVar[int] = 3

    @pytest.fixture
    def net(self) -> nn.Module:
        torch.manual_seed(0)
        return ARCHS.build(self.section)

    def images(self, net: nn.Module, batch: int = 2, height: int = 9, width: int = 12, seed: int = 1) -> Tensor:
        """Random images of about that size, enlarged to what the network takes."""
        multiple, least = net.size_multiple, net.min_size
        height, width = (-(-max(size, least) // multiple) * multiple for size in (height, width))
        return torch.rand(batch, self.channels, height, width, generator=torch.Generator().manual_seed(seed))

    def test_states_its_facts(self, net: nn.Module) -> None:
        assert isinstance(net.scale, int) and net.scale >= 1
        assert isinstance(net.size_multiple, int) and net.size_multiple >= 1
        assert isinstance(net.min_size, int) and net.min_size >= 1

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (9, 12)])
    def test_every_size_gives_a_finite_output_of_the_right_shape(self, net: nn.Module, size: tuple[int, int]) -> None:
        images = self.images(net, 1, *size)
        with torch.no_grad():
            output = net(images)
        assert output.shape == (1, self.channels, images.shape[2] * net.scale, images.shape[3] * net.scale)
        assert output.dtype == torch.float32
        assert output.isfinite().all()

    def test_every_parameter_and_the_input_get_a_gradient(self, net: nn.Module) -> None:
        images = self.images(net).requires_grad_()
        net.train()
        output = net(images)
        (output * torch.rand_like(output)).mean().backward()
        for name, parameter in [("input", images), *net.named_parameters()]:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, (
                f"the gradient of {name} is empty"
            )

    def test_bfloat16_autocast_stays_near_float32(self, net: nn.Module) -> None:
        images = self.images(net)
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

    def test_channels_last_gives_the_same_output(self, net: nn.Module) -> None:
        images = self.images(net)
        net.eval()
        with torch.no_grad():
            expected = net(images)
            net.to(memory_format=torch.channels_last)
            output = net(images.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)

    def test_same_input_same_bits(self, net: nn.Module) -> None:
        images = self.images(net)
        net.eval()
        with torch.no_grad():
            assert torch.equal(net(images), net(images))

    def test_forward_leaves_its_input_alone(self, net: nn.Module) -> None:
        images = self.images(net)
        before = images.clone()
        with torch.no_grad():
            net(images)
        assert torch.equal(images, before)

    def test_images_of_a_batch_do_not_meet(self, net: nn.Module) -> None:
        images = self.images(net)
        net.eval()
        with torch.no_grad():
            apart = torch.cat([net(images[:1]), net(images[1:])])
            torch.testing.assert_close(net(images), apart, rtol=1e-4, atol=1e-5)

    def test_rebuilt_from_its_hyperparameters(self, net: nn.Module) -> None:
        images = self.images(net)
        again = type(net)(**net.hyperparameters)
        again.load_state_dict(net.state_dict(), strict=True)
        with torch.no_grad():
            assert torch.equal(again.eval()(images), net.eval()(images))

    def test_copies_are_equal_and_independent(self, net: nn.Module) -> None:
        images = self.images(net)
        twin = copy.deepcopy(net).eval()
        with torch.no_grad():
            expected = net.eval()(images)
            assert torch.equal(twin(images), expected)
            for parameter in net.parameters():
                parameter.add_(1)
            assert torch.equal(twin(images), expected)

    def test_built_on_the_meta_device_without_memory(self, net: nn.Module) -> None:
        with torch.device("meta"):
            shadow = ARCHS.build(self.section)
        shapes = {key: value.shape for key, value in net.state_dict().items()}
        assert {key: value.shape for key, value in shadow.state_dict().items()} == shapes
        assert all(value.is_meta for value in [*shadow.parameters(), *shadow.buffers()])
        assert shadow(self.images(net).to("meta")).shape == net(self.images(net)).shape

    def test_follows_to_in_every_part(self, net: nn.Module) -> None:
        images = self.images(net)
        with torch.no_grad():
            expected = net.eval()(images)
            output = net.double()(images.double())
        assert output.dtype == torch.float64
        torch.testing.assert_close(output.float(), expected, rtol=1e-4, atol=1e-5)
