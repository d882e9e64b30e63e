"""Read files of torch.save: checksums are verified, and code in a file is never executed."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcir.paths import file_problem
from mcir.weights.errors import UnreadableError, WeightsError
from mcir.weights.pickles import check_pickle

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80\x02"  # the current format, and the format before PyTorch 1.6
_LEGACY_PICKLES = 5  # magic number, version, system, content, keys of the tensors


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    return np.frombuffer(data, dtype, 1)[0]


def _empty_array(*_: Any) -> np.ndarray[Any, Any]:
    """Return an empty array, to which NumPy's state sets the content; a stated shape would allocate memory."""
    return np.zeros(0)


_NUMPY_TYPES: list[Any] = [  # training scripts store NumPy numbers next to the weights, such as the best PSNR
    *((_scalar, f"numpy.{name}.multiarray.scalar") for name in ("core", "_core")),
    *((_empty_array, f"numpy.{name}.multiarray._reconstruct") for name in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]


def read_torch_file(file: Path) -> Any:
    """Return the content of a file that torch.save wrote, memory-mapped if it has the current format.

    The CRC-32 of every zip entry is verified. Files in the format before PyTorch 1.6 have no checksums.

    Raises:
        WeightsError: the file is missing, damaged, compressed, not a file of torch.save, or contains objects other than
            tensors, numbers, texts and containers.
    """
    if problem := file_problem(file):
        raise WeightsError(f"{file}: expected a weight file, but the path {problem}.")
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_ZIP))
            is_zip = start == _ZIP
            if not is_zip and not start.startswith(_PICKLE):
                raise UnreadableError("it is not a PyTorch file")
            stream.seek(0)
            for _ in range(0 if is_zip else _LEGACY_PICKLES):
                check_pickle(stream)
        if is_zip:
            _check_zip(file)
        with torch.serialization.safe_globals(_NUMPY_TYPES):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # zipfile, pickletools and torch raise errors of many kinds for damaged files
        raise WeightsError(f"{file} cannot be read: {_reason(error)}.") from error


def _check_zip(file: Path) -> None:
    """Check that a zip file is intact, and that zipfile and PyTorch's own reader find the same content in it."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = Counter(entry.filename for entry in entries)
        contents = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(contents) != 1:
            raise UnreadableError("it is not a file of torch.save")
        if any(name.endswith("/constants.pkl") for name in names):
            raise UnreadableError("it contains a TorchScript program, expected weights")
        if min(entry.header_offset for entry in entries):
            raise UnreadableError("other data precedes its first entry")
        if repeated := [name for name, count in names.items() if count > 1]:
            raise UnreadableError(f"several of its entries are named '{repeated[0]}'")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UnreadableError("its entries are compressed; write it again with torch.save")
        sizes_match = all(entry.compress_size == entry.file_size for entry in entries)
        if not sizes_match or sum(entry.file_size for entry in entries) > file.stat().st_size:
            raise UnreadableError("it is damaged: its directory states wrong sizes")
        if damaged := archive.testzip():
            raise UnreadableError(f"it is damaged: the checksum of '{damaged}' does not match")
        check_pickle(io.BytesIO(archive.read(contents[0])))


def _reason(error: Exception) -> str:
    """Return the reason why a file cannot be read, as the end of a sentence; torch's advice is not repeated."""
    if isinstance(error, UnreadableError):
        return str(error)
    if isinstance(error, pickle.UnpicklingError):
        return "it contains objects other than tensors"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, zipfile.BadZipFile):
        return f"it is damaged or truncated ({error})"
    return f"it is damaged or truncated ({type(error).__name__})"
