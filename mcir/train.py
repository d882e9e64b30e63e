"""Train a network: ``torchrun mcir/train.py -opt options/x.yml``."""

import os
import signal
import sys

if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # noqa: PTH109 (as with `python -m`, so that modules of this folder do not hide others)
    handler = signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))  # no traceback during the imports

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mcir.arguments import LaunchArguments, OptionFileArguments, Parser, add_arguments, from_namespace, option
from mcir.engine.entry import report_errors
from mcir.interrupts import raise_on_interrupt
from mcir.terminal import make_tracebacks_printable


@dataclass(kw_only=True)
class Train(LaunchArguments, OptionFileArguments):
    """Train the network of an option file."""

    auto_resume: bool = option("resume from the newest readable checkpoint", "--auto_resume", default=False)
    launcher: Literal["none", "pytorch", "torchrun", "slurm"] = option(
        "torchrun: start --nproc processes here; slurm: submit a job; none or pytorch: train in this process",
        default="none",
    )

    def run(self) -> int:
        """Train, or start the training with torchrun or Slurm, and return the exit status."""
        return report_errors(self.opt, self._train if self.launcher in ("none", "pytorch") else self._launch)

    def _launch(self) -> int:
        from mcir.launch import LaunchOptions, launch

        raise_on_interrupt()
        arguments = ["-opt", self.opt, *(["--auto_resume"] if self.auto_resume else [])]
        for flag, values in (("--set", self.set), ("--force_yml", self.force_yml)):
            arguments += [flag, *values] if values else []
        return launch(LaunchOptions.from_arguments(self), arguments)

    def _train(self) -> int:
        if self.nproc > 1 or self.slurm or self.no_wait:
            raise ValueError("--nproc, --slurm and --no-wait require --launcher torchrun or slurm.")
        from mcir.config import load
        from mcir.engine.distributed import init_distributed
        from mcir.engine.trainer import Trainer
        from mcir.errors import is_user_error

        raise_on_interrupt()
        options = load(self.opt, self.set, self.force_yml)
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        with init_distributed(options.num_gpu, options.dist_params) as dist:
            trainer = Trainer(options, dist, resume=self.auto_resume or restarted)
            try:
                return trainer.train()
            except (ValueError, OSError) as error:
                if is_user_error(error):
                    raise
                raise RuntimeError("The training failed.") from error  # maybe a bug, so show the traceback


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    make_tracebacks_printable()
    parser = Parser(prog="mcir/train.py", description=Train.__doc__)
    add_arguments(parser, Train)
    return from_namespace(Train, parser.parse_args(argv)).run()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, handler)
    sys.exit(main())
