"""Constructor arguments: official arguments are accepted, and invalid values are reported with their argument."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mcir
from mcir import archs
from mcir.archs.network import Blocks, Network
from mcir.archs.swinir import SwinIR
from mcir.errors import ArgumentError, RegistryError
from mcir.registry import ARCHS
from mcir.weights import detect

OFFICIAL: dict[str, dict[str, Any]] = {
    "EDSR": {
        "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": 16, "upscale": 4, "res_scale": 1,
        "img_range": 255.0, "rgb_mean": [0.4488, 0.4371, 0.4040],
    },
    "SwinIR": {
        "img_size": 64, "patch_size": 1, "in_chans": 3, "embed_dim": 96, "depths": [6, 6, 6, 6],
        "num_heads": [6, 6, 6, 6], "mlp_ratio": 4.0, "qkv_bias": True, "qk_scale": None, "drop_rate": 0.0,
        "attn_drop_rate": 0.0, "drop_path_rate": 0.1, "ape": False, "patch_norm": True, "use_checkpoint": False,
        "img_range": 1.0, "upsampler": "", "resi_connection": "1conv",
    },
    "NAFNet": {"img_channel": 3, "width": 16, "middle_blk_num": 1, "enc_blk_nums": [], "dec_blk_nums": []},
    "NAFNetLocal": {
        "img_channel": 3, "width": 16, "middle_blk_num": 1, "enc_blk_nums": [], "dec_blk_nums": [],
        "train_size": [1, 3, 256, 256], "fast_imp": False,
    },
    "FFANet": {"gps": 3, "blocks": 19},
    "DehazeFormer": {
        "in_chans": 3, "out_chans": 4, "window_size": 8, "embed_dims": [24, 48, 96, 48, 24],
        "mlp_ratios": [2.0, 4.0, 4.0, 2.0, 2.0], "depths": [16, 16, 16, 8, 8], "num_heads": [2, 4, 6, 1, 1],
        "attn_ratio": [1 / 4, 1 / 2, 3 / 4, 0, 0], "conv_type": ["DWConv"] * 5,
    },
    "IDT": {
        "img_size": 128, "in_chans": 3, "embed_dim": 32, "num_heads": [1, 2, 4, 8, 16, 16, 8, 4, 2], "win_size": 8,
        "mlp_ratio": 4.0, "qkv_bias": True, "qk_scale": None, "drop_path_rate": 0.1, "patch_norm": True,
        "use_checkpoint": False,
    },
    "UNet": {"bilinear": False},
}  # fmt: skip
"""Official arguments and their official defaults, by architecture.

Exceptions: ``upscale`` 2 and ``window_size`` 7 of SwinIR, which contradict ``upsampler`` '' and ``img_size`` 64; the
``depths`` of IDT, which its code does not use for the number of blocks; Python classes such as ``norm_layer``.
"""
DIFFERENT: dict[str, list[str]] = {
    "NAFNet": ["width", "enc_blk_nums", "dec_blk_nums"],
    "NAFNetLocal": ["width", "enc_blk_nums", "dec_blk_nums"],
    "DehazeFormer": ["depths"],
}
"""Official arguments with a different default in mcir."""
SMALL: dict[str, dict[str, Any]] = {
    "EDSR": {"num_feat": 4, "num_block": 1},
    "SwinIR": {"embed_dim": 12, "depths": [2], "num_heads": [2], "img_size": 16},
    "FFANet": {"gps": 1, "blocks": 1},
    "DehazeFormer": {"depths": [1, 1, 2, 1, 1], "embed_dims": [4, 8, 12, 8, 4]},
    "IDT": {"embed_dim": 4, "img_size": 32, "win_size": 2, "num_heads": [1] * 9},
    "UNet": {"num_feat": 2},
}


def build(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return ARCHS.build({"type": name, **arguments}).eval()


def test_every_architecture_has_its_official_arguments() -> None:
    assert set(OFFICIAL) == set(archs.__all__)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_defaults_change_nothing(name: str) -> None:
    official = OFFICIAL[name]
    different = {key: official[key] for key in DIFFERENT.get(name, [])}
    with torch.device("meta"):
        full, plain = build(name, **official), build(name, **different)
    assert [(key, value.shape) for key, value in full.state_dict().items()] == [
        (key, value.shape) for key, value in plain.state_dict().items()
    ]
    assert full.spec == plain.spec
    small = SMALL.get(name, {})
    full, plain = build(name, **{**official, **small}), build(name, **{**different, **small})
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(full(image), plain(image))


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_arguments_are_accepted_in_an_option_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    network, scale = {"type": name, **OFFICIAL[name]}, 4 if name == "EDSR" else 1
    data = "{val: {type: BundledPhotos, split: val}}"
    lines = ["name: x", "model_type: RestorationModel", f"scale: {scale}", f"network_g: {json.dumps(network)}"]
    file.write_text("\n".join([*lines, f"datasets: {data}"]))
    assert mcir.load(file).network_g["type"] == name


@pytest.mark.parametrize(
    ("name", "argument"),
    [("SwinIR", "norm_layer"), ("DehazeFormer", "norm_layer"), ("FFANet", "conv"), ("IDT", "dowsample")],
)
def test_arguments_that_are_python_classes_are_rejected(name: str, argument: str) -> None:
    with pytest.raises(RegistryError, match=f"{name} has no argument '{argument}'"):
        ARCHS.build({"type": name, argument: "LayerNorm"})


def test_unsupported_arguments_are_named_in_one_error() -> None:
    with pytest.raises(
        ArgumentError, match=r"patch_size: expected 1, got 2 .*; ape: expected False, got True"
    ) as caught:
        SwinIR(patch_size=2, ape=True)
    assert caught.value.name == "patch_size"


# -- optional arguments of SwinIR and IDT -----------------------------------------------------------------------------

SWINIR: dict[str, Any] = {"img_size": 8, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "window_size": 4}


def test_qkv_bias() -> None:
    net, plain = build("SwinIR", **SWINIR), build("SwinIR", **SWINIR, qkv_bias=False)
    missing = net.state_dict().keys() - plain.state_dict().keys()
    assert {key.rpartition(".attn.")[2] for key in missing} == {"qkv.bias"}
    assert detect(plain.state_dict()).arguments["qkv_bias"] is False  # type: ignore[union-attr]
    net.load_state_dict({**net.state_dict(), **plain.state_dict()})
    image = torch.rand(1, 3, 8, 12)
    with torch.no_grad():  # biases are initialized to zero
        torch.testing.assert_close(plain(image), net(image), rtol=1e-5, atol=1e-6)


def test_patch_norm() -> None:
    net, plain = build("SwinIR", **SWINIR), build("SwinIR", **SWINIR, patch_norm=False)
    missing = net.state_dict().keys() - plain.state_dict().keys()
    assert missing == {"patch_embed.norm.weight", "patch_embed.norm.bias"}
    assert detect(plain.state_dict()).arguments["patch_norm"] is False  # type: ignore[union-attr]
    net.patch_embed.norm = torch.nn.Identity()
    net.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 8, 12)
    with torch.no_grad():
        assert torch.equal(plain(image), net(image))


@pytest.mark.parametrize(("name", "small"), [("SwinIR", SWINIR), ("IDT", SMALL["IDT"])])
def test_qk_scale_replaces_the_default_factor(name: str, small: dict[str, Any]) -> None:
    """It has no effect only if the queries are zero."""
    image = torch.rand(1, 3, 32, 32)
    plain, scaled = build(name, **small), build(name, **small, qk_scale=0.5)
    query_weights = ("qkv.weight", "to_q.weight")
    with torch.no_grad():
        assert not torch.equal(scaled(image), plain(image))
        for net in (plain, scaled):
            for key, parameter in net.named_parameters():
                if key.endswith(query_weights):
                    parameter.zero_()
        assert torch.equal(scaled(image), plain(image))
    assert build(name, **small, qk_scale=0.0).hyperparameters["qk_scale"] == 0.0


@pytest.mark.parametrize("argument", ["drop_rate", "attn_drop_rate"])
def test_dropout_is_active_in_training_only(argument: str) -> None:
    small = {**SWINIR, "drop_path_rate": 0.0}
    net, plain = build("SwinIR", **small, **{argument: 0.5}), build("SwinIR", **small)
    image = torch.rand(1, 3, 8, 12)
    with torch.no_grad():
        assert torch.equal(net(image), plain(image))
        outputs = [net.train()(image) for _ in range(2)]
    assert not torch.equal(*outputs)
    net(image).mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(("name", "small"), [("SwinIR", SWINIR), ("IDT", SMALL["IDT"])])
def test_gradient_checkpointing_gives_the_same_gradients(name: str, small: dict[str, Any]) -> None:
    image, gradients, calls = torch.rand(2, 3, 32, 32), [], []
    for use_checkpoint in (False, True):
        net: Network = build(name, **small, use_checkpoint=use_checkpoint).train()
        first = next(module for module in net.modules() if isinstance(module, Blocks)).blocks[0]
        count: list[int] = []
        first.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(1)
        net(image).square().mean().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
        calls.append(len(count))
    assert calls == [1, 2]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=0)


def test_conv_type_per_stage() -> None:
    types = ["Conv", "DWConv", "DWConv", "Conv", "DWConv"]
    net = build("DehazeFormer", **SMALL["DehazeFormer"], conv_type=types)
    assert detect(net.state_dict()).arguments["conv_type"] == types  # type: ignore[union-attr]
    assert net(torch.rand(1, 3, 9, 10)).shape == (1, 3, 9, 10)


# -- invalid values ---------------------------------------------------------------------------------------------------

NINE = [1] * 9
INVALID: list[tuple[str, dict[str, Any], str]] = [
    ("EDSR", {"upscale": 6}, "upscale: expected 3 or a power of two (1, 2, 4, 8, …), got 6."),
    ("EDSR", {"upscale": 0}, "upscale: expected an integer from 1 to 64, got 0."),
    (
        "EDSR",
        {"rgb_mean": [0.4, 0.4]},
        "rgb_mean: expected one number per channel, got 2 for 3 input and 3 output channels.",
    ),
    (
        "EDSR",
        {"rgb_mean": [0.4]},
        "rgb_mean: expected one number per channel, got 1 for 3 input and 3 output channels.",
    ),
    ("EDSR", {"rgb_mean": [0.4] * 3, "num_in_ch": 1}, "like [0.5], got 3 for 1 input and 3 output channels."),
    ("EDSR", {"rgb_mean": [0.4, -1, 0.4]}, "rgb_mean.1: expected a number in [0, 1], got -1."),
    ("EDSR", {"num_feat": 0}, "num_feat: expected an integer ≥ 1, got 0."),
    ("EDSR", {"num_block": -1}, "num_block: expected an integer ≥ 0, got -1."),
    ("EDSR", {"img_range": 0.0}, "img_range: expected a finite number above 0, got 0.0."),
    ("FFANet", {"gps": 0}, "gps: expected an integer ≥ 1, got 0."),
    ("FFANet", {"blocks": 0}, "blocks: expected an integer ≥ 1, got 0."),
    ("UNet", {"num_in_ch": 0}, "num_in_ch: expected an integer ≥ 1, got 0."),
    ("UNet", {"num_out_ch": 0}, "num_out_ch: expected"),
    ("UNet", {"num_feat": 0}, "num_feat: expected"),
    ("UNet", {"scale": 0}, "scale: expected"),
    ("NAFNet", {"dec_blk_nums": [1, 1, 1]}, "expected as many levels as enc_blk_nums (4), got 3."),
    ("NAFNet", {"width": 0}, "width: expected an integer ≥ 1, got 0."),
    ("NAFNet", {"img_channel": 0}, "img_channel: expected"),
    ("NAFNet", {"middle_blk_num": -1}, "middle_blk_num: expected an integer ≥ 0, got -1."),
    ("NAFNet", {"enc_blk_nums": [1, -1, 1, 1]}, "enc_blk_nums.1: expected an integer ≥ 0, got -1."),
    ("NAFNetLocal", {"train_size": [256, 256]}, "train_size: expected a list of 4 values, got [256, 256]."),
    ("NAFNetLocal", {"train_size": [1, 3, 0, 64]}, "train_size.2: expected an integer ≥ 1, got 0."),
    ("NAFNetLocal", {"fast_imp": True}, "fast_imp: expected False, got True (no published result uses"),
    ("SwinIR", {"upsampler": "pixelshufle"}, "got 'pixelshufle'. Did you mean 'pixelshuffle'?"),
    ("SwinIR", {"upscale": 6, "upsampler": "pixelshuffle"}, "expected 3 or a power of two (1, 2, 4, 8, …) for"),
    ("SwinIR", {"upscale": 0, "upsampler": "pixelshuffledirect"}, "upscale: expected an integer from 1 to 64, got 0."),
    ("SwinIR", {"upscale": 3, "upsampler": "nearest+conv"}, "expected 2 or 4 for upsampler 'nearest+conv', got 3."),
    ("SwinIR", {"upscale": 2, "upsampler": ""}, "expected 1 (set an upsampler, like 'pixelshuffle', to upsample)"),
    ("SwinIR", {"resi_connection": "2conv"}, "resi_connection: expected '1conv' or '3conv', got '2conv'."),
    ("SwinIR", {"img_size": 30}, "img_size: expected a multiple of window_size 8, like 24 or 32, got 30."),
    ("SwinIR", {"num_heads": [6, 6, 6, 5]}, "num_heads: expected divisors of embed_dim 96, got 5."),
    ("SwinIR", {"num_heads": [2]}, "num_heads: expected one number per group (4, as in depths), got [2]."),
    ("SwinIR", {"depths": []}, "depths: expected a list of 1 to 64 values, got []."),
    ("SwinIR", {"depths": [2, 0, 2, 2]}, "depths.1: expected an integer ≥ 1, got 0."),
    ("SwinIR", {"embed_dim": 0}, "embed_dim: expected"),
    ("SwinIR", {"mlp_ratio": -1.0}, "mlp_ratio: expected a number in (0, 64], got -1.0."),
    ("SwinIR", {"drop_path_rate": 1.0}, "drop_path_rate: expected a number in [0, 1), got 1.0."),
    ("SwinIR", {"attn_drop_rate": -0.1}, "attn_drop_rate: expected a number in [0, 1)"),
    ("DehazeFormer", {"depths": [4, 4, 4]}, "depths: expected a list of 5 values, got [4, 4, 4]."),
    ("DehazeFormer", {"num_heads": [1] * 6}, "num_heads: expected a list of 5 values"),
    ("DehazeFormer", {"conv_type": ["Conv"] * 4}, "conv_type: expected a list of 5 values"),
    ("DehazeFormer", {"depths": [4, 4, 0, 2, 2]}, "depths.2: expected an integer ≥ 1, got 0."),
    ("DehazeFormer", {"in_chans": 0}, "in_chans: expected"),
    ("DehazeFormer", {"window_size": 1}, "window_size: expected an integer from 2 to 128, got 1."),
    ("DehazeFormer", {"embed_dims": [24, 48, 96, 96, 24]}, "in stages 1 and 5, and 2 and 4, like [24, 48, 96, 48, 24]"),
    (
        "DehazeFormer",
        {"mlp_ratios": [2, 4, 0.01, 2, 2]},
        "mlp_ratios: stage 3: expected at least one hidden feature, got the ratio 0.01 for 96 features.",
    ),
    ("DehazeFormer", {"attn_ratio": [0, 0.5, 75, 0, 0]}, "attn_ratio.2: expected a number in [0, 1], got 75."),
    (
        "DehazeFormer",
        {"num_heads": [2, 5, 6, 1, 1]},
        "num_heads: stage 2: expected a divisor of the 48 features in embed_dims, got 5.",
    ),
    ("DehazeFormer", {"conv_type": "dwconv"}, "conv_type: expected 'DWConv' or 'Conv', got 'dwconv'."),
    ("DehazeFormer", {"out_chans": 3}, "out_chans: expected 4, got 3 ("),
    ("IDT", {"depths": [1] * 8}, "depths: expected a list of 9 values"),
    ("IDT", {"num_heads": [1] * 8 + [0]}, "num_heads.8: expected an integer ≥ 1, got 0."),
    (
        "IDT",
        {"num_heads": [3, 2, 4, 8, 16, 16, 8, 4, 2]},
        "num_heads: stage 1: expected a divisor of 32 features",
    ),
    ("IDT", {"num_heads": [128, *NINE[1:]], "embed_dim": 128}, "and of 64 pixels per window, got 128."),
    ("IDT", {"img_size": 192}, "expected a multiple of 16 · win_size or 64, like 256, got 192."),
    ("IDT", {"img_size": 0}, "img_size: expected"),
    ("IDT", {"win_size": 0}, "win_size: expected"),
    ("IDT", {"mlp_ratio": 0.0}, "mlp_ratio: expected a number in (0, 64], got 0.0."),
    ("IDT", {"drop_path_rate": 1.0}, "drop_path_rate: expected a number in [0, 1)"),
    ("IDT", {"overlap": 128}, "overlap: expected 0 to img_size − 1 = 127 pixels, got 128."),
    ("IDT", {"overlap": -1}, "overlap: expected an integer ≥ 0, got -1."),
]


@pytest.mark.parametrize(("name", "arguments", "message"), INVALID)
def test_invalid_values_are_reported_with_their_argument(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught, torch.device("meta"):
        ARCHS.get(name)(**arguments)
    assert message in str(caught.value)
    assert caught.value.name == next(iter(arguments))


def test_invalid_values_of_every_architecture_are_tested() -> None:
    assert {name for name, _, _ in INVALID} == set(archs.__all__)
