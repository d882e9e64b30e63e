"""With what a run was started: its options, the machine, the versions, the git revision – a line for each start."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import mcir
from mcir.atomic import write_atomically
from mcir.report.records import OPTIONS, STARTS, changed_lines


def record_start(folder: Path, options: str, facts: Mapping[str, Any]) -> None:
    """Write ``options.yml``, the options as resolved, and add a line to ``environment.jsonl``.

    Args:
        folder: of the run.
        options: an option file.
        facts: what the run knows of itself; ``device`` is a :class:`torch.device`, and is recorded by its name.

    Raises:
        OSError: they cannot be written.
    """
    file = folder / OPTIONS
    before = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else options
    changes = changed_lines(before, options)
    write_atomically(file, options.encode())
    started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    record = {"started": started, **facts, **_machine(facts["device"]), "changes": changes}
    with (folder / STARTS).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


def git_revision(folder: Path) -> str | None:
    """Return the commit that a folder is at, with ``-dirty`` behind it if tracked files were changed since.

    None where there is no git or no commit.
    """
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *describe]
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        told = subprocess.run(  # noqa: S603 — nothing of it is anybody's text
            command, env=variables, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None


def _machine(device: torch.device) -> dict[str, Any]:
    is_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else str(device),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "mcir": mcir.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if is_gpu else None,
        "python": platform.python_version(),
        "system": platform.platform(),
        "git": git_revision(Path.cwd()),
    }


def _cpu() -> str:
    """Return the name of the processor, as Linux tells it on most machines."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8", errors="replace").splitlines() if information.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
