"""Tests of synthetic rain, haze, blur and sensor noise."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from mcir.data.bundled import BundledPhotos
from mcir.data.sampler import SampleIndex
from mcir.data.storage import Memory
from mcir.data.synthetic import MotionBlur, RainStreaks, SensorNoise, SyntheticHaze
from mcir.errors import ArgumentError
from mcir.registry import DEGRADATIONS
from tests.data.images import StoredPairs, noise, smooth

NAMES = ["RainStreaks", "SyntheticHaze", "MotionBlur", "SensorNoise"]


def image_tensor(height=48, width=40, channels=3):
    return torch.from_numpy(smooth(height, width, channels)).permute(2, 0, 1)


def flat(value, side=256, channels=3):
    return torch.full((channels, side, side), value, dtype=torch.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_result_depends_only_on_the_generator_and_keeps_the_type(name, dtype, channels):
    image = image_tensor(channels=channels)
    image = image if dtype == torch.uint8 else image.to(dtype) / 255
    before = image.clone()
    degradation = DEGRADATIONS.build({"type": name})
    first, again, other = (degradation(image, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and torch.equal(image, before)
    assert not torch.equal(first, other) and not torch.equal(first, image)
    assert first.shape == image.shape and first.dtype == dtype
    assert dtype == torch.uint8 or (first.min() >= 0 and first.max() <= 1)


@pytest.mark.parametrize("name", NAMES)
def test_float_and_8_bit_images_give_the_same_result(name):
    image = image_tensor()
    degradation = DEGRADATIONS.build({"type": name})
    exact = degradation(image.double() / 255, rng(1)) * 255
    assert (degradation(image, rng(1)) - exact).abs().max() <= 0.501


@pytest.mark.parametrize(
    "degradation",
    [
        RainStreaks(density=0),
        RainStreaks(strength=0),
        SyntheticHaze(beta=0),
        MotionBlur(length=0),
        SensorNoise(shot=0, read=0),
    ],
    ids=lambda degradation: type(degradation).__name__,
)
def test_zero_strength_leaves_an_image_unchanged(degradation):
    image = image_tensor()
    assert torch.equal(degradation(image, rng()), image)
    assert torch.equal(degradation(image.float() / 255, rng()), image.float() / 255)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_bundled_photographs_can_be_degraded(name, split):
    dataset = BundledPhotos(split, scale=1, gt_size=64, use_hflip=True, use_rot=True, degradation={"type": name})
    for index in range(len(dataset)):
        item = dataset[SampleIndex(index, index, 0)]
        assert item["lq"].shape == item["gt"].shape == (3, 64, 64)
        assert item["lq"].dtype == item["gt"].dtype == torch.uint8
        assert not torch.equal(item["lq"], item["gt"])


# -- rain -----------------------------------------------------------------------------------------------------------


def test_streaks_have_the_given_length_angle_and_strength():
    """A few vertical streaks on black are columns of the given length and brightness."""
    image = RainStreaks(density=0.3, length=20, angle=0, strength=0.8)(flat(0, 200, 1), rng(5))[0].numpy()
    columns = np.flatnonzero(image.any(0))
    inside = [column for column in columns if not image[[0, -1], column].any()]
    assert len(inside) > 2
    for column in inside:
        lit = np.flatnonzero(image[:, column])
        assert np.array_equal(lit, np.arange(lit[0], lit[0] + 21))
        assert 0.4 * 255 - 1 <= image[lit, column].max() <= 0.8 * 255 + 1


@pytest.mark.parametrize(("angle", "step"), [(90, (0, 1)), (45, (1, 1)), (-45, (1, -1))])
def test_streaks_have_the_given_angle(angle, step):
    image = RainStreaks(density=1, length=24, angle=angle, strength=1)(flat(0, 200, 1), rng())[0].float().numpy()
    image -= image.mean()

    def correlation(down, right):
        return (image * np.roll(image, (down, right), (0, 1))).mean() / (image**2).mean()

    steps = {(0, 1), (1, 0), (1, 1), (1, -1)}
    others = max(correlation(8 * down, 8 * right) for down, right in steps - {step})
    assert correlation(8 * step[0], 8 * step[1]) > 0.3 > others


def test_rain_has_the_given_density_up_to_the_border():
    """Each streak adds its length times its mean brightness, ¾ of the strength, also at the border."""
    density, length, strength = 0.5, 16, 0.8
    rain = RainStreaks(density=density, length=length, angle=[-30, 30], strength=strength)
    mean = torch.stack([rain(flat(0, 128, 1), rng(seed))[0].float() / 255 for seed in range(120)]).mean(0)
    expected = mean.mean().item()
    vertical = RainStreaks(density=density, length=length, angle=0, strength=strength)
    upright = torch.stack([vertical(flat(0, 128, 1), rng(seed))[0].float() / 255 for seed in range(120)]).mean()
    assert upright.item() == pytest.approx(density / 1000 * (length + 0.5) * 0.75 * strength, rel=0.1)
    border = torch.cat([mean[:4].flatten(), mean[-4:].flatten(), mean[:, :4].flatten(), mean[:, -4:].flatten()])
    assert border.mean().item() == pytest.approx(expected, rel=0.25)


def test_rain_is_blended_by_screen():
    """Streaks add less to a grey value than to black, in proportion to its distance from white; white stays white."""
    rain = RainStreaks(density=5)
    streaks = rain(flat(0).double() / 255, rng(2))
    gray = flat(100).double() / 255
    assert torch.allclose(rain(gray, rng(2)), 1 - (1 - gray) * (1 - streaks), atol=1e-6)
    assert torch.equal(rain(flat(255), rng(2)), flat(255))


# -- haze -----------------------------------------------------------------------------------------------------------


def test_haze_follows_the_scattering_model():
    """Black and white images give the airlight and transmission of each pixel, which determine every other image."""
    haze = SyntheticHaze(beta=1.3, airlight=0.9)
    image = image_tensor(64, 80).double() / 255
    black, white, hazy = (haze(x, rng(7)) for x in (torch.zeros_like(image), torch.ones_like(image), image))
    transmission = white - black
    assert torch.allclose(hazy, image * transmission + black, atol=1e-6)
    assert torch.allclose(black, 0.9 * (1 - transmission), atol=1e-6)
    depth = -transmission.log() / 1.3
    assert depth.min() >= -1e-6 and depth.max() <= 1 + 1e-6
    assert torch.allclose(depth[0], depth[2], atol=1e-6)


def test_the_depth_is_smooth_and_has_the_same_distribution_everywhere():
    haze = SyntheticHaze(beta=1, airlight=1)
    depths = torch.stack([-(1 - haze(torch.zeros(1, 96, 96), rng(seed)))[0].log() for seed in range(200)])
    steps = torch.cat([depths.diff(dim=1).flatten(), depths.diff(dim=2).flatten()]).abs()
    assert steps.max() < 0.5 * 2 * np.pi / 128 + 1e-3
    assert depths.mean().item() == pytest.approx(0.5, abs=0.05)
    assert depths.mean(0).sub(0.5).abs().max() < 0.1
    assert (depths.amax((1, 2)) - depths.amin((1, 2))).mean() > 0.15


# -- motion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7.5, 24])
@pytest.mark.parametrize("turn", [0, 300])
def test_a_blurred_crop_equals_the_crop_of_the_blurred_image(length, turn):
    section = {"type": "MotionBlur", "length": length, "turn": turn}
    image = noise(70, 60)
    dataset = StoredPairs(Memory({"a": image}), degradation=section, gt_size=24)
    blur = DEGRADATIONS.build(section)
    full = torch.from_numpy(image).permute(2, 0, 1)
    corners = sliding_window_view(image, (24, 24), axis=(0, 1))
    seen = set()
    for position in range(60):
        item = dataset[SampleIndex(0, position, 0)]
        gt = item["gt"].numpy()
        top, left = (int(at) for at in np.argwhere((corners == gt).all((2, 3, 4)))[0])
        generator = SampleIndex(0, position, 0).generator()
        generator.random(5)  # drawn for the geometry
        expected = blur(full, generator)[:, top : top + 24, left : left + 24]
        assert torch.equal(item["lq"], expected)
        seen.add((top < blur.margin, left + 24 > 60 - blur.margin))
    assert len(seen) > 1


def point_spread(blur, seed, side=81):
    image = torch.zeros(1, side, side, dtype=torch.float64)
    image[0, side // 2, side // 2] = 1
    return blur(image, rng(seed))[0].numpy()


@pytest.mark.parametrize("turn", [0, 240])
def test_the_kernel_is_a_path_of_the_given_length(turn):
    rows, columns = np.mgrid[-40:41, -40:41]
    headings = []
    for seed in range(40):
        spread = point_spread(MotionBlur(length=30, turn=turn), seed)
        assert spread.sum() == pytest.approx(1, abs=1e-6) and spread.min() >= 0
        assert np.abs([(spread * rows).sum(), (spread * columns).sum()]).max() < 0.01
        assert max(np.abs(rows[spread > 0]).max(), np.abs(columns[spread > 0]).max()) <= 15
        values, vectors = np.linalg.eigh(np.cov(np.stack([rows.ravel(), columns.ravel()]), aweights=spread.ravel()))
        if turn == 0:  # a line of uniform weight has the variance length² / 12; its width is one pixel
            assert values[1] == pytest.approx(30**2 / 12, rel=0.05) and values[0] < 0.3
        headings.append(np.arctan2(*vectors[:, 1]) % np.pi)
        assert turn == 0 or values[1] < 30**2 / 12 * 1.05
    assert np.histogram(headings, 4, (0, np.pi))[0].min() >= 3
    assert turn == 0 or values[0] > 0.3


def test_blur_keeps_constant_images_and_mirrors_borders():
    assert torch.equal(MotionBlur(length=40)(flat(77), rng()), flat(77))
    tiny = torch.full((3, 2, 3), 9, dtype=torch.uint8)
    assert torch.equal(MotionBlur(length=40)(tiny, rng()), tiny)


# -- sensor ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [64, 128, 192])
def test_sensor_noise_grows_with_the_brightness(value):
    difference = SensorNoise(shot=12, read=4)(flat(value), rng()).double() - value
    assert difference.std().item() == pytest.approx((12**2 * value / 255 + 4**2) ** 0.5, rel=0.02)
    assert abs(difference.mean().item()) < 0.2


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "RainStreaks", "density": -1}, "density: expected a finite number ≥ 0, got -1"),
        ({"type": "RainStreaks", "length": [9, 3]}, "length"),
        ({"type": "RainStreaks", "angle": 91}, "angle: .*got 91"),
        ({"type": "RainStreaks", "strength": [0.5, 1.5]}, "strength"),
        ({"type": "SyntheticHaze", "beta": [0.6]}, "beta"),
        ({"type": "SyntheticHaze", "airlight": 255}, r"airlight: expected a number in \[0, 1\], got 255"),
        ({"type": "MotionBlur", "length": 201}, "length: .*got 201"),
        ({"type": "MotionBlur", "turn": -5}, "turn: .*got -5"),
        ({"type": "SensorNoise", "shot": -1}, r"shot: expected a number in \[0, 255\], got -1"),
        ({"type": "SensorNoise", "read": [3, 1]}, "read"),
    ],
)
def test_numbers_out_of_range_are_rejected(section, message):
    with pytest.raises(ArgumentError, match=message):
        DEGRADATIONS.build(section)
