"""Checkpoints are exported to other formats, checked and complete."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mcir import cli
from mcir.engine.checkpoint import NetworkFile, write_network
from mcir.inference import export
from mcir.inference.export import export_network
from mcir.inference.export_backends import ExportError, quiet
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS
from mcir.weights import load_network, read_weights
from tests.inference.test_export_backends import Custom

SECTION = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "res_scale": 0.3, "img_range": 1.0}


@pytest.fixture
def checkpoint(tmp_path):
    """Write a checkpoint of mcir whose average differs from the weights."""
    network, average = ARCHS.build(SECTION), ARCHS.build(SECTION)
    weights = {"params": network.state_dict(), "params_ema": average.state_dict()}
    write_network(tmp_path / "run" / "net", NetworkFile(weights, "EDSR", network.hyperparameters), 1)
    return tmp_path / "run" / "net.pth"


def restored(network, image=None):
    with torch.no_grad():
        return network(torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0)) if image is None else image)


def scripted(file):
    with quiet():
        return torch.jit.load(file)


# -- the command ------------------------------------------------------------------------------------------------------


def test_several_formats_at_once(checkpoint, capsys):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    out = checkpoint.parent
    (out / "net.safetensors").unlink()
    formats = ["--onnx", "--safetensors", "--torchscript", "--torch-export"]
    assert cli.main(["export", str(checkpoint), *formats]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        str(out / f"net.{suffix}") for suffix in ("onnx", "safetensors", "pt", "pt2")
    ]
    assert [", maximum difference " in line for line in lines] == [True, False, True, True]
    assert float(lines[0].rsplit(maxsplit=1)[1]) < 1e-5
    expected = restored(load_network(checkpoint))
    torch.testing.assert_close(restored(scripted(out / "net.pt")), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(restored(torch.export.load(out / "net.pt2").module()), expected, rtol=0, atol=1e-6)
    assert torch.equal(restored(load_network(out / "net.safetensors")), expected)
    assert sorted(file.name for file in out.iterdir()) == [
        "net.onnx",
        "net.pt",
        "net.pt2",
        "net.pth",
        "net.safetensors",
    ]


def test_key(checkpoint, tmp_path):
    for key in ("params", "params_ema"):
        command = ["export", str(checkpoint), "--torchscript", "--key", key, "-o", str(tmp_path / f"{key}.pt")]
        assert cli.main(command) == 0
        torch.testing.assert_close(
            restored(scripted(tmp_path / f"{key}.pt")), restored(load_network(checkpoint, key)), rtol=0, atol=1e-6
        )
    assert not torch.equal(restored(scripted(tmp_path / "params.pt")), restored(scripted(tmp_path / "params_ema.pt")))


def test_option_file(checkpoint, tmp_path):
    """The scale of the residuals cannot be detected from the weights."""
    bare = tmp_path / "bare.pth"
    torch.save(read_weights(checkpoint).tensors, bare)
    quickstart = Path(__file__).parents[2] / "options" / "quickstart.yml"
    section = json.dumps({**SECTION, "res_scale": 0.7})
    (tmp_path / "net.yml").write_text(f"_base_: {quickstart}\nnetwork_g: {section}\n")
    assert cli.main(["export", str(bare), "--safetensors", "-opt", str(tmp_path / "net.yml")]) == 0
    again = load_network(tmp_path / "bare.safetensors")
    assert again.hyperparameters["res_scale"] == 0.7
    assert torch.equal(restored(again), restored(load_network(checkpoint, section={**SECTION, "res_scale": 0.7})))


def test_mistakes_are_reported_in_one_line(checkpoint, capsys):
    assert cli.main(["export", str(checkpoint)]) == 1
    assert capsys.readouterr().err.startswith("mcir export: Choose at least one format: --onnx, --safetensors")


def test_opset(checkpoint, tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    command = ["export", str(checkpoint), "--onnx", "--no-check", "-o", str(tmp_path)]
    for opset, words in ((18, []), (20, ["--opset", "20", "--overwrite"])):
        assert cli.main([*command, *words]) == 0
        versions = [each.version for each in onnx.load(tmp_path / "net.onnx").opset_import if not each.domain]
        assert versions == [opset]
    assert cli.main(["export", str(checkpoint), "--torchscript", "--opset", "20"]) == 1
    assert capsys.readouterr().err == "mcir export: --opset has no effect without --onnx.\n"


def test_no_check(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    assert cli.main(["export", str(checkpoint), "--torchscript"]) == 1
    assert "torchscript: the program differs from the network" in capsys.readouterr().err
    assert cli.main(["export", str(checkpoint), "--torchscript", "--no-check"]) == 0
    assert "at most" not in capsys.readouterr().out
    assert cli.main(["export", str(checkpoint), "--safetensors", "--no-check", "--overwrite"]) == 1
    assert "--no-check has no effect on weights" in capsys.readouterr().err


# -- files ------------------------------------------------------------------------------------------------------------


def check_refusal(checkpoint, message, *formats, **settings):
    before = {file: file.read_bytes() for file in checkpoint.parent.iterdir() if file.is_file()}
    with pytest.raises(ExportError, match=message):
        export.export(checkpoint, formats or ("torchscript",), **settings)
    assert {file: file.read_bytes() for file in checkpoint.parent.iterdir() if file.is_file()} == before


def test_the_checkpoint_is_never_replaced(checkpoint):
    tensors = checkpoint.with_suffix(".safetensors")
    check_refusal(tensors, "is the checkpoint itself", "safetensors", overwrite=True)
    link = checkpoint.parent / "link.safetensors"
    link.hardlink_to(tensors)
    check_refusal(tensors, "is the checkpoint itself", "safetensors", output=link, overwrite=True)


def test_existing_files_are_replaced_only_on_request(checkpoint):
    target = checkpoint.with_suffix(".pt")
    target.write_text("older")
    check_refusal(checkpoint, r"net\.pt exists \(replace it with --overwrite\); choose another file with -o")
    export.export(checkpoint, ["torchscript"], overwrite=True)
    torch.testing.assert_close(restored(scripted(target)), restored(load_network(checkpoint)), rtol=0, atol=1e-6)


def test_extensions_must_match_the_format(checkpoint, tmp_path):
    check_refusal(
        checkpoint,
        r"net\.onnx: expected a folder, or for a single format a file that ends with \.pt",
        output=tmp_path / "net.onnx",
    )
    check_refusal(
        checkpoint,
        r"net\.pt: expected a folder",
        "torchscript",
        "torch-export",
        output=tmp_path / "net.pt",
    )
    folder = tmp_path / "v1.0"  # a folder with a dot in its name
    folder.mkdir()
    [written] = export.export(checkpoint, ["torchscript"], output=folder)
    assert written.file == folder / "net.pt"


def test_targets_that_cannot_be_written_are_found_first(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "load_network", None)
    (tmp_path / "file").touch()
    check_refusal(checkpoint, r"file/net\.pt cannot be written to .*file; choose another", output=tmp_path / "file")
    (tmp_path / "net.pt").mkdir()
    check_refusal(checkpoint, r"net\.pt is a folder; choose another", output=tmp_path, overwrite=True)


def test_a_network_that_fails_on_small_images(tmp_path):
    network = Custom(lambda x: F.pad(x, (12, 12, 12, 12), "reflect")[:, :, 12:-12, 12:-12])
    with pytest.raises(ExportError, match=r"Custom fails on the images of the check: .*[Pp]adding"):
        export_network(network, {"torchscript": tmp_path / "net.pt"})
    assert not list(tmp_path.iterdir())


def test_programs_that_differ_are_not_written(tmp_path):
    """The branch is chosen during tracing."""
    network = Custom(lambda x: x + 0.001 if x.shape[3] > 30 else x)
    (tmp_path / "net.pt").write_text("older")
    with pytest.raises(
        ExportError, match=r"torchscript: the program differs from the network by 1\.0e-03 on images 1×3×49×17"
    ):
        export_network(network, {"torchscript": tmp_path / "net.pt"})
    assert (tmp_path / "net.pt").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1
    [unchecked] = export_network(network, {"torchscript": tmp_path / "net.pt"}, check=False)
    assert unchecked.difference is None
    assert scripted(unchecked.file)(torch.zeros(1, 3, 4, 4)).max() == pytest.approx(0.001)


def test_programs_with_another_size_and_programs_that_fail(tmp_path):
    """The branch is chosen during tracing, and no base class crops the output."""

    class Cropping(torch.nn.Module):
        spec = NetworkSpec()

        def forward(self, x):
            return x[:, :, :-1] * 2 if x.shape[3] > 30 else x * 2

    class Pooling(torch.nn.Module):
        spec = NetworkSpec()

        def forward(self, x):
            return F.max_pool2d(x, 32) if x.shape[3] > 30 else x * 2

    with pytest.raises(
        ExportError, match=r"torchscript: expected \(1, 3, 49, 17\) for images 1×3×49×17, got \(1, 3, 48, 17\)"
    ):
        export_network(Cropping(), {"torchscript": tmp_path / "net.pt"})
    with pytest.raises(ExportError, match=r"torchscript: the program fails, .* Output size is too small"):
        export_network(Pooling(), {"torchscript": tmp_path / "net.pt"})
    assert not list(tmp_path.iterdir())


def test_infinite_values_are_a_difference(tmp_path):
    with pytest.raises(ExportError, match="differs from the network by"):
        export_network(Custom(lambda x: x / 0 if x.shape[3] > 30 else x), {"torchscript": tmp_path / "net.pt"})
