"""Tests of the names of weight files on the command line."""

import pytest

from mcir.inference.checkpoints import named_checkpoints


@pytest.fixture
def files(tmp_path):
    files = [tmp_path / name for name in ("double.pth", "same.pth", "a=b.pth")]
    for file in files:
        file.touch()
    return files


def test_checkpoints_are_named_by_their_files_or_by_the_user(files):
    double, same, odd = files
    named = named_checkpoints([str(double), f"my own={same}", str(odd)])
    assert named == {"double": double, "my own": same, "a=b": odd}


def test_missing_checkpoints_and_duplicate_names_are_rejected(files, tmp_path):
    double, same, _ = files
    for text in ("none.pth", "name=none.pth", f"{tmp_path}"):
        with pytest.raises(ValueError, match=r"The checkpoint (does not exist|is a folder)"):
            named_checkpoints([text])
    for texts in ([double, double], [double, f"double={same}"]):
        with pytest.raises(ValueError, match="two checkpoints have the name 'double'; write NAME="):
            named_checkpoints([*map(str, texts)])
    with pytest.raises(ValueError, match="has no name"):
        named_checkpoints([f"={same}"])
