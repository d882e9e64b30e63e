"""Types of the options of which file and folder names are made."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from mcir.config.wording import unexpected
from mcir.paths import name_problem


def _name(text: str) -> str:
    if found := name_problem(text):
        raise unexpected("the name of a file or folder", text, f" It {found}.")
    return text


def _name_end(text: str | None) -> str | None:
    if text and (found := name_problem(f"image_{text}")):
        raise unexpected("the end of a file name", text, f" It {found}.")
    return text


FolderName = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "title": "text without slashes"})]
"""The name of a file or folder."""
NameEnd = Annotated[str | None, AfterValidator(_name_end)]
"""The last part of file names."""
