"""Restoring: images of every kind, size and depth, in eight orientations, in short precision, by one function."""

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import mcir
from mcir.inference.images import Picture, PictureError
from mcir.inference.memory import LiveBytes
from mcir.inference.restorer import Restorer, restore
from tests.inference.samples import RANDOM, Enlarge, edsr, picture, plainly

# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (33, 120)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_is_what_the_network_makes_rounded_once(size, dtype):
    net, given = edsr(), picture(*size, dtype=dtype, icc=b"profile", exif=b"Exif", format="TIFF")
    (made,) = Restorer(net, tile=48, overlap=24).pictures([given])
    top = np.iinfo(dtype).max
    floats = torch.from_numpy(given.pixels.astype(np.float32)).permute(2, 0, 1)[None] / top
    expected = (plainly(net, floats)[0].permute(1, 2, 0).double() * top).numpy()
    assert made.pixels.shape == (2 * size[0], 2 * size[1], 3)
    assert made.pixels.dtype == dtype
    assert made.pixels.flags.c_contiguous
    assert np.abs(made.pixels - expected).max() <= 0.5 + 2e-5 * top
    if dtype == np.uint16 and size != (1, 1):
        assert (made.pixels % 257).any()  # not eight bits made longer
    assert (made.icc, made.exif, made.format, made.alpha) == (b"profile", b"Exif", "TIFF", None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile", [None, "auto", 16])
def test_what_nothing_is_done_to_stays_the_same_bit_for_bit(dtype, tile):
    given = picture(47, 61, dtype=dtype, alpha=True)
    (made,) = Restorer(Enlarge(), tile=tile).pictures([given])
    assert np.array_equal(made.pixels, given.pixels)
    assert np.array_equal(made.alpha, given.alpha)


def test_pictures_of_one_size_are_a_batch_whatever_their_channels_and_bits():
    seen = []
    net = edsr()
    net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    given = [picture(12, 9), picture(12, 9, 1), picture(12, 9, dtype=np.uint16), picture(12, 9, alpha=True)]
    restorer = Restorer(net)
    made = restorer.pictures(given)
    assert seen == [(4, 3, 12, 9)]
    for one, result in zip(given, made, strict=True):
        (alone,) = restorer.pictures([one])
        assert (result.channels, result.bits, result.alpha is None) == (one.channels, one.bits, one.alpha is None)
        assert np.abs(alone.pixels.astype(int) - result.pixels).max() <= 1
    assert restorer.pictures([]) == []


def test_pictures_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match="one size, not 12×10, 9×12"):
        Restorer(edsr()).pictures([picture(12, 9), picture(10, 12)])


def test_memory_does_not_grow_with_the_height_of_a_picture():
    """But for the picture itself: integers, before and after."""
    peaks = []
    for height in (400, 1600):
        restorer, given = Restorer(edsr(upscale=1), tile=64, overlap=16), picture(height, 200)
        with LiveBytes() as counted:
            restorer.pictures([given])
        peaks.append(counted.peak - given.pixels.nbytes)  # the result; what was given is not counted
    assert peaks[1] < 1.05 * peaks[0]


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_what_the_network_makes_clamped():
    net = edsr(img_range=1.0)
    images = 3 * torch.rand(2, 3, 9, 14) - 1
    made = Restorer(net)(images)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, plainly(net, images), rtol=0, atol=1e-5)
    assert (made.min(), made.max()) == (0, 1)
    assert not made.requires_grad
    assert not made.is_inference()


def test_weights_of_other_types_are_taken_as_they_are():
    net = edsr().double()
    images = torch.rand(1, 3, 9, 14)
    made = Restorer(net)(images)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, plainly(net, images.double()).float())


def test_the_network_stays_as_it_was():
    net = edsr()
    net.train()
    net.body.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    seen = []
    net.register_forward_pre_hook(lambda module, _: seen.append((module.training, torch.is_inference_mode_enabled())))
    images = torch.rand(1, 3, 70, 70, requires_grad=True)
    restorer = Restorer(net, tile=40)
    restorer(images)
    assert set(seen) == {(False, True)}
    assert restorer.network is net
    assert [module.training for module in net.modules()] == modes
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    net.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyError("broken")))
    with pytest.raises(KeyError):
        restorer(images)
    assert [module.training for module in net.modules()] == modes


def test_images_are_not_written_to():
    class InPlace(Enlarge):
        def forward(self, x):
            return x

    images = torch.rand(1, 3, 90, 90)
    before = images.clone()
    for ensemble in (False, True):
        made = Restorer(InPlace(), tile=32, ensemble=ensemble)(images)
        torch.testing.assert_close(made, before, rtol=0, atol=1e-6)
        assert torch.equal(images, before)


def test_facts_of_a_restorer():
    restorer = Restorer(edsr(upscale=4))
    assert (restorer.scale, restorer.device, restorer.architecture) == (4, torch.device("cpu"), "EDSR")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for devices that must not be there")
def test_a_gpu_is_wanted_if_there_is_one_and_what_is_not_there_is_told(monkeypatch):
    for device in ("cuda", "cuda:3", "mps", "meta", "nonsense"):
        with pytest.raises(ValueError, match=f"the device '{device}' cannot be used here"):
            Restorer(edsr(), device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="the device 'cuda' cannot be used here"):
        Restorer(edsr())
    assert Restorer(edsr(), device="cpu").device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same(monkeypatch):
    net, images = edsr(), torch.rand(2, 3, 90, 150)
    expected = Restorer(net, device="cpu")(images)
    restorer = Restorer(net)
    assert restorer.device.type == "cuda"
    assert all(parameter.is_cuda for parameter in restorer.network.parameters())
    assert next(net.parameters()).device.type == "cpu"
    torch.testing.assert_close(restorer(images), expected, rtol=0, atol=2e-3)  # TF32
    assert restorer(images.cuda()).is_cuda
    monkeypatch.setattr("mcir.inference.memory.SHARE_OF_GPU", 1e-5)
    torch.testing.assert_close(Restorer(net)(images), expected, rtol=0, atol=2e-2)
    for precision in ("fp16", "bf16"):
        torch.testing.assert_close(Restorer(net, precision=precision)(images), expected, rtol=0, atol=5e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 0}, r"tile=0 is too small for EDSR: 2 is the least"),
        ({"tile": 1.5}, r"tile is a number of pixels, 'auto' or None, not 1\.5"),
        ({"tile": True}, r"'auto' or None, not True"),
        ({"tile": "whole"}, r"'auto' or None, not 'whole'"),
        ({"overlap": -1}, r"overlap is a number of pixels from 0 on, not -1"),
        ({"overlap": "a"}, r"from 0 on, not 'a'"),
        ({"overlap": 2.5}, r"from 0 on, not 2\.5"),
        ({"overlap": True}, r"from 0 on, not True"),
        ({"ensemble": "no"}, r"ensemble is True or False, not 'no'"),
        ({"precision": "int8"}, r"precision is one of fp32, fp16, bf16, not 'int8'"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        Restorer(edsr(), **arguments)


def test_what_a_network_makes_is_looked_at():
    net = edsr()
    net.spec = replace(net.spec, scale=3)
    with pytest.raises(ValueError, match=r"EDSR made \(1, 3, 16, 16\) of \(1, 3, 8, 8\), though its scale is 3"):
        Restorer(net)(torch.rand(1, 3, 8, 8))
    net = edsr()
    nn.init.constant_(net.conv_last.bias, torch.nan)
    with pytest.raises(ValueError, match=r"EDSR made values that are not finite\.$"):
        Restorer(net)(torch.rand(1, 3, 8, 8))
    nn.init.constant_(net.conv_last.bias, 1e6)
    with pytest.raises(ValueError, match="fp16 is too narrow for it: take bf16 or fp32"):
        Restorer(net, precision="fp16")(torch.rand(1, 3, 8, 8))
    Restorer(net, precision="bf16")(torch.rand(1, 3, 8, 8))


def test_a_network_that_sees_all_of_a_picture_is_told_of_once_when_it_is_cut(caplog):
    net = mcir.build_network(
        {"type": "NAFNet", "width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1], "middle_blk_num": 1}
    )
    with caplog.at_level(logging.WARNING, "mcir"):
        Restorer(net, tile=64)(torch.rand(1, 3, 60, 64))
        Restorer(edsr(), tile=64)(torch.rand(1, 3, 60, 128))
        assert not caplog.messages
        restorer = Restorer(net, tile=64)
        for _ in range(2):
            restorer(torch.rand(1, 3, 60, 128))
    (told,) = caplog.messages
    assert told.startswith("NAFNet looks at more of a picture than a tile holds: in tiles of 64 pixels")


# -- eight orientations, short precision ------------------------------------------------------------------------------


def literal_ensemble(net, images):
    results = []
    for transpose in (False, True):
        for axes in ([], [2], [3], [2, 3]):
            turned = torch.flip(images, axes)
            turned = turned.transpose(2, 3) if transpose else turned
            with torch.no_grad():
                made = net(turned)
            made = made.transpose(2, 3) if transpose else made
            results.append(torch.flip(made, axes))
    return torch.stack(results).mean(0).clamp(0, 1)


def test_the_ensemble_is_the_mean_of_eight():
    net = edsr()
    images = torch.rand(2, 3, 11, 17)
    made = Restorer(net, ensemble=True)(images)
    torch.testing.assert_close(made, literal_ensemble(net, images), rtol=0, atol=2e-6)
    assert not torch.allclose(made, Restorer(net)(images), atol=1e-4)


def test_the_ensemble_turns_with_the_image():
    restorer = Restorer(edsr(), ensemble=True, tile=48, overlap=24)
    images = torch.rand(1, 3, 50, 70)
    made = restorer(images)
    for turn in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3), lambda x: x.rot90(1, (2, 3))):
        torch.testing.assert_close(restorer(turn(images)), turn(made), rtol=0, atol=1e-5)


def test_the_ensemble_keeps_two_outputs_and_not_eight():
    restorer, images = Restorer(Enlarge(4), ensemble=True), torch.rand(1, 3, 50, 50)
    with LiveBytes() as counted:
        made = restorer(images)
    assert counted.peak < 4.5 * made.nbytes  # total, part, what enlarges in two steps


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_short_precision_is_near_and_comes_back_as_float32(precision):
    net = edsr(img_range=1.0)
    seen = []
    net.conv_last.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    images = torch.rand(1, 3, 20, 20)
    made, exact = Restorer(net, precision=precision)(images), Restorer(net)(images)
    assert seen == [{"fp16": torch.float16, "bf16": torch.bfloat16}[precision], torch.float32]
    assert made.dtype == torch.float32
    assert 0 < (made - exact).abs().max() < 0.02


# -- one function -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(edsr(img_range=1.0).state_dict(), file)
    return file


def test_the_checkpoint_is_a_file_a_network_or_a_restorer(checkpoint):
    image = torch.rand(3, 8, 8)
    net = mcir.load_network(checkpoint)
    expected = Restorer(net)(image[None])[0]
    for each in (checkpoint, str(checkpoint), net, Restorer(net)):
        assert torch.equal(mcir.restore(image, each), expected)


def test_the_key_chooses_among_the_weights_of_a_file(tmp_path):
    one, other = edsr().state_dict(), {key: value / 2 for key, value in edsr().state_dict().items()}
    torch.save({"params": one, "params_ema": other}, tmp_path / "net.pth")
    image = torch.rand(3, 8, 8)
    made = [restore(image, tmp_path / "net.pth", key=key) for key in ("params", "params_ema", None)]
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[1], made[2])


@pytest.mark.parametrize("shape", [(3, 8, 9), (1, 8, 9), (2, 3, 8, 9), (1, 1, 8, 9), (5, 3, 8, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.uint8, torch.uint16])
def test_a_tensor_gives_a_tensor(shape, dtype):
    floats = torch.rand(shape)
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    image = (floats * top).to(dtype)
    made = restore(image, edsr())
    assert made.dtype == dtype
    assert made.shape == (*shape[:-2], 16, 18)
    expected = restore(image.to(torch.float32) / top, edsr())
    assert (made.to(torch.float32) / top - expected).abs().max() < 1.01 / min(top, 500 if top == 1 else top)


def test_a_file_gives_a_picture(tmp_path, checkpoint):
    image = Image.fromarray(RANDOM.integers(0, 256, (8, 9, 3)).astype(np.uint8))
    image.save(tmp_path / "photo.png")
    made = restore(tmp_path / "photo.png", checkpoint)
    assert isinstance(made, Picture)
    assert np.array_equal(made.pixels, restore(np.asarray(image), checkpoint))
    assert np.array_equal(restore(str(tmp_path / "photo.png"), checkpoint).pixels, made.pixels)
    with pytest.raises(PictureError):
        restore(tmp_path / "none.png", checkpoint)


def test_the_options_are_those_of_a_restorer(checkpoint):
    image = torch.rand(3, 40, 40)
    net = mcir.load_network(checkpoint)
    options = {"tile": 24, "overlap": 2, "ensemble": True, "precision": "bf16", "device": "cpu"}
    assert torch.equal(restore(image, net, **options), Restorer(net, **options)(image[None])[0])
    with pytest.raises(ValueError, match=r"ensemble=True: say this to the Restorer when it is made"):
        restore(image, Restorer(net), ensemble=True)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[1, 2], [3, 4]], "a path, a PIL image, a numpy array or a torch tensor, not list"),
        (np.zeros((8, 9), np.int64), r"uint8, uint16, or floats in \[0, 1\], not torch.int64"),
        (np.zeros((8, 9), bool), r"uint8, uint16, or floats in \[0, 1\], not torch.bool"),
        (np.full((8, 9), "x"), r"an array holds uint8, uint16 or floats in \[0, 1\], not <U1"),
        (np.full((8, 9), None), "not object"),
        (np.zeros(8, np.uint8), r"an image \(H, W\) or \(H, W, C\), not \(8,\)"),
        (np.zeros((8, 0, 3), np.uint8), "there is no pixel"),
        (np.zeros((8, 9, 5), np.uint8), "restores images of 3 channels, not of 5"),
        (np.full((8, 9, 3), 200.0), r"floats are in \[0, 1\], not from 200 to 200; divide by 255, or give uint8"),
        (np.full((8, 9, 3), -9.0), r"floats are in \[0, 1\], not from -9 to -9\."),
        (np.full((8, 9, 3), np.nan), "not from nan to nan"),
        (torch.rand(8, 9), r"an image \(C, H, W\) or several \(B, C, H, W\), not \(8, 9\)"),
        (torch.rand(4, 8, 9), "restores images of 3 channels, not of 4"),
        (torch.zeros(0, 3, 8, 9), "there is no pixel"),
        (torch.zeros(3, 8, 9, dtype=torch.int32), "not torch.int32"),
        (255 * torch.ones(3, 8, 9), "divide by 255"),
        (Image.new("F", (3, 3)), "PIL images of mode F are not restored"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(ValueError, match=message):
        restore(image, Enlarge())


def test_what_is_no_checkpoint():
    with pytest.raises(ValueError, match="a checkpoint is a path, a network or a Restorer, not int"):
        restore(torch.rand(3, 8, 8), 3)
    with pytest.raises(ValueError, match="key='params' chooses among the weights of a file"):
        restore(torch.rand(3, 8, 8), Enlarge(), key="params")


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.rand(3, 8, 8)])
def test_a_restorer_takes_batches_of_floats(images):
    with pytest.raises(ValueError, match=r"EDSR restores images \(B, C, H, W\) of floats in \[0, 1\], not"):
        Restorer(edsr())(images)


@pytest.mark.slow
def test_the_types_are_told_to_a_type_checker(tmp_path):
    """What comes out is of the type of what goes in."""
    pytest.importorskip("mypy")
    file = tmp_path / "calls.py"
    file.write_text(
        "import mcir, numpy as np, torch\nfrom PIL import Image\nfrom pathlib import Path\n"
        "net = torch.nn.Identity()\n"
        "reveal_type(mcir.restore(Path('x.png'), 'x.pth'))\n"
        "reveal_type(mcir.restore(torch.rand(3, 2, 2), net, tile=64))\n"
        "reveal_type(mcir.restore(Image.new('L', (2, 2)), net))\n"
        "reveal_type(mcir.restore(np.zeros((2, 2), np.uint8), mcir.Restorer(net)))\n"
        "mcir.restore(3, net)\n"
    )
    command = [sys.executable, "-m", "mypy", str(file)]
    root = Path(__file__).parents[2]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=600).stdout
    revealed = [line.partition('type is "')[2] for line in told.splitlines() if "Revealed type" in line]
    starts = ["mcir.inference.images.image.Picture", "torch._tensor.Tensor", "PIL.Image.Image", "numpy.ndarray"]
    assert len(revealed) == len(starts)
    assert all(kind.startswith(start) for kind, start in zip(revealed, starts, strict=True)), revealed
    assert "calls.py:9: error: No overload" in told


@pytest.mark.parametrize("pixels", [np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50, 1), np.uint16)])
def test_progress_goes_from_tile_to_tile_up_to_the_whole(pixels):
    told = []
    restorer = Restorer(
        mcir.build_network({"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2}), tile=24, overlap=8
    )
    restorer.pictures([Picture(pixels), Picture(pixels)], told.append)
    assert len(told) > 4
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
