"""Every family is exported to every format, for any size, and runs without mcir."""

import functools
import importlib.util
import io
import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import mcir
from mcir.archs.network import Network
from mcir.inference import export_backends
from mcir.inference.export import network_facts
from mcir.inference.export_backends import (
    ExportError,
    check_onnx,
    quiet,
    sample_images,
    to_onnx,
    to_torch_export,
    to_torchscript,
    trace,
)
from mcir.registry import ARCHS

NAFNET = {"width": 4, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
FAMILIES = {
    "EDSR": {"num_feat": 8, "num_block": 1, "upscale": 2},
    "SwinIR": {
        "img_size": 8,
        "embed_dim": 8,
        "depths": [2],
        "num_heads": [2],
        "window_size": 4,
        "upscale": 3,
        "upsampler": "pixelshuffledirect",
    },
    "FFANet": {"gps": 2, "blocks": 1},
    "DehazeFormer": {
        "embed_dims": [4, 4, 4, 4, 4],
        "depths": [1, 1, 2, 1, 1],
        "num_heads": [1, 1, 2, 1, 1],
        "attn_ratio": [0, 0, 1, 0, 0],
        "window_size": 4,
    },
    "NAFNet": NAFNET,
    "NAFNetLocal": {**NAFNET, "train_size": [1, 3, 16, 16]},  # windows of 24 pixels
    "UNet": {"num_feat": 2, "bilinear": True, "scale": 2},
    "IDT": {
        "embed_dim": 2,
        "depths": [1] * 9,
        "num_heads": [1] * 9,
        "win_size": 2,
        "img_size": 16,
        "overlap": 6,
        "mlp_ratio": 2,
    },
}
MARKED = [pytest.param(name, marks=[pytest.mark.slow] * (name in ("IDT", "DehazeFormer"))) for name in FAMILIES]
SIZES = ((1, 1, 1), (2, 29, 61))


@functools.cache
def traced_family(family):
    """Return a network of a family, and its program."""
    network = build(family)
    return network, trace(network)


def build(family):
    """Build a network in which every part changes the image."""
    torch.manual_seed(0)
    network = ARCHS.build({"type": family, **FAMILIES[family]}).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def assert_restores_the_same(family, formats):
    network, program = traced_family(family)
    facts = network_facts(network)
    images = [*sample_images(network), *(torch.rand(batch, 3, height, width) for batch, height, width in SIZES)]
    for suffix, write in formats.items():
        content = write(program, facts)
        assert str(Path(mcir.__file__).parents[1]).encode() not in content
        run = export_backends.load_program(content, suffix)
        for batch in images:
            with torch.no_grad():
                expected = network(batch)
                assert expected.std() > 1e-3 or batch.shape[2] == 1
                torch.testing.assert_close(run(batch), expected, rtol=0, atol=1e-5 * max(1, expected.abs().max()))


@pytest.mark.parametrize("family", MARKED)
def test_onnx(family):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed")

    def written(program, facts):
        content = to_onnx(program, facts, 18)
        operators = {node.op_type for node in onnx.load_from_string(content).graph.node}
        assert not [name for name in operators if name.startswith("Scatter")]  # wrong with several threads
        return content

    assert_restores_the_same(family, {".onnx": written})


@pytest.mark.parametrize("family", MARKED)
def test_torchscript_and_torch_export(family):
    assert_restores_the_same(family, {".pt": to_torchscript, ".pt2": to_torch_export})


def test_all_families_are_covered():
    assert set(FAMILIES) == {name for name in ARCHS.names() if ARCHS.get(name).__module__.startswith("mcir.")}


def test_metadata_of_onnx():
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    network, program = traced_family("EDSR")
    facts = network_facts(network)
    for opset in (18, 20):
        model = onnx.load_from_string(to_onnx(program, facts, opset))
        onnx.checker.check_model(model, full_check=True)
        assert [each.version for each in model.opset_import if not each.domain] == [opset]
    dims = [
        [dim.dim_param or dim.dim_value for dim in values[0].type.tensor_type.shape.dim]
        for values in (model.graph.input, model.graph.output)
    ]
    assert dims == [["batch", 3, "height", "width"], ["batch", 3, "2*height", "2*width"]]
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "output")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata == facts
    assert metadata.items() >= {"architecture": "EDSR", "scale": "2", "in_channels": "3", "padding": "reflect"}.items()
    assert metadata.items() >= {"size_multiple": "1", "min_size": "1", "range": "[0, 1], not clamped"}.items()
    assert json.loads(metadata["hyperparameters"])["num_feat"] == 8


WITHOUT_MCIR = """
import sys
sys.modules["mcir"] = None
import json, torch
facts, metadata = {"mcir.json": ""}, {"mcir.json": ""}
archived = torch.export.load("net.pt2", extra_files=facts).module()
scripted = torch.jit.load("net.pt", _extra_files=metadata)
assert json.loads(facts["mcir.json"]) == json.loads(metadata["mcir.json"])
images = torch.load("images", weights_only=True)
torch.save([json.loads(facts["mcir.json"])["architecture"], archived(images), scripted(images)], "restored")
"""


def test_programs_run_without_mcir(tmp_path):
    network, program = traced_family("SwinIR")
    facts = network_facts(network)
    images = torch.rand(1, 3, 7, 9)
    (tmp_path / "net.pt").write_bytes(to_torchscript(program, facts))
    (tmp_path / "net.pt2").write_bytes(to_torch_export(program, facts))
    torch.save(images, tmp_path / "images")
    subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT_MCIR], cwd=tmp_path, check=True)
    name, *restored = torch.load(tmp_path / "restored", weights_only=True)
    assert name == "SwinIR"
    with torch.no_grad():
        for images_again in restored:
            torch.testing.assert_close(images_again, network(images), rtol=0, atol=1e-5)


def test_scripts_create_tensors_on_the_device_of_the_images():
    """The meta device stands for a GPU."""
    network, program = traced_family("NAFNetLocal")
    with quiet():
        run = torch.jit.load(io.BytesIO(to_torchscript(program, network_facts(network))), map_location="meta")
    assert run(torch.rand(1, 3, 30, 9, device="meta")).shape == (1, 3, 30, 9)


class Custom(Network):
    """A network that calls a function."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def restore(self, x):
        return self.step(x)


def test_networks_that_cannot_be_traced():
    with pytest.raises(ExportError, match=r"Custom cannot be traced for images of any size: .*specialized it"):
        trace(Custom(lambda x: x * torch.ones(len(x), 1, 1, 1)))

    def fail(x):
        raise RuntimeError("no kernel for it\nand more")

    with pytest.raises(
        ExportError, match=r"Custom cannot be traced for images of any size: no kernel for it … and more$"
    ):
        trace(Custom(fail))


def test_operations_without_onnx_translation():
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    program = trace(Custom(lambda x: torch.special.bessel_j0(x)))
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: .*bessel_j0"):
        to_onnx(program, network_facts(Custom(None)), 18)


@pytest.mark.parametrize(
    ("missing", "check", "message"),
    [
        ({"onnx"}, True, r'ONNX needs onnx: run pip install -e "\.\[export\]" in the clone of mcir\.$'),
        ({"onnx", "onnxscript"}, False, r"ONNX needs onnx and onnxscript: run"),
        ({"onnxruntime"}, True, r"onnxruntime: run .*, or skip the check with --no-check\.$"),
    ],
)
def test_missing_packages(monkeypatch, missing, check, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else "is here")
    with pytest.raises(ExportError, match=message):
        check_onnx(18, check)


def test_unknown_opsets():
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    check_onnx(18, check=False)
    for opset in (17, 1000):
        with pytest.raises(ExportError, match=rf"--opset: expected 18 to \d+, got {opset}"):
            check_onnx(opset, check=False)


def test_exporting_is_silent(capfd):
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    network = build("EDSR")
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program, facts = trace(network), network_facts(network)
        to_onnx(program, facts, 18)
        export_backends.load_program(to_torchscript(program, facts), ".pt")
        export_backends.load_program(to_torch_export(program, facts), ".pt2")
    assert capfd.readouterr() == ("", "")
    assert logger.level == before
