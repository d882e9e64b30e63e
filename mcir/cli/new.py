"""The command ``mcir new``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcir.arguments import option, positional
from mcir.new.duration import parse_budget
from mcir.paths import UserPath


@dataclass(kw_only=True)
class New:
    """Write an option file for your own images."""

    task: Literal["sr", "dehaze", "denoise", "derain", "deblur", "jpeg"] = positional("what the network does")
    gt: UserPath | None = option("folder or LMDB database of good images", metavar="DIR")
    lq: UserPath | None = option("their degraded versions (default: made from the good images)", metavar="DIR")
    scale: int | None = option(
        "for sr: size of the results / size of the input, 2, 3, 4 or 8 (default: 2, or that of the pairs)", metavar="N"
    )
    output: Path | None = option("option file to write (default: TASK.yml)", "-o", "--output", metavar="FILE")
    budget: Any = option(
        "time for the whole training on this machine, like 10m, 2h30m or 1d; paper: the published recipe",
        default="10m",
        metavar="TIME",
        parse=parse_budget,
    )
    contrastive: Literal["spn", "none"] = option(
        "spn: negatives from the network's own history, which make an iteration several times as long", default="none"
    )
    force: bool = option("replace existing files", default=False)

    def run(self) -> int:
        """Write the file, and print what to expect."""
        from mcir.engine.loggers import log_to_console
        from mcir.new.command import Request, new

        log_to_console()
        output = self.output or Path(f"{self.task}.yml")
        settings = {**vars(self), "output": output}
        return new(Request(**settings))
