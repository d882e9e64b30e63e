"""Files of torch.save: intact ones are read, and all others are rejected before PyTorch reads them."""

import io
import os
import zipfile

import pytest
import torch

from mcir.weights import WeightsError, read_torch_file
from tests.trust.weight_mutants import with_pickle

CONTENT = {"params": {"a": torch.arange(5.0), "b": torch.ones(3, dtype=torch.float64), "c": torch.tensor([True])}}


def entries(file):
    with zipfile.ZipFile(file) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def rewrite(file, entries, method=zipfile.ZIP_STORED, first=b""):
    buffer = io.BytesIO(first)
    buffer.seek(0, 2)
    with zipfile.ZipFile(buffer, "a", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    file.write_bytes(buffer.getvalue())


@pytest.fixture
def file(tmp_path):
    torch.save(CONTENT, tmp_path / "net.pth")
    return tmp_path / "net.pth"


def assert_read(file):
    read = read_torch_file(file)["params"]
    assert all(torch.equal(read[key], value) for key, value in CONTENT["params"].items())
    assert all(torch.equal(read[key] + 1, value + 1) for key, value in CONTENT["params"].items())


def test_intact_files_are_read(file):
    assert_read(file)
    torch.save(CONTENT, file, _use_new_zipfile_serialization=False)
    assert_read(file)


@pytest.mark.parametrize("shift", range(1, 9))
def test_entries_that_are_not_aligned_are_read(file, shift):
    rewrite(file, [*entries(file)[:1], ("net/x" + "x" * shift, b""), *entries(file)[1:]])
    assert_read(file)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_entries_are_rejected(file, method):
    rewrite(file, entries(file), method)
    with pytest.raises(WeightsError, match=r"net\.pth cannot be read: its entries are compressed; write it again"):
        read_torch_file(file)


def test_one_compressed_entry_is_rejected(file):
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/other", bytes(100))
    with pytest.raises(WeightsError, match="its entries are compressed"):
        read_torch_file(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_names_are_rejected(file):
    for name, content in entries(file):
        torch.save(CONTENT, file)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, content)
        with pytest.raises(WeightsError, match=f"several of its entries are named '{name}'|not a file of torch.save"):
            read_torch_file(file)


def test_data_before_the_first_entry_is_rejected(file):
    rewrite(file, entries(file), first=b"PK\x03\x04")
    with pytest.raises(WeightsError, match="other data precedes its first entry"):
        read_torch_file(file)


def test_encrypted_entries_and_programs_are_rejected(file, tmp_path):
    data = bytearray(file.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="cannot be read: it is damaged"):
        read_torch_file(file)
    rewrite(file, [("net/constants.pkl", b""), ("net/data.pkl", b"")])
    with pytest.raises(WeightsError, match="it contains a TorchScript program, expected weights"):
        read_torch_file(file)


@pytest.mark.parametrize(
    ("pickle", "reason"),
    [
        (b"\x80\x02]q\0h\0a.", "it contains an object that contains itself"),
        (b"\x80\x02}q\0]q\1h\1aX\1\0\0\0ah\0s.", "it contains an object that contains itself"),
        (b"\x80\x02" + b"]" * 200 + b"a" * 199 + b".", "its objects are nested more than 100 levels deep"),
        (b"\x80\x02)q\0" + b"h\0h\0\x86q\0" * 60 + b".", "refers to itself too often"),
        (b"\x80\x02](" + b"N" * 50000 + b"eq\0cbuiltins\nset\nq\1" + b"h\1h\0\x85R" * 5000 + b".", "too often"),
        (b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x10\x85R.", "objects other than tensors"),
        (b"\x80\x02ctorch\nTensor\n\x8a\x05\0\0\0\0\x10\x85\x81.", "objects other than tensors"),
        (b"\x80\x04N.", "its pickle protocol is 4, expected 2"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02h\0.", "damaged"),
    ],
)
def test_pickles_out_of_proportion_are_rejected(tmp_path, pickle, reason):
    file = tmp_path / "net.pth"
    file.write_bytes(with_pickle(pickle)[1])
    with pytest.raises(WeightsError, match=reason):
        read_torch_file(file)


def test_shared_objects_are_accepted(tmp_path):
    """Optimizer states and several averages refer to the same texts, numbers and tensors many times."""
    shared = {f"a.long.name.of.a.layer.{number}": torch.zeros(2) for number in range(300)}
    text, options = "x" * 1000, {"betas": (0.9, 0.999)}
    content = {"a": shared, "b": dict(shared), "c": [dict(options) for _ in range(100)], "d": [text] * 20, "e": shared}
    torch.save(content, tmp_path / "net.pth")
    assert read_torch_file(tmp_path / "net.pth").keys() == content.keys()


def test_no_message_repeats_the_advice_to_execute_code(tmp_path):
    file = tmp_path / "net.pth"
    torch.save({"a": torch.nn.Linear(2, 2)}, file)
    with pytest.raises(WeightsError) as error:
        read_torch_file(file)
    assert "weights_only" not in str(error.value)
    assert "safe_globals" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes exist on POSIX systems")
def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="is a named pipe"):
        read_torch_file(tmp_path / "net.pth")
