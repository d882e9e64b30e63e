"""The distances compared with golden numbers, other libraries, formulas and mathematical properties."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mcir.errors import ArgumentError
from mcir.losses import BhattacharyyaDistance, EarthMoversDistance, MaximumMeanDiscrepancy
from mcir.losses import distances as module
from mcir.registry import DISTANCES

GOLDEN = Path(__file__).parents[1] / "golden" / "rcl" / "distances.npz"
TINY = 1e-18  # the golden numbers have no eps
CASES = {
    "emd_pooled": EarthMoversDistance(),
    "emd_channel_mean": EarthMoversDistance(channels="separate"),
    "bd_gauss_pooled": BhattacharyyaDistance(eps=TINY),
    "bd_gauss_channel_mean": BhattacharyyaDistance(channels="separate", eps=TINY),
    "bd_gauss_multivariate": BhattacharyyaDistance(channels="joint", eps=TINY),
    "mmd2_biased_pooled_mix": MaximumMeanDiscrepancy(),
    "mmd2_unbiased_pooled_mix": MaximumMeanDiscrepancy(unbiased=True),
    "mmd2_biased_pooled_s0p04": MaximumMeanDiscrepancy(bandwidths=[0.04]),
}
METRICS = [EarthMoversDistance(), EarthMoversDistance(channels="separate")]
ALL = [*CASES.values()]
BIASED = [case for name, case in CASES.items() if "unbiased" not in name]
NAMES = list(CASES)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def residuals(seed, count=3, size=(3, 5, 4), dtype=torch.float64):
    """Return noise with a different mean and standard deviation for each residual."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.02 + 0.1 * torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    mean = 0.1 * torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    return (mean + spread * torch.randn(count, *size, generator=generator, dtype=torch.float64)).to(dtype)


# -- reference values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_values_equal_the_golden_ones(golden, name):
    expected, residual = golden[name], golden["residuals"]
    defined = ~expected.isnan()  # the unbiased distance of a residual to itself
    assert defined.sum() >= 56
    found = CASES[name](residual, residual)
    assert found.dtype == torch.float64 and found.shape == (8, 8)
    assert (found - expected)[defined].abs().max() < 1e-12
    assert (CASES[name](residual.float(), residual.float()) - expected)[defined].abs().max() < 2e-7


@pytest.mark.parametrize("name", ["emd_pooled", "emd_channel_mean", "bd_gauss_pooled", "mmd2_biased_pooled_mix"])
def test_gradients_equal_the_golden_ones(golden, name):
    a, b = (golden["residuals"][item, None].clone().requires_grad_() for item in (0, 3))
    CASES[name](a, b).sum().backward()
    assert (a.grad[0] - golden[f"grad_{name}_wrt_p0"]).abs().max() < 1e-15
    assert (b.grad[0] - golden[f"grad_{name}_wrt_q3"]).abs().max() < 1e-15


def test_emd_equals_scipy():
    a, b = residuals(1, 2), residuals(2, 3)
    pooled = [[stats.wasserstein_distance(x.flatten(), y.flatten()) for y in b] for x in a]
    separate = [[np.mean([*map(stats.wasserstein_distance, x.flatten(1), y.flatten(1))]) for y in b] for x in a]
    assert EarthMoversDistance()(a, b).numpy() == pytest.approx(np.array(pooled), rel=1e-12)
    assert EarthMoversDistance(channels="separate")(a, b).numpy() == pytest.approx(np.array(separate), rel=1e-12)


def test_bd_equals_the_integral_over_the_densities():
    a, b = residuals(3, 1), residuals(4, 1)
    x = np.linspace(-3, 3, 200001)
    densities = [stats.norm(float(each.mean()), float(each.std(correction=0))).pdf(x) for each in (a, b)]
    expected = -math.log(np.sqrt(densities[0] * densities[1]).sum() * (x[1] - x[0]))
    assert BhattacharyyaDistance()(a, b).item() == pytest.approx(expected, rel=1e-7)


def literal_mmd(a, b, bandwidths, unbiased):
    """Return the MMD from all m² kernels of each pair."""

    def kernel(u, v):
        square = (u[:, None] - v[None]).square()
        return sum(torch.exp(-square / (2 * s * s)) for s in bandwidths) / len(bandwidths)

    def same(u):
        found = kernel(u, u)
        return (found.sum() - len(u)) / (len(u) * (len(u) - 1)) if unbiased else found.mean()

    rows = [[same(u) + same(v) - 2 * kernel(u, v).mean() for v in b.flatten(1)] for u in a.flatten(1)]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("bandwidths", [[0.01, 0.02, 0.04, 0.08, 0.16], [0.3], [0.013, 0.7]])
def test_characteristic_functions_give_the_mmd_of_all_kernels(bandwidths, unbiased):
    distance = MaximumMeanDiscrepancy(bandwidths=bandwidths, samples=None, unbiased=unbiased)
    a, b = (3 * residuals(seed, 2) for seed in (5, 6))
    a[0, 0, 0, 0], b[1, 0, 0, 0] = 1.999, -1.999  # the largest supported difference
    a, b = a.requires_grad_(), b.requires_grad_()
    found, expected = distance(a, b), literal_mmd(a, b, bandwidths, unbiased)
    assert (found - expected).abs().max() < 1e-12
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    for ours, theirs in zip(
        *(torch.autograd.grad((x * weights).sum(), (a, b)) for x in (found, expected)), strict=True
    ):
        assert (ours - theirs).abs().max() < 1e-11 < theirs.abs().max()


# -- properties -------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**31)
numbers = st.floats(-0.3, 0.3)
factors = st.floats(0.2, 3.0)
properties = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize("distance", ALL, ids=NAMES)
@given(seed=seeds)
@properties
def test_the_order_of_pixels_does_not_matter(distance, seed):
    a, b = residuals(seed, 2), residuals(seed + 1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    shuffled = a.flatten(2)[..., order].view_as(a)
    torch.testing.assert_close(distance(shuffled, b), distance(a, b), rtol=0, atol=1e-12)


@pytest.mark.parametrize("distance", ALL, ids=NAMES)
@given(seed=seeds)
@properties
def test_a_distance_is_symmetric_and_not_negative_and_zero_between_equal_residuals(distance, seed):
    a, b = residuals(seed, 2), residuals(seed + 1)
    torch.testing.assert_close(distance(a, b), distance(b, a).T, rtol=0, atol=1e-14)
    if distance in BIASED:
        assert distance(a, b).min() > 0
        assert distance(a, a).diagonal().abs().max() < 1e-14


@pytest.mark.parametrize("distance", METRICS, ids=["pooled", "separate"])
@given(seed=seeds, shift=numbers, factor=factors)
@properties
def test_emd_is_a_metric_and_follows_shifts_and_scales(distance, seed, shift, factor):
    a, b, c = (residuals(seed + number, 2) for number in range(3))
    near = {"rtol": 1e-12, "atol": 1e-15}
    torch.testing.assert_close(distance(a, a + shift).diagonal(), torch.full((2,), abs(shift), dtype=a.dtype), **near)
    torch.testing.assert_close(distance(-factor * a + shift, -factor * b + shift), factor * distance(a, b), **near)
    assert (distance(a, c)[:, None, :] <= distance(a, b)[:, :, None] + distance(b, c)[None] + 1e-15).all()


@given(seed=seeds)
@properties
def test_emd_of_pooled_values_is_at_most_that_of_separate_channels(seed):
    a, b = residuals(seed), residuals(seed + 1)
    assert (EarthMoversDistance()(a, b) <= EarthMoversDistance(channels="separate")(a, b) + 1e-15).all()


@pytest.mark.parametrize("channels", ["pooled", "separate", "joint"])
@given(seed=seeds, shift=numbers, factor=factors)
@properties
def test_bd_does_not_change_when_both_are_shifted_and_scaled(channels, seed, shift, factor):
    distance, a, b = BhattacharyyaDistance(channels=channels, eps=TINY), residuals(seed), residuals(seed + 1)
    torch.testing.assert_close(distance(shift - factor * a, shift - factor * b), distance(a, b), rtol=1e-9, atol=1e-13)


def test_joint_bd_does_not_depend_on_the_colour_space():
    distance, a, b = BhattacharyyaDistance(channels="joint", eps=TINY), residuals(1), residuals(2)
    colours = torch.tensor([[0.3, 0.6, 0.1], [-0.2, -0.3, 0.5], [0.6, -0.5, -0.1]], dtype=torch.float64)
    converted = (torch.einsum("dc,nchw->ndhw", colours, each) for each in (a, b))
    torch.testing.assert_close(distance(*converted), distance(a, b), rtol=1e-9, atol=0)


@given(seed=seeds, shift=numbers, factor=factors)
@properties
def test_mmd_does_not_change_when_both_are_shifted_and_scaled_with_the_bandwidths(seed, shift, factor):
    a, b = residuals(seed), residuals(seed + 1)
    expected = MaximumMeanDiscrepancy(bandwidths=[0.02, 0.1])(a, b)
    scaled = MaximumMeanDiscrepancy(bandwidths=[0.02 * factor, 0.1 * factor], largest=10.0)
    torch.testing.assert_close(scaled(factor * a + shift, factor * b + shift), expected, rtol=0, atol=1e-12)


def test_emd_and_bd_of_gaussian_noise():
    spreads = torch.tensor([0.02, 0.05, 0.08]).view(3, 1, 1, 1)
    noise = spreads * torch.randn(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    s, t = (spreads.flatten().double()[:, None] for _ in range(2))
    found = EarthMoversDistance()(noise, noise).double()
    torch.testing.assert_close(found, math.sqrt(2 / math.pi) * (s - t.T).abs(), rtol=0.05, atol=1e-4)
    expected = 0.5 * torch.log((s**2 + t.T**2) / (2 * s * t.T))
    torch.testing.assert_close(BhattacharyyaDistance()(noise, noise), expected, rtol=0.05, atol=1e-4)


# -- arithmetic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ALL, ids=NAMES)
def test_gradients_are_correct(distance):
    a, b = residuals(7, 2, (3, 3, 2)).requires_grad_(), residuals(8, 3, (3, 3, 2)).requires_grad_()
    assert torch.autograd.gradcheck(distance, (a, b), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("distance", ALL, ids=NAMES)
def test_half_precision_residuals_are_compared_in_float32(distance):
    a, b = residuals(9, dtype=torch.bfloat16).requires_grad_(), residuals(10, dtype=torch.bfloat16)
    expected = distance(a.detach().double(), b.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = distance(a, b)
        found.sum().backward()
    assert found.dtype in (torch.float32, torch.float64) and a.grad.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("distance", BIASED)
def test_equal_residuals_have_no_gradient(distance):
    """The gradient at distance 0 is 0, not NaN."""
    a, b = (residuals(11, 1, dtype=torch.float32).requires_grad_() for _ in range(2))
    distance(a, b).sum().backward()
    scale = torch.autograd.grad(distance(a, residuals(12, 1, dtype=torch.float32)).sum(), a)[0].abs().max()
    assert a.grad.abs().max() < 1e-5 * scale and b.grad.abs().max() < 1e-5 * scale


@pytest.mark.parametrize("channels", ["pooled", "separate", "joint"])
def test_bd_is_numerically_stable(channels):
    distance = BhattacharyyaDistance(channels=channels)
    far = residuals(13, 2, dtype=torch.float32) + 100
    near = (far.double() - 100).float()  # exact
    torch.testing.assert_close(distance(far, far), distance(near, near), rtol=1e-9, atol=1e-15)
    grey = residuals(14, 2, dtype=torch.float32)[:, :1].expand(2, 3, 5, 4)
    flat = torch.zeros(2, 3, 5, 4, requires_grad=True)
    for degenerate in (grey, flat):  # singular covariances
        values = distance(degenerate, near)
        assert values.isfinite().all() and (values > 0).all()
        assert distance(degenerate, degenerate).diagonal().abs().max() < 1e-6
    distance(flat, near).sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", NAMES)
def test_residuals_that_are_not_finite_have_no_finite_distance(name, value):
    a = residuals(15, 2)
    a[0, 0, 0, 0] = value
    distances = CASES[name](a, residuals(16, 2))
    assert not distances[0].isfinite().any() and distances[1].isfinite().all()


def test_emd_is_computed_in_parts(monkeypatch):
    a, b = residuals(17, 3).requires_grad_(), residuals(18, 2).requires_grad_()
    expected = EarthMoversDistance()(a, b)
    gradients = torch.autograd.grad(expected.square().sum(), (a, b))
    widths = []
    cdist = torch.cdist
    monkeypatch.setattr(module.torch, "cdist", lambda x, y, p: widths.append(x.shape[1]) or cdist(x, y, p=p))
    monkeypatch.setattr(module, "_CHUNK", 3 * 2 * 7 + 1)
    found = EarthMoversDistance()(a, b)
    assert widths == [7] * 8 + [4]
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found.square().sum(), (a, b)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("distance", ALL, ids=NAMES)
def test_memory_does_not_grow_with_pairs_times_pixels(distance):
    """The memory of the backward pass grows with the number of residuals, not with the number of pairs."""

    def saved_bytes(count):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        a = residuals(19, count, (3, 32, 32), torch.float32).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            distance(a, a.detach())
        return sum(sizes.values())

    assert saved_bytes(32) < 2.5 * saved_bytes(16)


# -- samples ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sampled(monkeypatch):
    """Return a list that collects the values that MMD compares in each call."""
    seen = []
    compute = MaximumMeanDiscrepancy._cosines_and_sines
    monkeypatch.setattr(
        MaximumMeanDiscrepancy, "_cosines_and_sines", lambda self, x: seen.append(x) or compute(self, x)
    )
    return seen


def test_every_residual_and_every_call_gets_other_samples_without_duplicates(sampled):
    numbered = (torch.arange(300.0) / 300).view(1, 3, 10, 10).expand(2, 3, 10, 10)
    distance = MaximumMeanDiscrepancy(samples=40)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = distance.describe(numbered)
    distance.describe(numbered)
    torch.set_rng_state(state)  # as in a resumed run
    assert torch.equal(distance.describe(numbered), first)
    for values in sampled:
        assert values.shape == (2, 40) and all(len(row.unique()) == 40 for row in values)
        assert set(values[0].tolist()) != set(values[1].tolist())
    assert set(sampled[0][0].tolist()) != set(sampled[1][0].tolist())
    assert torch.equal(sampled[2], sampled[0])
    assert sampled[0].min() < 0.2 and sampled[0].max() > 0.8  # from the whole range


def test_samples_give_an_unbiased_estimate():
    a, b = residuals(20, 2, (3, 32, 32)), residuals(21, 2, (3, 32, 32))
    expected = MaximumMeanDiscrepancy(samples=None, unbiased=True)(a, b)
    estimate = MaximumMeanDiscrepancy(samples=64, unbiased=True)
    torch.manual_seed(0)
    draws = torch.stack([estimate(a, b) for _ in range(200)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - expected).abs() < 4 * error + 1e-3).all() and (error > 0).all()


def test_many_samples_are_processed_in_parts(monkeypatch, sampled):
    a, b = residuals(22, 2).requires_grad_(), residuals(23, 3)
    distance = MaximumMeanDiscrepancy(samples=None)
    whole = distance(a, b)
    (expected,) = torch.autograd.grad(whole.sum(), a)
    monkeypatch.setattr(module, "_MAX_STORED_VALUES", 25)
    sampled.clear()
    parts = distance(a, b)
    assert [tuple(part.shape) for part in sampled] == [(2, 25), (2, 25), (2, 10), (3, 25), (3, 25), (3, 10)]
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(torch.autograd.grad(parts.sum(), a)[0], expected, rtol=1e-9, atol=1e-14)


def test_values_beyond_the_largest_are_clamped():
    distance, b = MaximumMeanDiscrepancy(largest=0.5), residuals(24)
    a = 5 * residuals(25)
    assert a.abs().max() > 0.5
    assert torch.equal(distance(a, b), distance(a.clamp(-0.5, 0.5), b.clamp(-0.5, 0.5)))
    ends = torch.tensor([-9, 9], dtype=torch.float64).view(2, 1, 1, 1)
    expected = 2 - 2 * sum(math.exp(-1 / (2 * s * s)) for s in (0.01, 0.02, 0.04, 0.08, 0.16)) / 5
    assert distance(ends, ends)[0, 1].item() == pytest.approx(expected, abs=1e-13)


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"type": "EarthMoversDistance", "channels": "joint"},
            "channels: expected one of 'pooled', 'separate', got 'joint'",
        ),
        (
            {"type": "BhattacharyyaDistance", "channels": "rgb"},
            "channels: expected one of 'pooled', .*, 'joint', got 'rgb'",
        ),
        ({"type": "BhattacharyyaDistance", "eps": 0.0}, r"eps: expected a number in \(0, 1\], got 0.0"),
        ({"type": "BhattacharyyaDistance", "eps": math.nan}, "eps: expected .* got nan"),
        (
            {"type": "MaximumMeanDiscrepancy", "bandwidths": []},
            r"bandwidths: expected a list of 1 to 64 values, got \[\]",
        ),
        (
            {"type": "MaximumMeanDiscrepancy", "bandwidths": [0.1, -1.0]},
            "bandwidths.1: expected a finite number above 0, got -1.0",
        ),
        ({"type": "MaximumMeanDiscrepancy", "largest": math.inf}, "largest: expected a finite number above 0, got inf"),
        ({"type": "MaximumMeanDiscrepancy", "samples": 1}, "samples: expected an integer ≥ 2, got 1"),
        (
            {"type": "MaximumMeanDiscrepancy", "bandwidths": [5e-5]},
            "bandwidths: expected larger .* frequencies, at most",
        ),
    ],
)
def test_arguments_are_checked(section, message):
    with pytest.raises(ArgumentError, match=message):
        DISTANCES.build(section)


@pytest.mark.parametrize("distance", ALL, ids=NAMES)
def test_residuals_are_checked(distance):
    with pytest.raises(ValueError, match=r"floating-point residuals \(M, C, H, W\), got .*\(3, 5, 4\)"):
        distance.describe(torch.rand(3, 5, 4))
    with pytest.raises(ValueError, match=r"got torch.uint8 \(1, 3, 5, 4\)"):
        distance.describe(torch.zeros(1, 3, 5, 4, dtype=torch.uint8))


def test_sizes_are_checked():
    with pytest.raises(ValueError, match=r"of the same size, got descriptions of the sizes \(60,\) and \(75,\)"):
        EarthMoversDistance()(residuals(1), residuals(1, size=(3, 5, 5)))
    with pytest.raises(ValueError, match="residuals of the same size"):
        BhattacharyyaDistance(channels="joint")(residuals(1), residuals(1, size=(1, 5, 4)))
