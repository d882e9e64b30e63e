"""JSON records and texts with a checksum: damage is found, so that no damaged number is used.

The last field of a record, ``crc32``, is the CRC-32 of the text before it; in a YAML text, it is a comment in the last
line. Files of earlier versions have no checksums and are read without a check.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mcir.atomic import append
from mcir.paths import file_problem
from mcir.text import printable

MAX_BYTES = 2**28
"""Largest file of records that is read."""
MAX_LINES = 1_000_000
"""Largest number of lines of a file of records that is read."""

_CHECKSUM = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\Z')
_TRACE_OF_CHECKSUM = re.compile(rb'"crc32": |"[0-9a-f]{8}"\}\Z')  # one of both remains if a part is damaged
_TEXT_CHECKSUM = re.compile(rb"(?m)^# crc32: ([0-9a-f]{8})\n\Z")
_TRACE_OF_TEXT_CHECKSUM = re.compile(rb"(?:\n#|crc32)[^\n]*\n?\Z")
_MAX_LISTED = 6
_MAX_DIGITS = 20  # an integer of a million digits would take minutes to convert


class Records(NamedTuple):
    """The intact records of a file, and a description of the damaged ones, which may be empty."""

    records: list[dict[str, Any]]
    problem: str


def as_json(tree: Any, indent: int | None = None) -> str:
    """Return a tree as standard JSON.

    Infinite values, like the PSNR of equal images, become the string ``"inf"``. Texts become
    :func:`~mcir.text.printable`.
    """
    return json.dumps(_encodable(tree), allow_nan=False, indent=indent)


def checked_line(record: Mapping[str, Any]) -> bytes:
    """Return a record, with at least one field, as a line of JSON with its checksum."""
    assert record
    text = as_json(record).removesuffix("}").encode()
    return b'%s, "crc32": "%08x"}\n' % (text, zlib.crc32(text))


def append_record(file: Path, record: Mapping[str, Any]) -> None:
    """Append a record to a file of JSON lines, which is created if necessary.

    A half-written line at the end of the file, left by a killed process, becomes a line of its own.

    Raises:
        OSError: the disk is full or the file is not writable. The file is not changed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    data = checked_line(record)
    with file.open("a+b") as lines:
        size = lines.seek(0, os.SEEK_END)
        lines.seek(max(0, size - 1))
        if size and lines.read(1) != b"\n":
            data = b"\n" + data
    append(file, data)


def read_records(file: Path) -> Records:
    """Read a file of JSON lines without the damaged and incomplete ones. If there is no file, there are no records.

    Raises:
        OSError: the file exists but cannot be read.
    """
    if not file.exists():
        return Records([], "")
    if problem := file_problem(file, MAX_BYTES):
        return Records([], problem)
    data = file.read_bytes().removesuffix(b"\n")
    if (number := data.count(b"\n") + 1) > MAX_LINES:
        return Records([], f"is too large (expected at most {MAX_LINES:,} lines, got {number:,})")
    lines = data.split(b"\n")
    parsed = [parse_record(line) for line in lines]
    damaged = [number for number, record in enumerate(parsed, start=1) if record is None and lines[number - 1]]
    return Records([record for record in parsed if record is not None], _describe(damaged, len(lines)))


def parse_record(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line without its checksum; None if the line is damaged or incomplete."""
    if found := _CHECKSUM.search(line):
        line, checksum = line[: found.start()], found[1]
        if b"%08x" % zlib.crc32(line) != checksum:
            return None
        line += b"}"
    elif _TRACE_OF_CHECKSUM.search(line):
        return None
    try:
        record = json.loads(line, parse_int=_parse_int)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def checked_text(text: str) -> bytes:
    """Return a YAML text with its checksum as a comment in the last line."""
    data = text.encode().removesuffix(b"\n") + b"\n"
    return b"%s# crc32: %08x\n" % (data, zlib.crc32(data))


def read_text(file: Path) -> tuple[str, str]:
    """Return the text of a file without its checksum, and a problem with it, which may be empty.

    Raises:
        OSError: the file cannot be read.
    """
    if problem := file_problem(file, MAX_BYTES):
        return "", problem
    data, problem = file.read_bytes(), ""
    if found := _TEXT_CHECKSUM.search(data):
        data = data[: found.start()]
    is_damaged = b"%08x" % zlib.crc32(data) != found[1] if found else _TRACE_OF_TEXT_CHECKSUM.search(data)
    if is_damaged:
        problem = "differs from its checksum, because it was damaged or edited"
    return data.decode(errors="replace"), problem


def _describe(damaged: list[int], total: int) -> str:
    if not damaged:
        return ""
    more = f" and {len(damaged) - _MAX_LISTED} more" if len(damaged) > _MAX_LISTED else ""
    numbers = ", ".join(map(str, damaged[:_MAX_LISTED])) + more
    return f"{len(damaged)} of {total} lines cannot be used, because they are damaged or incomplete: {numbers}"


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _encodable(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {_encodable(key): _encodable(part) for key, part in tree.items()}
    if isinstance(tree, list | tuple):
        return [_encodable(part) for part in tree]
    if isinstance(tree, str):
        return printable(tree)
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree
