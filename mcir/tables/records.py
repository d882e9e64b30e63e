"""Files of JSON lines, which a killed process may leave with half a line at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file, if it is there; what is no whole record is passed over."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


def end_last_line(file: Path) -> None:
    """End a half line, so that the next record stands on its own."""
    if file.is_file() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        with file.open("a", encoding="utf-8") as lines:
            lines.write("\n")
