"""Train a network: ``mcir train options/x.yml``, or ``torchrun mcir/train.py -opt options/x.yml``."""

import os
import shlex
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
from mcir.terminal import make_tracebacks_printable, show_error


@dataclass(kw_only=True)
class Train(LaunchArguments, OptionFileArguments):
    """Train the network of an option file."""

    auto_resume: bool = option("resume from the newest readable checkpoint", "--auto_resume", default=False)
    rdzv_endpoint: str | None = option(
        "one of the machines and a free port; run the same command on every machine",
        "--rdzv_endpoint",
        metavar="HOST:PORT",
    )
    max_restarts: int = option(
        "number of times that the processes are started again, and resume, after one failed",
        "--max_restarts",
        default=0,
        metavar="N",
    )
    launcher: Literal["none", "pytorch", "torchrun", "slurm"] = option(
        "torchrun: train here, in --nproc_per_node processes; slurm: submit a job; none and pytorch: as torchrun, for "
        "scripts of BasicSR",
        default="torchrun",
    )

    def run(self) -> int:
        """Train in this process, or start the training in several processes or with Slurm; return the exit status."""
        is_one_process = self.nproc_per_node == self.nnodes == 1 and not (self.rdzv_endpoint or self.max_restarts)
        if is_one_process and self.launcher != "slurm" and not (self.slurm or self.no_wait):
            return report_errors(self.opt, self._train)
        return self._launch()

    def _launch(self) -> int:
        from mcir.engine.loggers import log_to_console
        from mcir.launch import LaunchOptions, launch

        if "RANK" in os.environ:
            raise ValueError("torchrun has started this process, so set the number of processes in its command.")
        log_to_console()
        options = LaunchOptions.from_arguments(self, rdzv_endpoint=self.rdzv_endpoint, max_restarts=self.max_restarts)
        return launch(options, ["-opt", self.opt, *self._overrides(), *(["--auto_resume"] if self.auto_resume else [])])

    def _overrides(self) -> list[str]:
        """Return the arguments that override options."""
        flags = {"--set": self.set, "--force_yml": self.force_yml}
        return [text for flag, values in flags.items() if values for text in (flag, *values)]

    def _resume_command(self) -> str:
        """Return the command that continues this training, for messages."""
        processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
        several = ["--nproc_per_node", processes] if processes != "1" else []
        machines = os.environ.get("GROUP_WORLD_SIZE", "1")
        several += ["--nnodes", machines, "--rdzv_endpoint", "HOST:PORT"] if machines != "1" else []
        return shlex.join(["mcir", "train", self.opt, "--auto_resume", *several, *self._overrides()])

    def _train(self) -> int:
        from mcir.config import load
        from mcir.engine.distributed import init_distributed
        from mcir.engine.trainer import Trainer
        from mcir.errors import is_user_error

        raise_on_interrupt()
        options = load(self.opt, self.set, self.force_yml)
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        with init_distributed(options.num_gpu, options.dist_params) as dist:
            trainer = Trainer(options, dist, self.auto_resume or restarted, self._resume_command())
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
    arguments = parser.parse_args(argv)
    try:
        return from_namespace(Train, arguments).run()
    except ValueError as error:  # of the launcher; a training reports its own errors
        show_error(f"mcir: {error}")
        return 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, handler)
    sys.exit(main())
