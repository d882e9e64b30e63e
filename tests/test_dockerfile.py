"""The Dockerfile, without Docker: base image, copied files, arguments, user."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
INSTRUCTIONS = [tuple(line.split(maxsplit=1)) for line in LINES if line and not line.startswith("#")]

BUILD = {"pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "options", "mcir"}
"""What the build of the package reads; tests/config/test_files.py builds a wheel from the same files."""


def arguments(name):
    return [argument for instruction, argument in INSTRUCTIONS if instruction == name]


def test_every_line_is_an_instruction():
    known = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}
    assert {instruction for instruction, _ in INSTRUCTIONS} <= known


def test_the_base_image_has_a_version_that_mcir_supports():
    (image,) = arguments("FROM")
    version = re.fullmatch(r"python:3\.(\d+)-slim-\w+", image)
    assert version and int(version[1]) >= 10


def test_copied_files_exist_and_are_sent_to_docker():
    copied = [path for line in arguments("COPY") for path in line.split()[:-1]]
    assert set(copied) == BUILD
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path
    assert any(fnmatch("mcir/archs/__pycache__", pattern) for pattern in ignored)


def test_torch_is_for_cpus_unless_an_argument_names_another_index():
    values = dict(line.partition("=")[::2] for line in arguments("ARG"))
    assert values == {"TORCH_INDEX": "https://download.pytorch.org/whl/cpu", "EXTRAS": ""}
    install, *_ = arguments("RUN")
    assert '--index-url "$TORCH_INDEX"' in install
    comments = [line for line in LINES if "--build-arg" in line]
    named = {name for line in comments for name in re.findall(r"--build-arg (\w+)=", line)}
    assert named == values.keys()


def test_extras_become_part_of_the_requirement():
    (command,) = [line for line in arguments("RUN") if "EXTRAS" in line]
    requirement = re.search(r'"(.*)"', command)[0]
    for extras, expected in (("", "."), ("demo,export", ".[demo,export]")):
        shell = ["sh", "-c", f"EXTRAS={extras}; printf %s {requirement}"]
        assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout == expected


def test_the_container_runs_the_command_as_an_ordinary_user():
    names = [instruction for instruction, _ in INSTRUCTIONS]
    assert arguments("USER") == ["mcir"]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert arguments("ENTRYPOINT") == ['["mcir"]']
