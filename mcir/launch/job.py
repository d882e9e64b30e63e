"""A training to start, and its progress on disk."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcir.arguments import OptionFileArguments, add_arguments
from mcir.config import Options, load

if TYPE_CHECKING:
    from mcir.report.records import Collapse


@dataclass(frozen=True)
class TrainingJob:
    """A training to start.

    Attributes:
        name: name of the training in messages.
        arguments: arguments of ``mcir train``.
        options: validated options that result from the arguments.
    """

    name: str
    arguments: Sequence[str]
    options: Options

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> TrainingJob:
        """Parse the arguments of ``mcir train``.

        Raises:
            ValueError: the option file is not valid.
        """
        parser = argparse.ArgumentParser(prog="mcir train", allow_abbrev=False)
        add_arguments(parser, OptionFileArguments)
        known, _ = parser.parse_known_args(arguments)
        options = load(known.opt, known.set, known.force_yml)
        if options.train is None:
            raise ValueError(f"{known.opt}: the section 'train' is missing.")
        return cls(options.name, arguments, options)

    @property
    def folder(self) -> Path:
        """Folder of the training."""
        return Path(self.options.path.experiments_root) / self.options.name

    @property
    def total(self) -> int:
        """Total number of iterations."""
        assert self.options.train is not None
        return self.options.train.total_iter

    @property
    def checkpoint(self) -> Path:
        """Weight file of the final iteration. If it exists, the training is complete."""
        return self.folder / "models" / f"net_g_{self.total}.pth"

    @property
    def reached(self) -> int:
        """Iteration of the newest checkpoint; 0 without a checkpoint."""
        files = (self.folder / "models").glob("net_g_*.pth")
        return max((int(match[1]) for file in files if (match := re.fullmatch(r"net_g_(\d+)", file.stem))), default=0)

    @property
    def collapse(self) -> Collapse | None:
        """Recorded collapse of the last start of the training; None if it did not diverge."""
        from mcir.report.records import read_collapse  # slow to import

        return read_collapse(self.folder)

    def progress(self) -> str:
        """Describe the progress of the training."""
        if self.checkpoint.is_file():
            return f"trained: {self.checkpoint}"
        if (collapse := self.collapse) is not None:
            return str(collapse)
        return f"trained to iteration {self.reached:,} of {self.total:,}" if self.reached else "not trained"

    def next_start(self) -> str:
        """Describe how the same command continues, or what a training that collapsed needs."""
        if self.collapse is not None:
            return f"to train it again, change its options or remove {self.folder}"
        if self.reached:
            return f"the same command resumes from the checkpoint of iteration {self.reached:,}"
        return "there is no checkpoint, so the same command starts from the beginning"
