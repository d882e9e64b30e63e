"""Files of JSON lines, which a killed process may leave with half a line at the end."""

from __future__ import annotations

from pathlib import Path


def end_last_line(file: Path) -> None:
    """End a half line, so that the next record stands on its own."""
    if file.is_file() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        with file.open("a", encoding="utf-8") as lines:
            lines.write("\n")
