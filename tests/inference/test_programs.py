"""Networks as programs: every family in every format, at any size, and without mcir."""

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
from mcir.inference import programs
from mcir.inference.export import facts_of_network
from mcir.inference.programs import (
    ExportError,
    archive,
    images_for,
    onnx_model,
    quietly,
    require_onnx,
    torchscript,
    traced,
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
    "NAFNetLocal": {**NAFNET, "train_size": [1, 3, 16, 16]},  # windows of 24 pixels, smaller than some images
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
SIZES = ((1, 1, 1), (2, 29, 61))


@functools.cache
def traced_family(family):
    """The network of a family, and its program."""
    network = network_of(family)
    return network, traced(network)


def network_of(family):
    """A network whose every part changes the image."""
    torch.manual_seed(0)
    network = ARCHS.build({"type": family, **FAMILIES[family]}).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def assert_restores_the_same(family, formats):
    network, program = traced_family(family)
    facts = facts_of_network(network)
    images = [*images_for(network), *(torch.rand(batch, 3, height, width) for batch, height, width in SIZES)]
    for suffix, write in formats.items():
        content = write(program, facts)
        assert str(Path(mcir.__file__).parents[1]).encode() not in content
        run = programs.runner(content, suffix)
        for batch in images:
            with torch.no_grad():
                expected = network(batch)
                assert expected.std() > 1e-3 or batch.shape[2] == 1
                torch.testing.assert_close(run(batch), expected, rtol=0, atol=1e-5 * max(1, expected.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_restores_the_same_in_onnx_runtime(family):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed")

    def written(program, facts):
        content = onnx_model(program, facts, 18)
        operators = {node.op_type for node in onnx.load_from_string(content).graph.node}
        assert not [name for name in operators if name.startswith("Scatter")]  # which several threads do wrong
        return content

    assert_restores_the_same(family, {".onnx": written})


SLOW = [pytest.param(name, marks=[pytest.mark.slow] * (name in ("IDT", "DehazeFormer"))) for name in FAMILIES]


@pytest.mark.parametrize("family", SLOW)
def test_every_family_restores_the_same_as_script_and_archive(family):
    assert_restores_the_same(family, {".pt": torchscript, ".pt2": archive})


def test_every_family_that_is_registered_is_exported_here():
    assert set(FAMILIES) == {name for name in ARCHS.names() if ARCHS.get(name).__module__.startswith("mcir.")}


def test_an_onnx_file_tells_its_sides_and_its_network():
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    network, program = traced_family("EDSR")
    facts = facts_of_network(network)
    for opset in (18, 20):
        model = onnx.load_from_string(onnx_model(program, facts, opset))
        onnx.checker.check_model(model, full_check=True)
        assert [each.version for each in model.opset_import if not each.domain] == [opset]
    dims = [
        [dim.dim_param or dim.dim_value for dim in values[0].type.tensor_type.shape.dim]
        for values in (model.graph.input, model.graph.output)
    ]
    assert dims == [["batch", 3, "height", "width"], ["batch", 3, "2*height", "2*width"]]
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "output")
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told == facts
    assert told.items() >= {"architecture": "EDSR", "scale": "2", "in_channels": "3", "padding": "reflect"}.items()
    assert told.items() >= {"size_multiple": "1", "min_size": "1", "range": "[0, 1], not clamped"}.items()
    assert json.loads(told["hyperparameters"])["num_feat"] == 8


WITHOUT_MCIR = """
import sys
sys.modules["mcir"] = None
import json, torch
facts, told = {"mcir.json": ""}, {"mcir.json": ""}
archived = torch.export.load("net.pt2", extra_files=facts).module()
scripted = torch.jit.load("net.pt", _extra_files=told)
assert json.loads(facts["mcir.json"]) == json.loads(told["mcir.json"])
images = torch.load("images", weights_only=True)
torch.save([json.loads(facts["mcir.json"])["architecture"], archived(images), scripted(images)], "restored")
"""


def test_programs_need_no_mcir(tmp_path):
    network, program = traced_family("SwinIR")
    facts = facts_of_network(network)
    images = torch.rand(1, 3, 7, 9)
    (tmp_path / "net.pt").write_bytes(torchscript(program, facts))
    (tmp_path / "net.pt2").write_bytes(archive(program, facts))
    torch.save(images, tmp_path / "images")
    subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT_MCIR], cwd=tmp_path, check=True)
    name, *restored = torch.load(tmp_path / "restored", weights_only=True)
    assert name == "SwinIR"
    with torch.no_grad():
        for images_again in restored:
            torch.testing.assert_close(images_again, network(images), rtol=0, atol=1e-5)


def test_a_script_makes_its_indices_where_the_images_are():
    """On another device than it was traced on; the meta device computes shapes alone."""
    network, program = traced_family("NAFNetLocal")
    with quietly():
        run = torch.jit.load(io.BytesIO(torchscript(program, facts_of_network(network))), map_location="meta")
    assert run(torch.rand(1, 3, 30, 9, device="meta")).shape == (1, 3, 30, 9)


class Asking(Network):
    """A network that is ``step``: whatever a plug-in may do."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def restore(self, x):
        return self.step(x)


def test_a_network_that_cannot_be_traced_is_told_with_the_reason():
    with pytest.raises(ExportError, match=r"Asking cannot be traced for images of any size: .*specialized it"):
        traced(Asking(lambda x: x * torch.ones(len(x), 1, 1, 1)))

    def fail(x):
        raise RuntimeError("no kernel for it\nand more")

    with pytest.raises(ExportError, match=r"Asking cannot be traced for images of any size: no kernel for it$"):
        traced(Asking(fail))


def test_an_operation_that_onnx_lacks_is_told():
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    program = traced(Asking(lambda x: torch.special.bessel_j0(x)))
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: .*bessel_j0"):
        onnx_model(program, facts_of_network(Asking(None)), 18)


@pytest.mark.parametrize(
    ("missing", "check", "message"),
    [
        ({"onnx"}, True, r'ONNX needs onnx\. Install with: pip install "mcir\[export\]"\.$'),
        ({"onnx", "onnxscript"}, False, r"ONNX needs onnx and onnxscript\. Install"),
        ({"onnxruntime"}, True, r"onnxruntime\. Install with: .*, or leave the check out: --no-check\.$"),
    ],
)
def test_what_is_not_installed_is_told_with_how_to_install_it(monkeypatch, missing, check, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else "is here")
    with pytest.raises(ExportError, match=message):
        require_onnx(18, check)


def test_versions_of_operators_that_cannot_be_written_are_refused():
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    require_onnx(18, check=False)
    for opset in (17, 1000):
        with pytest.raises(ExportError, match=rf"can be written in the versions 18 to \d+, not {opset}"):
            require_onnx(opset, check=False)


def test_exporting_is_silent_and_leaves_loggers_as_they_were(capfd):
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    network = network_of("EDSR")
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program, facts = traced(network), facts_of_network(network)
        onnx_model(program, facts, 18)
        programs.runner(torchscript(program, facts), ".pt")
        programs.runner(archive(program, facts), ".pt2")
    assert capfd.readouterr() == ("", "")
    assert logger.level == before
