"""Tests of degradations."""

import cv2
import numpy as np
import pytest
import torch

from mcir.data.degradations import JPEG, BayerMosaic, BicubicDown, Chain, GaussianNoise, bind, build_degradation
from mcir.data.errors import DataError
from mcir.data.resize import imresize
from mcir.errors import ArgumentError, RegistryError
from mcir.registry import DEGRADATIONS
from tests.data.images import smooth


def image_tensor(height=32, width=40, channels=3):
    return torch.from_numpy(smooth(height, width, channels)).permute(2, 0, 1)


def rng(seed=0):
    return np.random.default_rng(seed)


SECTIONS = [
    {"type": "BicubicDown", "scale": 2},
    {"type": "GaussianNoise", "sigma": [5, 50]},
    {"type": "GaussianNoise", "sigma": 25, "clip": True},
    {"type": "JPEG", "quality": [10, 90]},
    {"type": "HeteroscedasticNoise"},
    {"type": "HeteroscedasticNoise", "realisation": "fixed", "sampler": "unprocessing"},
    {"type": "Chain", "degradations": [{"type": "BicubicDown", "scale": 2}, {"type": "JPEG", "quality": 40}]},
]


@pytest.mark.parametrize("section", SECTIONS, ids=str)
@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_result_depends_only_on_the_image_and_the_generator(section, as_float, channels):
    image = image_tensor(channels=channels)
    image = image.float() / 255 if as_float else image
    before = image.clone()
    degradation = DEGRADATIONS.build(section)
    first, again, other = (degradation(image, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.equal(image, before)
    random = "Noise" in section["type"] or isinstance(section.get("quality"), list)
    assert torch.equal(first, other) != random
    assert first.shape == (channels, 32 // degradation.scale, 40 // degradation.scale)


def test_bicubic_rounds_as_in_a_saved_file():
    image = image_tensor()
    exact = imresize(image, 1 / 3)
    small = BicubicDown(3)(image, rng())
    assert small.dtype == torch.uint8
    assert (small - exact.clamp(0, 255)).abs().max() <= 0.5
    deep = BicubicDown(3)(image.double() / 255, rng())
    assert torch.allclose(deep, (exact / 255).clamp(0, 1), atol=1e-12)


def test_bicubic_stays_in_range():
    edge = torch.zeros(1, 16, 16, dtype=torch.uint8)
    edge[:, :, 7:] = 255
    assert imresize(edge, 0.5).min() < -1  # the kernel overshoots
    assert set(BicubicDown(2)(edge, rng()).unique().tolist()) >= {0, 255}
    assert BicubicDown(2)(edge.float() / 255, rng()).aminmax() == (0, 1)


def test_noise_has_the_given_standard_deviation():
    flat = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    noise = GaussianNoise(25)(flat, rng()) - 128 / 255
    assert abs(noise.std().item() * 255 - 25) < 0.3
    assert abs(noise.mean().item() * 255) < 0.3
    drawn = [(GaussianNoise([5, 50])(flat, rng(seed)) - 128 / 255).std().item() * 255 for seed in range(30)]
    assert 5 <= min(drawn) < 12 and 43 < max(drawn) <= 50.5


def test_noise_is_clipped_only_with_clip():
    black = torch.zeros(1, 64, 64, dtype=torch.uint8)
    assert GaussianNoise(25)(black, rng()).min() < 0
    clipped = GaussianNoise(25, clip=True)(black, rng())
    assert clipped.dtype == torch.uint8 and clipped.min() == 0 and clipped.max() > 25


def test_jpeg_equals_opencv_in_the_right_channel_order():
    image = image_tensor()
    image[0] = 250
    expected = cv2.imdecode(
        cv2.imencode(".jpg", image.flip(0).permute(1, 2, 0).numpy(), [cv2.IMWRITE_JPEG_QUALITY, 30])[1],
        cv2.IMREAD_COLOR,
    )
    result = JPEG(30)(image, rng())
    assert np.array_equal(result.flip(0).permute(1, 2, 0).numpy(), expected)
    assert result[0].float().mean() > 240


def test_a_lower_jpeg_quality_has_a_larger_error():
    image = image_tensor()
    errors = [(JPEG(quality)(image, rng()).float() - image.float()).square().mean() for quality in (5, 30, 95)]
    assert errors[0] > errors[1] > errors[2]


def test_a_chain_applies_its_members_in_order():
    image = image_tensor()
    chain = Chain([{"type": "BicubicDown", "scale": 2}, {"type": "GaussianNoise", "sigma": 10, "clip": True}])
    generator = rng(1)
    expected = GaussianNoise(10, clip=True)(BicubicDown(2)(image, generator), generator)
    assert torch.equal(chain(image, rng(1)), expected)


def test_a_chain_combines_scales_and_margins():
    chain = Chain(
        [{"type": "BicubicDown", "scale": 2}, {"type": "JPEG", "quality": 50}, {"type": "BicubicDown", "scale": 3}]
    )
    assert chain.scale == 6
    assert chain.margin == 18  # 4 + 2·6, up to a multiple of 6


class AddPosition:
    """Degradation that adds the mean of the full image and the position of the part."""

    scale = 1
    margin = 0

    def __call__(self, gt, rng):
        raise AssertionError("called without a position")

    def for_image(self, index, image, observation=0):
        mean = image().double().mean()
        return lambda gt, rng, top, left: gt.double() + mean + 1000 * index + 10 * top + left + observation / 8


def test_a_chain_binds_each_member_to_its_own_input(monkeypatch):
    monkeypatch.setattr(
        DEGRADATIONS,
        "build",
        lambda section, key=(): AddPosition() if section["type"] == "AddPosition" else BUILD(section),
    )
    monkeypatch.setattr(DEGRADATIONS, "parameters", lambda name: {} if name == "AddPosition" else PARAMETERS(name))
    chain = Chain([{"type": "BicubicDown", "scale": 2}, {"type": "AddPosition"}, {"type": "AddPosition"}])
    image = image_tensor(16, 24).double() / 255
    bound = bind(chain, 3, lambda: image, 4)
    small = BicubicDown(2)(image, rng())
    first = small + small.mean() + 3000 + 0.5
    second = first + first.mean() + 3000 + 0.5
    assert torch.allclose(bound(image, rng(), 0, 0), second, rtol=1e-12)
    part = bound(image[:, 8:, 4:], rng(), 8, 4)
    # away from the border of the part, which affects the downscaling; twice (10·8/2 + 4/2)
    assert torch.allclose(part[:, 3:, 3:], second[:, 7:, 5:] + 2 * (40 + 2), rtol=1e-12)


BUILD, PARAMETERS = DEGRADATIONS.build, DEGRADATIONS.parameters


def test_the_full_image_is_read_only_if_it_is_needed():
    def image():
        raise AssertionError("the full image was read")

    part = image_tensor()
    sections = [{"type": "JPEG", "quality": 30}, {"type": "BayerMosaic"}]
    bound = bind(Chain([{"type": "BicubicDown", "scale": 2}, *sections]), 0, image)
    assert bound(part, rng(), 2, 2).shape == (3, 16, 20)
    assert torch.equal(bind(GaussianNoise(9), 0, image)(part, rng(), 3, 4), GaussianNoise(9)(part, rng()))


PATTERNS = ["rggb", "bggr", "grbg", "gbrg"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("as_float", [False, True])
def test_a_mosaic_keeps_one_color_of_each_pixel(pattern, as_float):
    image = image_tensor(7, 6) + 1
    image = image / 255 if as_float else image
    mosaic = BayerMosaic(pattern)(image, rng())
    assert mosaic.dtype == image.dtype
    for row in range(7):
        for column in range(6):
            channel = "rgb".index(pattern[2 * (row % 2) + column % 2])
            expected = torch.zeros_like(image[:, row, column])
            expected[channel] = image[channel, row, column]
            assert torch.equal(mosaic[:, row, column], expected)
    part = bind(BayerMosaic(pattern), 0, lambda: image)
    for top, left in ((0, 0), (1, 0), (0, 3), (3, 1)):
        assert torch.equal(part(image[:, top:, left:], rng(), top, left), mosaic[:, top:, left:])


def test_a_flipped_mosaic_is_one_of_the_four_patterns():
    """A flipped or transposed pattern equals the pattern shifted by a pixel."""
    image = image_tensor(8, 8) + 1
    mosaic = BayerMosaic()(image, rng())
    seen = set()
    for orient in (lambda x: x, lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.transpose(1, 2)):
        (pattern,) = [p for p in PATTERNS if torch.equal(BayerMosaic(p)(orient(image), rng()), orient(mosaic))]
        seen.add(pattern)
    assert seen == {"rggb", "gbrg", "grbg"}


def test_the_scale_of_the_data_set_is_the_default():
    assert build_degradation({"type": "BicubicDown"}, 4).scale == 4
    chain = build_degradation({"type": "Chain", "degradations": [{"type": "BicubicDown"}]}, 3)
    assert chain.scale == 3


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"type": "BicubicDown", "scale": 3},
            "expected a degradation of the data set's scale, 2, got BicubicDown of scale 3",
        ),
        ({"type": "JPEG", "quality": 40}, "got JPEG of scale 1"),
        ({"type": "BicubicDown", "scale": 0}, "scale: expected an integer from 1 to 64, got 0"),
        ({"type": "JPEG", "quality": 0}, "quality: .*got 0"),
        ({"type": "JPEG", "quality": [50, 20]}, "quality"),
        ({"type": "GaussianNoise", "sigma": -1}, "sigma: .*got -1"),
        ({"type": "GaussianNoise", "sigma": [1, 2, 3]}, "sigma"),
        ({"type": "BayerMosaic", "pattern": "rgb"}, "pattern: .*got 'rgb'"),
        ({"type": "Chain", "degradations": []}, "degradations: expected at least one degradation"),
    ],
)
def test_wrong_arguments_are_rejected(section, message):
    with pytest.raises(ArgumentError, match=message):
        build_degradation(section, 2)


def test_a_section_without_type_is_rejected():
    with pytest.raises(RegistryError, match="type"):
        build_degradation({"scale": 2}, 2)


def test_a_mosaic_needs_three_channels():
    with pytest.raises(DataError, match=r"expected an image of three channels .*got 1"):
        BayerMosaic()(image_tensor(channels=1), rng())
