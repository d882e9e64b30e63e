"""Images of every type, size and depth are restored, also in eight orientations and in lower precision."""

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
from mcir.inference.functional import restore
from mcir.inference.images import Picture, PictureError
from mcir.inference.memory import LiveBytes
from mcir.inference.restorer import Restorer
from tests.inference.samples import RANDOM, Enlarge, edsr, picture, run_network

# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (33, 120)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_are_rounded_once(size, dtype):
    net, source = edsr(), picture(*size, dtype=dtype, icc=b"profile", exif=b"Exif", format="TIFF")
    (restored,) = Restorer(net, tile=48, overlap=24).pictures([source])
    top = np.iinfo(dtype).max
    floats = torch.from_numpy(source.pixels.astype(np.float32)).permute(2, 0, 1)[None] / top
    expected = (run_network(net, floats)[0].permute(1, 2, 0).double() * top).numpy()
    assert restored.pixels.shape == (2 * size[0], 2 * size[1], 3)
    assert restored.pixels.dtype == dtype
    assert restored.pixels.flags.c_contiguous
    assert np.abs(restored.pixels - expected).max() <= 0.5 + 2e-5 * top
    if dtype == np.uint16 and size != (1, 1):
        assert (restored.pixels % 257).any()  # not 8-bit values
    assert (restored.icc, restored.exif, restored.format, restored.alpha) == (b"profile", b"Exif", "TIFF", None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile", [None, "auto", 16])
def test_an_identity_keeps_each_bit(dtype, tile):
    source = picture(47, 61, dtype=dtype, alpha=True)
    (restored,) = Restorer(Enlarge(), tile=tile).pictures([source])
    assert np.array_equal(restored.pixels, source.pixels)
    assert np.array_equal(restored.alpha, source.alpha)


def test_pictures_of_one_size_are_a_batch():
    seen = []
    net = edsr()
    net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    source = [picture(12, 9), picture(12, 9, 1), picture(12, 9, dtype=np.uint16), picture(12, 9, alpha=True)]
    restorer = Restorer(net)
    restored = restorer.pictures(source)
    assert seen == [(4, 3, 12, 9)]
    for one, result in zip(source, restored, strict=True):
        (alone,) = restorer.pictures([one])
        assert (result.channels, result.bits, result.alpha is None) == (one.channels, one.bits, one.alpha is None)
        assert np.abs(alone.pixels.astype(int) - result.pixels).max() <= 1
    assert restorer.pictures([]) == []


def test_pictures_of_several_sizes_are_rejected():
    with pytest.raises(ValueError, match="one size, got 12×10, 9×12"):
        Restorer(edsr()).pictures([picture(12, 9), picture(10, 12)])


def test_memory_grows_only_by_the_image_itself():
    peaks = []
    for height in (400, 1600):
        restorer, source = Restorer(edsr(upscale=1), tile=64, overlap=16), picture(height, 200)
        with LiveBytes() as counted:
            restorer.pictures([source])
        peaks.append(counted.peak - source.pixels.nbytes)  # the input is not counted
    assert peaks[1] < 1.05 * peaks[0]


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_batches_are_clamped():
    net = edsr(img_range=1.0)
    images = 3 * torch.rand(2, 3, 9, 14) - 1
    restored = Restorer(net)(images)
    assert restored.dtype == torch.float32
    torch.testing.assert_close(restored, run_network(net, images), rtol=0, atol=1e-5)
    assert (restored.min(), restored.max()) == (0, 1)
    assert not restored.requires_grad
    assert not restored.is_inference()


def test_weights_of_other_types():
    net = edsr().double()
    images = torch.rand(1, 3, 9, 14)
    restored = Restorer(net)(images)
    assert restored.dtype == torch.float32
    torch.testing.assert_close(restored, run_network(net, images.double()).float())


def test_the_network_is_unchanged():
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


def test_inputs_are_unchanged():
    class InPlace(Enlarge):
        def forward(self, x):
            return x

    images = torch.rand(1, 3, 90, 90)
    before = images.clone()
    for ensemble in (False, True):
        restored = Restorer(InPlace(), tile=32, ensemble=ensemble)(images)
        torch.testing.assert_close(restored, before, rtol=0, atol=1e-6)
        assert torch.equal(images, before)


def test_attributes():
    restorer = Restorer(edsr(upscale=4))
    assert (restorer.scale, restorer.device, restorer.architecture) == (4, torch.device("cpu"), "EDSR")


def test_the_device_is_resolved(monkeypatch):
    """The tests of ``mcir.device`` cover the other cases."""
    for device in ("mps", "meta", "nonsense", torch.device("meta")):
        if not (device == "mps" and torch.backends.mps.is_available()):
            with pytest.raises(ValueError, match=r"^device: "):
                Restorer(edsr(), device=device)
    monkeypatch.setattr("mcir.inference.restorer.best_device", lambda: torch.device("cpu"))
    assert Restorer(edsr()).device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_returns_the_same(monkeypatch):
    net, images = edsr(), torch.rand(2, 3, 90, 150)
    expected = Restorer(net, device="cpu")(images)
    restorer = Restorer(net)
    assert restorer.device.type == "cuda"
    assert all(parameter.is_cuda for parameter in restorer.network.parameters())
    assert next(net.parameters()).device.type == "cpu"
    torch.testing.assert_close(restorer(images), expected, rtol=0, atol=2e-3)  # TF32
    assert restorer(images.cuda()).is_cuda
    monkeypatch.setattr("mcir.inference.memory.GPU_FRACTION", 1e-5)
    torch.testing.assert_close(Restorer(net)(images), expected, rtol=0, atol=2e-2)
    for precision in ("fp16", "bf16"):
        torch.testing.assert_close(Restorer(net, precision=precision)(images), expected, rtol=0, atol=5e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 0}, r"tile: expected at least 2 for EDSR, got 0"),
        ({"tile": 1.5}, r"tile: expected a number of pixels, 'auto' or None, got 1\.5"),
        ({"tile": True}, r"'auto' or None, got True"),
        ({"tile": "whole"}, r"'auto' or None, got 'whole'"),
        ({"overlap": -1}, r"overlap: expected a number of pixels, at least 0, got -1"),
        ({"overlap": "a"}, r"at least 0, got 'a'"),
        ({"overlap": 2.5}, r"at least 0, got 2\.5"),
        ({"overlap": True}, r"at least 0, got True"),
        ({"ensemble": "no"}, r"ensemble: expected True or False, got 'no'"),
        ({"precision": "int8"}, r"precision: expected one of fp32, fp16, bf16, got 'int8'"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Restorer(edsr(), **arguments)


def test_outputs_are_checked():
    net = edsr()
    net.spec = replace(net.spec, scale=3)
    with pytest.raises(
        ValueError, match=r"EDSR: expected an output of scale 3, got \(1, 3, 16, 16\) from \(1, 3, 8, 8\)"
    ):
        Restorer(net)(torch.rand(1, 3, 8, 8))
    net = edsr()
    nn.init.constant_(net.conv_last.bias, torch.nan)
    with pytest.raises(ValueError, match=r"EDSR: the output is not finite\.$"):
        Restorer(net)(torch.rand(1, 3, 8, 8))
    nn.init.constant_(net.conv_last.bias, 1e6)
    with pytest.raises(ValueError, match="not finite; use bf16 or fp32 instead of fp16"):
        Restorer(net, precision="fp16")(torch.rand(1, 3, 8, 8))
    Restorer(net, precision="bf16")(torch.rand(1, 3, 8, 8))


def test_tiles_of_networks_with_global_context_are_warned_of_once(caplog):
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
    (message,) = caplog.messages
    assert message.startswith("NAFNet uses context from the whole image: tiles of 64 pixels change the result.")


# -- ensemble and precision -------------------------------------------------------------------------------------------


def reference_ensemble(net, images):
    results = []
    for transpose in (False, True):
        for axes in ([], [2], [3], [2, 3]):
            turned = torch.flip(images, axes)
            turned = turned.transpose(2, 3) if transpose else turned
            with torch.no_grad():
                restored = net(turned)
            restored = restored.transpose(2, 3) if transpose else restored
            results.append(torch.flip(restored, axes))
    return torch.stack(results).mean(0).clamp(0, 1)


def test_ensemble_is_the_mean_of_eight():
    net = edsr()
    images = torch.rand(2, 3, 11, 17)
    restored = Restorer(net, ensemble=True)(images)
    torch.testing.assert_close(restored, reference_ensemble(net, images), rtol=0, atol=2e-6)
    assert not torch.allclose(restored, Restorer(net)(images), atol=1e-4)


def test_ensemble_is_equivariant():
    restorer = Restorer(edsr(), ensemble=True, tile=48, overlap=24)
    images = torch.rand(1, 3, 50, 70)
    restored = restorer(images)
    for turn in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3), lambda x: x.rot90(1, (2, 3))):
        torch.testing.assert_close(restorer(turn(images)), turn(restored), rtol=0, atol=1e-5)


def test_ensemble_holds_two_outputs():
    restorer, images = Restorer(Enlarge(4), ensemble=True), torch.rand(1, 3, 50, 50)
    with LiveBytes() as counted:
        restored = restorer(images)
    assert counted.peak < 4.5 * restored.nbytes  # total, part, and the two steps of the network


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precision_returns_float32(precision):
    net = edsr(img_range=1.0)
    seen = []
    net.conv_last.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    images = torch.rand(1, 3, 20, 20)
    restored, exact = Restorer(net, precision=precision)(images), Restorer(net)(images)
    assert seen == [{"fp16": torch.float16, "bf16": torch.bfloat16}[precision], torch.float32]
    assert restored.dtype == torch.float32
    assert 0 < (restored - exact).abs().max() < 0.02


# -- restore() --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(edsr(img_range=1.0).state_dict(), file)
    return file


def test_checkpoint_is_a_file_a_network_or_a_restorer(checkpoint):
    image = torch.rand(3, 8, 8)
    net = mcir.load_network(checkpoint)
    expected = Restorer(net)(image[None])[0]
    for each in (checkpoint, str(checkpoint), net, Restorer(net)):
        assert torch.equal(mcir.restore(image, each), expected)


def test_key_selects_the_weights(tmp_path):
    one, other = edsr().state_dict(), {key: value / 2 for key, value in edsr().state_dict().items()}
    torch.save({"params": one, "params_ema": other}, tmp_path / "net.pth")
    image = torch.rand(3, 8, 8)
    restored = [restore(image, tmp_path / "net.pth", key=key) for key in ("params", "params_ema", None)]
    assert not torch.equal(restored[0], restored[1])
    assert torch.equal(restored[1], restored[2])


@pytest.mark.parametrize("shape", [(3, 8, 9), (1, 8, 9), (2, 3, 8, 9), (1, 1, 8, 9), (5, 3, 8, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.uint8, torch.uint16])
def test_tensors(shape, dtype):
    floats = torch.rand(shape)
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    image = (floats * top).to(dtype)
    restored = restore(image, edsr())
    assert restored.dtype == dtype
    assert restored.shape == (*shape[:-2], 16, 18)
    expected = restore(image.to(torch.float32) / top, edsr())
    assert (restored.to(torch.float32) / top - expected).abs().max() < 1.01 / min(top, 500 if top == 1 else top)


def test_files(tmp_path, checkpoint):
    image = Image.fromarray(RANDOM.integers(0, 256, (8, 9, 3)).astype(np.uint8))
    image.save(tmp_path / "photo.png")
    restored = restore(tmp_path / "photo.png", checkpoint)
    assert isinstance(restored, Picture)
    assert np.array_equal(restored.pixels, restore(np.asarray(image), checkpoint))
    assert np.array_equal(restore(str(tmp_path / "photo.png"), checkpoint).pixels, restored.pixels)
    with pytest.raises(PictureError):
        restore(tmp_path / "none.png", checkpoint)


def test_options_are_passed_to_the_restorer(checkpoint):
    image = torch.rand(3, 40, 40)
    net = mcir.load_network(checkpoint)
    options = {"tile": 24, "overlap": 2, "ensemble": True, "precision": "bf16", "device": "cpu"}
    assert torch.equal(restore(image, net, **options), Restorer(net, **options)(image[None])[0])
    with pytest.raises(ValueError, match=r"ensemble=True: pass this to the Restorer"):
        restore(image, Restorer(net), ensemble=True)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[1, 2], [3, 4]], "expected a path, a PIL image, a NumPy array or a tensor, got list"),
        (np.zeros((8, 9), np.int64), r"expected uint8, uint16, or floats in \[0, 1\], got torch.int64"),
        (np.zeros((8, 9), bool), r"floats in \[0, 1\], got torch.bool"),
        (np.full((8, 9), "x"), r"array: expected uint8, uint16, or floats in \[0, 1\], got <U1"),
        (np.full((8, 9), None), "got object"),
        (np.zeros(8, np.uint8), r"array: expected \(H, W\) or \(H, W, C\), got \(8,\)"),
        (np.zeros((8, 0, 3), np.uint8), "expected at least one pixel"),
        (np.zeros((8, 9, 5), np.uint8), r"images with 3 channels, or 1 \(grey\), got 5"),
        (np.full((8, 9, 3), 200.0), r"floats in \[0, 1\], got 200 to 200; divide by 255, or pass uint8"),
        (np.full((8, 9, 3), -9.0), r"expected floats in \[0, 1\], got -9 to -9\."),
        (np.full((8, 9, 3), np.nan), "got nan to nan"),
        (torch.rand(8, 9), r"tensor: expected \(C, H, W\) or \(B, C, H, W\), got \(8, 9\)"),
        (torch.rand(4, 8, 9), r"images with 3 channels, or 1 \(grey\), got 4"),
        (torch.zeros(0, 3, 8, 9), "expected at least one pixel"),
        (torch.zeros(3, 8, 9, dtype=torch.int32), "got torch.int32"),
        (255 * torch.ones(3, 8, 9), "divide by 255"),
        (Image.new("F", (3, 3)), "expected at most 16 bits per sample, got mode F"),
    ],
)
def test_invalid_images(image, message):
    with pytest.raises(ValueError, match=message):
        restore(image, Enlarge())


def test_invalid_checkpoints():
    with pytest.raises(ValueError, match="expected a path, a network or a Restorer, got int"):
        restore(torch.rand(3, 8, 8), 3)
    with pytest.raises(ValueError, match="key='params' needs the path of a weight file"):
        restore(torch.rand(3, 8, 8), Enlarge(), key="params")


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.rand(3, 8, 8)])
def test_a_restorer_needs_batches_of_floats(images):
    with pytest.raises(ValueError, match=r"EDSR: expected images \(B, C, H, W\), floats in \[0, 1\], got"):
        Restorer(edsr())(images)


@pytest.mark.slow
def test_the_type_of_the_result_is_known_to_mypy(tmp_path):
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
    output = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=600).stdout
    revealed = [line.partition('type is "')[2] for line in output.splitlines() if "Revealed type" in line]
    starts = ["mcir.inference.images.image.Picture", "torch._tensor.Tensor", "PIL.Image.Image", "numpy.ndarray"]
    assert len(revealed) == len(starts)
    assert all(kind.startswith(start) for kind, start in zip(revealed, starts, strict=True)), revealed
    assert "calls.py:9: error: No overload" in output


@pytest.mark.parametrize("pixels", [np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50, 1), np.uint16)])
def test_progress_is_reported_per_tile(pixels):
    shares = []
    restorer = Restorer(
        mcir.build_network({"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2}), tile=24, overlap=8
    )
    restorer.pictures([Picture(pixels), Picture(pixels)], shares.append)
    assert len(shares) > 4
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
