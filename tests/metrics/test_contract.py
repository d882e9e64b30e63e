"""The contract that every registered metric fulfils."""

from itertools import pairwise

import pytest
import torch

from mcir.errors import ArgumentError
from mcir.metrics.fidelity import FullReference
from mcir.registry import METRICS

WITH_OPTIONS = [name for name in METRICS.names() if "crop_border" in METRICS.parameters(name)]


def pair(shape=(3, 3, 24, 32), noise=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(shape, generator=generator)
    return gt + noise * (torch.rand(shape, generator=generator) - 0.5), gt


@pytest.fixture(params=METRICS.names())
def metric(request):
    return METRICS.build({"type": request.param})


def test_returns_one_float64_value_per_image(metric):
    output, gt = pair()
    before = output.clone(), gt.clone()
    values = metric(output, gt)
    assert values.shape == (3,)
    assert values.dtype == torch.float64
    assert values.isfinite().all()
    single = torch.cat([metric(output[index : index + 1], gt[index : index + 1]) for index in range(3)])
    torch.testing.assert_close(values, single, rtol=0, atol=1e-12)
    assert torch.equal(output, before[0]) and torch.equal(gt, before[1])


def test_does_not_depend_on_dtype_or_gradients(metric):
    output, gt = pair()
    assert not metric(output.clone().requires_grad_(), gt).requires_grad
    half = output.bfloat16()
    assert torch.equal(metric(half, gt), metric(half.float(), gt))
    assert torch.equal(metric(half, gt), metric(half.double(), gt))


def test_values_outside_the_range_are_clamped(metric):
    output, gt = pair(noise=2.0)
    assert not torch.equal(output, output.clamp(0, 1))
    assert torch.equal(metric(output, gt), metric(output.clamp(0, 1), gt))


def test_flipped_images_have_the_same_value(metric):
    output, gt = pair()
    for axis in (2, 3):
        torch.testing.assert_close(metric(output.flip(axis), gt.flip(axis)), metric(output, gt), rtol=1e-9, atol=1e-9)


def test_less_noise_is_better(metric):
    assert metric.higher_is_better
    assert metric.unit == ("dB" if "PSNR" in type(metric).__name__ else "")
    ramp = torch.linspace(0.2, 0.8, 32).expand(3, 3, 24, 32)
    noise, _ = pair((3, 3, 24, 32))
    values = [metric(ramp + strength * (noise - 0.5), ramp) for strength in (0.0, 0.02, 0.1, 0.4)]
    assert all((better > worse).all() for better, worse in pairwise(values))
    assert type(metric).__name__ == "PSNRB" or (values[0] == (torch.inf if metric.unit else 1.0)).all()


def test_the_smallest_image_is_accepted_and_a_smaller_one_rejected(metric):
    side, name = metric.min_size, type(metric).__name__
    assert metric(*pair((1, 3, side, side + 1))).isfinite().all()
    if side > 1:
        with pytest.raises(ValueError, match=f"{name}: expected images of at least {side}×{side} pixels, got .*{side}"):
            metric(*pair((1, 3, side, side - 1)))


def test_wrong_shapes_are_rejected(metric):
    name = type(metric).__name__
    output, gt = pair()
    with pytest.raises(ValueError, match=rf"{name}: .* got \(3, 3, 24, 32\) and \(3, 3, 24, 31\)"):
        metric(output, gt[..., :-1])
    with pytest.raises(ValueError, match=rf"{name}: expected two batches \(B, C, H, W\) of the same shape"):
        metric(output[0], gt[0])


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_the_border_is_cropped_and_luma_needs_rgb(name):
    output, gt = pair((1, 3, 28, 32))
    inner = [each[..., 2:-2, 2:-2] for each in (output, gt)]
    assert torch.equal(
        METRICS.build({"type": name, "crop_border": 2})(output, gt), METRICS.build({"type": name})(*inner)
    )
    with pytest.raises(ValueError, match=r"without crop_border 14"):
        METRICS.build({"type": name, "crop_border": 14})(output, gt)
    with pytest.raises(ArgumentError, match="crop_border: expected an integer ≥ 0, got -1") as caught:
        METRICS.build({"type": name, "crop_border": -1})
    assert caught.value.name == "crop_border"


@pytest.mark.parametrize("name", METRICS.names())
def test_luma_metrics_reject_grey_images(name):
    metric = METRICS.build({"type": name, **({"test_y_channel": True} if name in WITH_OPTIONS else {})})
    if not metric.test_y_channel:
        pytest.skip("compares RGB only")
    with pytest.raises(ValueError, match=f"{name}: expected RGB images to compare their luma, got 1 channels"):
        metric(*pair((1, 1, 24, 24)))


def test_registered_metrics_have_the_base_class():
    assert all(issubclass(METRICS.get(name), FullReference) for name in METRICS.names())
