"""Tests that every kind of negatives passes: shapes, no graph, seeds, resumable state, evaluation mode."""

import copy

import pytest
import torch

from mcir.models.negatives import Negatives, build_negatives
from mcir.registry import ARCHS
from tests.models.conftest import NETWORK

BATCH, STORED = 2, 3


def make_network(seed=1):
    torch.manual_seed(seed)
    return ARCHS.build(NETWORK)


def to_vector(module):
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach()


def shift(network, distance):
    """Change the weights of a network, as a training step would."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(distance)


class NegativesContract:
    """Tests of one kind of negatives. A subclass sets ``section`` and ``count``, the number N of negatives."""

    section: dict
    count: int

    @pytest.fixture
    def batch(self):
        """Return degraded images, ground truths of twice the height and width, and stored negatives."""
        generator = torch.Generator().manual_seed(0)
        shapes = ((BATCH, 3, 6, 8), (BATCH, 3, 12, 16), (BATCH, STORED, 3, 12, 16))
        return [torch.rand(shape, generator=generator).requires_grad_() for shape in shapes]

    def build(self, network=None, seed=5):
        return build_negatives(self.section, network or make_network(), seed)

    def advance(self, negatives, network, batch, iterations):
        """Update network and negatives in each iteration; the output deviates from the ground truth."""
        _, gt, _ = batch
        noise = torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))
        for iteration in iterations:
            negatives.update_before_step(network, gt.detach() + noise, gt.detach())
            shift(network, 0.01 * iteration)
            negatives.update(network, iteration, gt.detach() + noise, gt.detach())

    def test_returns_n_images_for_each_image_without_graph(self, batch):
        negatives = self.build()
        assert isinstance(negatives, Negatives)
        outputs = negatives(*batch)
        assert outputs.shape == (self.count, *batch[1].shape) and outputs.dtype == torch.float32
        assert not outputs.requires_grad

    def test_positives_start_with_the_ground_truth(self, batch):
        first, *more = self.build().positives(batch[1])
        assert first is batch[1]
        assert all(image.shape == first.shape and not image.requires_grad for image in more)

    def test_supports_float64(self, batch):
        outputs = self.build(make_network().double())(*(images.double() for images in batch))
        assert outputs.dtype == torch.float64

    def test_stays_in_evaluation_mode_and_has_no_trained_parameters(self):
        negatives = self.build().train()
        assert not any(module.training for module in negatives.modules())
        assert not any(parameter.requires_grad for parameter in negatives.parameters())

    def test_depends_only_on_seed_and_iteration(self, batch):
        networks = [make_network(), make_network()]
        torch.manual_seed(7)
        state = torch.get_rng_state()
        one = self.build(networks[0])
        outputs = [one(*batch)]
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(8)
        other = self.build(networks[1])
        for iteration in (1, 2, 3):
            assert torch.equal(other(*batch), outputs[-1])
            assert all(map(torch.equal, one.positives(batch[1]), other.positives(batch[1])))
            for negatives, network in zip((one, other), networks, strict=True):
                self.advance(negatives, network, batch, [iteration])
            outputs.append(one(*batch))

    def test_a_part_of_a_batch_has_the_negatives_of_the_whole_batch(self, batch):
        negatives = self.build()
        parts = [negatives(*(images[[number]] for images in batch)) for number in range(BATCH)]
        torch.testing.assert_close(torch.cat(parts, dim=1), negatives(*batch))

    def test_resumes_from_its_state_dict(self, batch):
        network = make_network()
        through = self.build(network)
        self.advance(through, network, batch, [1, 2])
        state, weights = copy.deepcopy(through.state_dict()), copy.deepcopy(network.state_dict())
        resumed_network = make_network(seed=2)
        resumed = self.build(resumed_network)
        resumed.load_state_dict(state)
        resumed_network.load_state_dict(weights)
        assert torch.equal(resumed(*batch), through(*batch))
        for negatives, net in ((through, network), (resumed, resumed_network)):
            self.advance(negatives, net, batch, [3, 4])
        assert torch.equal(resumed(*batch), through(*batch))

    def test_start_from_restarts(self, batch):
        network = make_network()
        negatives = self.build(network)
        before = negatives(*batch)
        self.advance(negatives, network, batch, [1, 2, 3])
        negatives.start_from(make_network())
        assert torch.equal(negatives(*batch), before)
