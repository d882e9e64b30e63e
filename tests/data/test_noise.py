"""Tests of signal-dependent noise: the formula, the parameters, and crops of one noisy image."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mcir.data.degradations import Chain
from mcir.data.errors import DataError
from mcir.data.noise import HeteroscedasticNoise, NoiseParameters, add_noise
from mcir.data.sampler import SampleIndex
from mcir.data.storage import Memory
from mcir.errors import ArgumentError
from mcir.registry import DEGRADATIONS
from tests.data.images import StoredPairs, noise, smooth

GOLDEN = Path(__file__).parents[1] / "golden" / "rcl" / "noise.npz"


def rng(seed=0):
    return np.random.default_rng(seed)


def flat(value, side=256, channels=3):
    return torch.full((channels, side, side), value)


def bound(degradation, image, index=0, **more):
    return degradation.for_image(index, lambda: image, **more)


def test_golden():
    golden = np.load(GOLDEN)
    for index, expected in enumerate(golden["noisy"]):
        level = NoiseParameters(float(golden["lambda_shot"][index]), float(golden["lambda_read"][index]))
        result = add_noise(torch.from_numpy(golden["clean"][index]), level, torch.from_numpy(golden["z"][index]))
        assert np.abs(result.numpy() - expected).max() < 1e-15


@pytest.mark.parametrize("value", [0.1, 0.5, 0.9])
def test_the_variance_grows_with_the_brightness(value):
    degradation = HeteroscedasticNoise(sigma=20, read_share=0.25)
    image = torch.cat([flat(value - 0.1), flat(value + 0.1)], dim=2)
    result = bound(degradation, image)(image, rng(), 0, 0) - image
    shot, read = 0.75 * (20 / 255) ** 2 / value, 0.25 * (20 / 255) ** 2
    for half, mean in ((result[:, :, :256], value - 0.1), (result[:, :, 256:], value + 0.1)):
        assert half.std().item() == pytest.approx((shot * mean + read) ** 0.5, rel=0.01)
        assert abs(half.mean().item()) < 1e-3
    assert result.square().mean().sqrt().item() * 255 == pytest.approx(20, rel=0.01)


def test_the_result_is_neither_clipped_nor_rounded():
    for value in (0, 255):
        image = flat(value).to(torch.uint8)
        result = bound(HeteroscedasticNoise(sigma=20, read_share=1), image)(image, rng(), 0, 0)
        assert result.dtype == torch.float32 and result.mean().item() == pytest.approx(value / 255, abs=2e-3)
        assert result.aminmax().min < value / 255 - 0.2 and result.aminmax().max > value / 255 + 0.2
        assert result.unique().numel() > 60_000


def test_parameters_fill_their_ranges_and_depend_on_the_seed_and_the_index():
    degradation = HeteroscedasticNoise()
    mean = 0.4
    levels = [degradation.parameters(index, mean) for index in range(2000)]
    sigma = np.array([(shot * mean + read) ** 0.5 * 255 for shot, read in levels])
    share = np.array([read / (shot * mean + read) for shot, read in levels])
    for values, high in ((sigma, 20), (share, 0.5)):  # uniform: mean and spread
        assert values.min() >= 0 and values.max() <= high + 1e-9
        assert values.mean() == pytest.approx(high / 2, rel=0.05)
        assert values.std() == pytest.approx(high / 12**0.5, rel=0.05)
    assert abs(np.corrcoef(sigma, share)[0, 1]) < 0.07
    assert HeteroscedasticNoise().parameters(7, mean) == levels[7]
    assert HeteroscedasticNoise(seed=1).parameters(7, mean) != levels[7] != degradation.parameters(8, mean)


def test_shot_noise_of_dark_images_is_finite():
    shot, read = HeteroscedasticNoise(sigma=10, read_share=0.5).parameters(0, 0.0)
    assert read == pytest.approx(0.5 * (10 / 255) ** 2) and shot == pytest.approx(read / 0.05)


def test_the_sampler_of_unprocessing():
    mean = 0.5
    levels = [HeteroscedasticNoise(sampler="unprocessing").parameters(index, mean) for index in range(2000)]
    shots, reads = np.log(np.array(levels)).T
    assert shots.min() >= np.log(1e-4) and shots.max() <= np.log(1.2e-2)
    assert np.median(shots) == pytest.approx((np.log(1e-4) + np.log(1.2e-2)) / 2, abs=0.15)
    assert (reads - 2.18 * shots - 1.20).std() == pytest.approx(0.26, rel=0.07)
    sigmas = [(shot * mean + read) ** 0.5 * 255 for shot, read in levels]
    assert max(sigmas) <= 20
    narrow = HeteroscedasticNoise(sigma=[15, 16], sampler="unprocessing")
    assert all(15 <= (s * mean + r) ** 0.5 * 255 <= 16 for s, r in (narrow.parameters(i, mean) for i in range(50)))
    with pytest.raises(DataError, match=r"draws for image 3 with the mean 0\.500 has a sigma in \[60, 70\]"):
        HeteroscedasticNoise(sigma=[60, 70], sampler="unprocessing").parameters(3, mean)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_of_fixed_noise_equals_the_crop_of_the_noisy_image(dtype, channels):
    image = torch.from_numpy(smooth(150, 200, channels)).permute(2, 0, 1)
    image = image if dtype == torch.uint8 else image / 255
    degrade = bound(HeteroscedasticNoise(realisation="fixed"), image, 5)
    full = degrade(image, rng(1), 0, 0)
    assert full.dtype == torch.float32 and full.shape == image.shape
    for top, left, height, width in ((0, 0, 64, 64), (63, 64, 2, 70), (13, 127, 100, 3), (149, 199, 1, 1)):
        part = image[:, top : top + height, left : left + width]
        assert torch.equal(degrade(part, rng(2), top, left), full[:, top : top + height, left : left + width])


def test_fixed_noise_is_white_across_tiles_and_different_for_each_image():
    image = flat(0.5, 192)
    degradation = HeteroscedasticNoise(sigma=20, read_share=1, realisation="fixed")
    z = (bound(degradation, image)(image, rng(), 0, 0) - image) * 255 / 20
    assert abs(z.mean().item()) < 0.02 and z.std().item() == pytest.approx(1, rel=0.02)
    tiles = z.unfold(1, 64, 64).unfold(2, 64, 64).reshape(27, -1).numpy()
    assert np.abs(np.corrcoef(tiles) - np.eye(27)).max() < 0.08
    others = [bound(degradation, image, 1), bound(degradation, image, observation=1)]
    others.append(bound(HeteroscedasticNoise(20, 1, realisation="fixed", seed=1), image))
    for other in others:
        assert abs(np.corrcoef(z.flatten(), other(image, rng(), 0, 0).flatten())[0, 1]) < 0.02


def test_redrawn_noise_keeps_its_parameters():
    image = flat(0.5)
    degradation = HeteroscedasticNoise(sigma=[5, 20])
    one, two = bound(degradation, image, 3), bound(degradation, image, 3)
    assert one.parameters == two.parameters
    first, second, again = (degrade(image, rng(seed), 0, 0) for degrade, seed in ((one, 0), (two, 1), (two, 0)))
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert (first - image).std().item() == pytest.approx((second - image).std().item(), rel=0.02)


def test_the_full_image_determines_the_strength_of_every_crop():
    """Half of the image is dark; its crops have the shot noise for the mean of the full image."""
    image = np.concatenate([np.full((64, 64, 3), 20, np.uint8), np.full((64, 64, 3), 220, np.uint8)], axis=1)
    section = {"type": "HeteroscedasticNoise", "sigma": 10, "read_share": 0}
    dataset = StoredPairs(Memory({"a": image}), degradation=section, gt_size=32)
    shot = (10 / 255) ** 2 / (120 / 255)
    noises = {20: [], 220: []}
    for position in range(200):
        item = dataset[SampleIndex(0, position, 0)]
        values = item["gt"].unique()
        if len(values) == 1:
            noises[int(values)].append(item["lq"] - item["gt"] / 255)
    for value, found in noises.items():
        assert torch.stack(found).std().item() == pytest.approx((shot * value / 255) ** 0.5, rel=0.02)


@pytest.mark.parametrize("size", [(96, 120), (97, 122)])
def test_in_a_chain_the_noise_is_that_of_the_downscaled_image(size):
    image = noise(*size)
    fixed = {"type": "HeteroscedasticNoise", "realisation": "fixed"}
    section = {"type": "Chain", "degradations": [{"type": "BicubicDown"}, fixed]}
    down = StoredPairs(Memory({"a": image}), degradation={"type": "BicubicDown"}, scale=3)[0]["lq"]
    expected = bound(HeteroscedasticNoise(realisation="fixed"), down)(down, rng(), 0, 0)
    arguments = {"scale": 3}
    assert torch.equal(StoredPairs(Memory({"a": image}), degradation=section, **arguments)[0]["lq"], expected)
    crops = StoredPairs(Memory({"a": image}), degradation=section, gt_size=24, **arguments)
    plain = StoredPairs(Memory({"a": image}), degradation={"type": "BicubicDown"}, gt_size=24, **arguments)
    windows = expected.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 8, 8)
    for position in range(60):
        item, without = crops[SampleIndex(0, position, 0)], plain[SampleIndex(0, position, 0)]
        assert torch.equal(item["gt"], without["gt"])
        assert (windows == item["lq"]).flatten(1).all(1).any()


def test_evaluation_has_the_same_noise_each_time_and_data_sets_can_be_pickled():
    section = {
        "type": "Chain",
        "degradations": [{"type": "GaussianNoise", "sigma": 3}, {"type": "HeteroscedasticNoise"}],
    }
    dataset = StoredPairs(Memory({"a": smooth(40, 40), "b": smooth(40, 40, seed=1)}), degradation=section)
    first = dataset[1]["lq"]
    assert torch.equal(dataset[1]["lq"], first) and not torch.equal(dataset[0]["lq"], first)
    copy = pickle.loads(pickle.dumps(dataset))  # with degradations that are bound to images
    assert torch.equal(copy[1]["lq"], first)


def test_an_image_outside_of_a_data_set():
    image = flat(0.5)
    degradation = DEGRADATIONS.build({"type": "HeteroscedasticNoise", "sigma": [10, 20]})
    assert degradation.hyperparameters["read_share"] is None
    spread = {round(degradation(image, rng(seed)).std().item() * 255, 1) for seed in range(10)}
    assert min(spread) >= 9.8 and max(spread) <= 20.2 and len(spread) > 5
    chain = Chain([{"type": "HeteroscedasticNoise", "sigma": 0}])
    assert torch.equal(chain(image, rng()), image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": -1}, r"sigma: expected a number in \[0, 255\], got -1"),
        ({"sigma": [20, 0]}, r"sigma: .*got \[20, 0\]"),
        ({"read_share": 1.5}, r"read_share: expected a number in \[0, 1\], got 1\.5"),
        ({"sampler": "brooks"}, "sampler: .*got 'brooks'"),
        ({"realisation": "once"}, "realisation: .*got 'once'"),
        ({"seed": -1}, "seed: expected an integer ≥ 0, got -1"),
        (
            {"sampler": "unprocessing", "read_share": 0.2},
            "read_share: expected null with the sampler 'unprocessing', got 0.2",
        ),
    ],
)
def test_wrong_arguments_are_rejected(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        HeteroscedasticNoise(**arguments)
