"""Write results as JSON, Markdown and an HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcir.atomic import remove_temporary_files, write_atomically
from mcir.checked_json import as_json
from mcir.launch import Log
from mcir.report.page import Report


def write_results(folder: Path, name: str, data: Mapping[str, Any], report: Report, log: Log) -> None:
    """Write ``name.json``, ``name.md`` and ``name.html`` to a folder, and log their paths."""
    remove_temporary_files(folder)
    target = folder / f"{name}.json"
    write_atomically(target, (as_json(data, indent=2) + "\n").encode())
    for file in [target, *report.write(folder, name)]:
        log(f"results: {file}")
