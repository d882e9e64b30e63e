"""Reading weight files of every layout, without executing code in them."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mcir.weights import WeightsError, network_metadata, read_weights, to_safetensors


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


ONE, TWO = {"a.weight": torch.ones(2)}, {"a.weight": torch.zeros(2)}


@pytest.mark.parametrize(
    ("content", "key", "expected"),
    [
        (ONE, None, ONE),
        (ONE, "params", ONE),  # the weights are at the top level
        ({"params": ONE, "params_ema": TWO}, None, TWO),
        ({"params": ONE, "params_ema": TWO}, "params", ONE),
        ({"params": ONE}, None, ONE),
        ({"epoch": 3, "state_dict": ONE}, None, ONE),
        ({"generator": ONE, "params": TWO}, "generator", ONE),
        ({"module.a.weight": torch.ones(2)}, None, ONE),
        ({"params": {"module.a.weight": torch.ones(2)}}, None, ONE),
        ({"epoch": 3, "best_psnr": torch.tensor(30.0), "state_dict": ONE}, None, ONE),
        ({**ONE, "epoch": 3}, None, ONE),
        ({"model": {"epoch": 3, "state_dict": ONE}}, None, ONE),
    ],
)
def test_weights_are_found_in_every_layout(tmp_path, content, key, expected):
    torch.save(content, tmp_path / "net.pth")
    assert_equal(read_weights(tmp_path / "net.pth", key).tensors, expected)


def test_weights_are_read_from_safetensors(tmp_path):
    save_file(ONE, tmp_path / "net.safetensors")
    assert_equal(read_weights(tmp_path / "net.safetensors", "params").tensors, ONE)
    save_file(ONE, tmp_path / "net.safetensors", {"weights": "params_ema"})
    assert_equal(read_weights(tmp_path / "net.safetensors", "params_ema").tensors, ONE)
    with pytest.raises(
        WeightsError, match=r"expected the key 'params', got 'params_ema'\. The \.pth file .* contains both"
    ):
        read_weights(tmp_path / "net.safetensors", "params")


def test_the_error_for_a_file_without_a_usual_key_lists_its_keys(tmp_path):
    torch.save({"generator": ONE, "step": 3}, tmp_path / "net.pth")
    with pytest.raises(
        WeightsError,
        match=r"expected one of the keys params_ema, params, .*, got generator\. Set the key of the weights\.$",
    ):
        read_weights(tmp_path / "net.pth")


def test_prefixes_of_parallel_training_are_removed_from_safetensors(tmp_path):
    save_file({"module.a.weight": torch.ones(2)}, tmp_path / "net.safetensors")
    assert_equal(read_weights(tmp_path / "net.safetensors").tensors, ONE)


def test_a_submodule_called_module_keeps_its_name(tmp_path):
    content = {"module.weight": torch.ones(2), "weight": torch.zeros(2)}
    torch.save(content, tmp_path / "net.pth")
    assert_equal(read_weights(tmp_path / "net.pth").tensors, content)


def test_the_error_for_a_missing_key_lists_the_keys_of_the_file(tmp_path):
    torch.save({"params": ONE, "params_ema": TWO}, tmp_path / "net.pth")
    with pytest.raises(
        WeightsError, match=r"expected the key 'generator', got params, params_ema\. Set the key of the weights\.$"
    ):
        read_weights(tmp_path / "net.pth", "generator")


@pytest.mark.parametrize("content", [3, {}, {"params": {"a": torch.ones(1), "b": "text"}}, {1: torch.ones(1)}, [ONE]])
def test_content_without_weights_is_rejected(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="contains no weights"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a weight file", bytes(range(256)) * 8])
def test_files_of_other_formats_are_rejected(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} cannot be read: ."):
        read_weights(tmp_path / name)


class Malicious:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_code_in_a_file_is_rejected_and_not_executed(tmp_path):
    file, folder = tmp_path / "net.pth", tmp_path / "made_by_code"
    for protocol in (torch.save, lambda content, file: file.write_bytes(pickle.dumps(content, protocol=2))):
        protocol({"params": {"a": Malicious(str(folder))}}, file)
        with pytest.raises(WeightsError, match=r"net\.pth cannot be read"):
            read_weights(file)
    assert not folder.exists()
    torch.load(file, weights_only=False) if file.read_bytes()[:2] == b"PK" else pickle.loads(file.read_bytes())
    assert folder.is_dir()  # the file would have created the folder


def test_numpy_numbers_next_to_the_weights_are_accepted(tmp_path):
    content = {"model": ONE, "max_psnr": np.float64(36.4), "ssims": np.array([0.9, 0.8]), "step": np.int64(3)}
    torch.save(content, tmp_path / "net.pth")
    read = read_weights(tmp_path / "net.pth")
    assert_equal(read.tensors, ONE)
    assert read.key == "model"


def test_parameters_with_attributes_are_read_as_tensors(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.is_frozen, parameter.dim = True, "text"
    torch.save({"params": {"a.weight": parameter}}, tmp_path / "net.pth")
    (read,) = read_weights(tmp_path / "net.pth").tensors.values()
    assert type(read) is torch.Tensor
    assert not read.requires_grad
    assert read.dim() == 1


def test_objects_of_other_classes_are_rejected(tmp_path):
    torch.save({"params": ONE, "args": argparse.Namespace(lr=1)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="it contains objects other than tensors"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_truncated_file_is_rejected(tmp_path, suffix, share):
    file = tmp_path / f"net{suffix}"
    content = {"a": torch.ones(300)}
    save_file(content, file) if suffix == ".safetensors" else torch.save(content, file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(WeightsError, match="cannot be read: it is damaged or truncated"):
        read_weights(file)


def test_images_and_folders_are_rejected(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(WeightsError, match="it is not a PyTorch file"):
        read_weights(tmp_path / "photo.png")
    with pytest.raises(WeightsError, match="expected a weight file, but the path is a folder"):
        read_weights(tmp_path)


def test_weights_that_share_memory_are_stored_separately(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    content = to_safetensors(
        {"one": shared, "same": shared, "transposed": shared.mT}, network_metadata("EDSR", {"num_feat": 4})
    )
    (tmp_path / "net.safetensors").write_bytes(content)
    weights = read_weights(tmp_path / "net.safetensors")
    assert_equal(weights.tensors, {"one": shared, "same": shared, "transposed": shared.mT})
    assert weights.section == {"type": "EDSR", "num_feat": 4}
