"""The cache of activations: validity and lifetime of its entries."""

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from mcir.features import FeatureCache, VGGFeatures

LAYERS = ["relu1_1", "relu1_2"]


class CountingVGG(VGGFeatures):
    """A VGG that counts its forward passes."""

    passes = 0

    def stream(self, x: Tensor, layers: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        self.passes += 1
        return super().stream(x, layers)


@pytest.fixture
def network() -> CountingVGG:
    return CountingVGG(LAYERS, "vgg16", "random")


def images(seed: int = 0) -> Tensor:
    return torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_activations_are_computed_once_with_and_once_without_a_graph(network: CountingVGG) -> None:
    cache, image = FeatureCache(), images().requires_grad_()
    for with_graph in (True, False, True, False):
        found = cache.activations(network, image, LAYERS, with_graph)
        assert list(found) == LAYERS and found["relu1_2"].requires_grad == with_graph
    assert network.passes == 2
    cache.clear()
    cache.activations(network, image, LAYERS, True)
    assert network.passes == 3


def test_activations_are_recomputed_if_the_image_or_the_precision_changes(network: CountingVGG) -> None:
    cache, image = FeatureCache(), images()
    before = cache.activations(network, image, LAYERS, False)["relu1_1"]
    image.mul_(0.5)
    changed = cache.activations(network, image, LAYERS, False)["relu1_1"]
    assert torch.equal(changed, network(image)["relu1_1"]) and not torch.equal(changed, before)
    with torch.autocast("cpu", torch.bfloat16):
        assert cache.activations(network, image, LAYERS, False)["relu1_1"].dtype == torch.bfloat16
    network.double()
    assert cache.activations(network, image, LAYERS, False)["relu1_1"].dtype == torch.float64
    equal = image.clone()  # a different tensor with equal values
    passes = network.passes
    cache.activations(network, equal, LAYERS, False)
    assert network.passes == passes + 1


def test_without_clear_only_the_latest_activations_are_kept(network: CountingVGG) -> None:
    cache = FeatureCache()
    kept = []
    for seed in range(4):
        found = cache.activations(network, images(seed).requires_grad_(), LAYERS, True)
        kept.append(weakref.ref(found["relu1_2"]))
        del found
    gc.collect()
    assert [one() is not None for one in kept] == [False, False, False, True]
    cache.clear()
    gc.collect()
    assert kept[-1]() is None


def test_a_new_tensor_at_the_address_of_an_old_one_is_recognized(network: CountingVGG) -> None:
    cache = FeatureCache()
    for seed in range(20):
        image = images(seed)
        assert torch.equal(cache.activations(network, image, LAYERS, False)["relu1_1"], network(image)["relu1_1"])
        del image


def test_inference_tensors_are_not_cached_because_they_have_no_version(network: CountingVGG) -> None:
    cache = FeatureCache()
    with torch.inference_mode():
        image = images()
        before = cache.activations(network, image, LAYERS, False)["relu1_1"]
        assert not torch.equal(cache.activations(network, image.mul_(0.5), LAYERS, False)["relu1_1"], before)


def test_copies_and_pickles_are_empty(network: CountingVGG) -> None:
    cache = FeatureCache()
    cache.activations(network, images().requires_grad_(), LAYERS, True)
    assert not copy.deepcopy(cache)._entries and not pickle.loads(pickle.dumps(cache))._entries
    assert cache._entries
