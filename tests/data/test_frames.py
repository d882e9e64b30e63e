"""Tests of the message about a file with several images."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mcir.data.errors import DataError
from mcir.data.reader import decode


@pytest.mark.parametrize("extension", ["tif", "webp", "gif"])
def test_the_command_in_the_message_extracts_a_frame(tmp_path, extension):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 90)]
    file = tmp_path / f"several.{extension}"
    frames[0].save(file, save_all=True, append_images=frames[1:], **({"lossless": True} if extension == "webp" else {}))
    with pytest.raises(DataError) as caught:
        decode(file.read_bytes(), file.name)
    command = re.search(r"python -c .*", str(caught.value))[0].replace("IN", file.name)
    subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=tmp_path, check=True)
    written = decode((tmp_path / "OUT.png").read_bytes(), "OUT.png")
    assert np.array_equal(written[..., :3], np.full((8, 8, 3), 10))
