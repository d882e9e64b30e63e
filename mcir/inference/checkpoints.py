"""Weight files by their names, as given on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcir.paths import expand, expand_path, file_problem


def named_checkpoints(checkpoints: Sequence[str]) -> dict[str, Path]:
    """Return the checkpoint files by their names: ``NAME=FILE``, or the names of the files.

    Raises:
        ValueError: a file does not exist, or two checkpoints have the same name.
    """
    files: dict[str, Path] = {}
    for text in checkpoints:
        name, equals, file = text.partition("=")
        if not equals or file_problem(expand_path(text)) is None:
            name, file = Path(text).stem, text
        file = expand(file)
        if problem := file_problem(file):
            raise ValueError(f"{file}: The checkpoint {problem}.")
        if not name or name in files:
            problem = f"two checkpoints have the name '{name}'" if name else f"'{text}' has no name before '='"
            raise ValueError(f"{problem}; write NAME={file} with a unique name.")
        files[name] = Path(file)
    return files
