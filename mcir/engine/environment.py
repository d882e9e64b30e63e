"""Records of each start of a run (options, machine, versions and git revision) and of its collapse."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import mcir
from mcir.atomic import write_atomically
from mcir.checked_json import append_record, checked_line, checked_text, read_text
from mcir.device import cpu_count
from mcir.engine.guard import NotFiniteError
from mcir.engine.log_output import LogOutput
from mcir.report.option_changes import changed_options
from mcir.report.records import COLLAPSE, OPTIONS, STARTS


def record_start(folder: Path, options: str, facts: Mapping[str, Any], started: datetime | None = None) -> None:
    """Write the resolved options to ``options.yml`` and append a line to ``environment.jsonl``.

    The record of an earlier collapse is removed.

    Args:
        folder: folder of the run.
        options: text of the resolved options.
        facts: additional values to record. ``device`` is a :class:`torch.device`, whose name is recorded.
        started: time of the start. Default: now.

    Raises:
        OSError: a file cannot be written.
    """
    file = folder / OPTIONS
    before = read_text(file)[0] if file.is_file() else options
    changes = [str(change) for change in changed_options(before, options)]
    write_atomically(file, checked_text(options))
    time = (started or datetime.now().astimezone()).isoformat(sep=" ", timespec="seconds")
    record = {"started": time, **facts, **_machine(facts["device"]), "changes": changes}
    append_record(folder / STARTS, record)
    (folder / COLLAPSE).unlink(missing_ok=True)


@contextmanager
def record_collapse(folder: Path, options: str) -> Iterator[None]:
    """Write ``collapse.json`` if a training diverges within the block. The error is raised again.

    Every process can write it, because a loss may be infinite in one process only.

    Args:
        folder: folder of the run.
        options: text of the resolved options.
    """
    try:
        yield
    except NotFiniteError as error:
        record = {"iteration": error.iteration, "scalars": error.scalars, "options": options}
        LogOutput(COLLAPSE).write(lambda: write_atomically(folder / COLLAPSE, checked_line(record)))
        raise


def git_revision(folder: Path) -> str | None:
    """Return the commit of a folder, with ``-dirty`` if tracked files have changes. None: no git, or no commit."""
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *describe]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(  # noqa: S603 (the command contains no user input)
            command, env=environment, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def _machine(device: torch.device) -> dict[str, Any]:
    is_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else str(device),
        "cpu": _cpu_name(),
        "cores": cpu_count(),
        "threads": torch.get_num_threads(),
        "mcir": mcir.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if is_gpu else None,
        "python": platform.python_version(),
        "system": platform.platform(),
        "git": git_revision(Path.cwd()),
    }


def _cpu_name() -> str:
    """Return the name of the CPU, or its architecture if the system does not report a name."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.10
    return str(capabilities.get("cpu_name") or platform.processor() or platform.machine())
