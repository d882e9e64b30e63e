"""The checksum in safetensors files."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mcir.weights import WeightsError, read_weights, to_safetensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5, dtype=torch.bfloat16), "c": torch.zeros(0, 2)}


def with_header(data, change):
    """Return a file whose header is changed by a function, without changing its tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def test_the_checksum_does_not_depend_on_order(tmp_path):
    file = tmp_path / "net.safetensors"
    data = to_safetensors(dict(reversed(TENSORS.items())), {"x": "1", "weights": "params"})
    file.write_bytes(with_header(data, lambda header: header.update(__metadata__=header.pop("__metadata__"))))
    read = read_weights(file).tensors
    assert all(torch.equal(read[key], value) for key, value in TENSORS.items())


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["__metadata__"].pop("mcir_checksum"),
        lambda header: header["__metadata__"].pop("mcir_format"),
        lambda header: header["__metadata__"].update(mcir_format="2"),
        lambda header: header["__metadata__"].update(hyperparameters="{}"),
        lambda header: header["__metadata__"].pop("weights"),
        lambda header: header["a"].update(shape=[3, 2]),
        lambda header: header["a"].update(dtype="I32"),
        lambda header: header.update(d=header.pop("a")),
    ],
)
def test_every_change_of_the_header_is_found(tmp_path, change):
    file = tmp_path / "net.safetensors"
    file.write_bytes(with_header(to_safetensors(TENSORS, {"weights": "params"}), change))
    with pytest.raises(WeightsError, match=r"net\.safetensors cannot be read: it is damaged"):
        read_weights(file)


def test_files_of_others_and_of_version_0_1_0_have_no_checksum(tmp_path):
    file = tmp_path / "net.safetensors"
    for metadata in (None, {"format": "pt"}, {"architecture": "EDSR", "hyperparameters": "{}", "weights": "params"}):
        save_file(TENSORS, file, metadata)
        assert read_weights(file).tensors.keys() == TENSORS.keys()


def test_other_readers_find_the_tensors_and_the_metadata(tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(to_safetensors(TENSORS, {"iteration": "3"}))
    with safe_open(file, "pt") as content:
        assert content.metadata()["iteration"] == "3"
        assert torch.equal(content.get_tensor("a"), TENSORS["a"])
