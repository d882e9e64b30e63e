"""Train a network: ``torchrun mcir/train.py -opt options/x.yml``."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # noqa: PTH109 — as `python -m` has it: this folder's modules must not hide others

from mcir.config.arguments import add_option_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of training."""
    add_option_arguments(parser)
    parser.add_argument("--auto_resume", action="store_true", help="continue from the newest good checkpoint")
    parser.add_argument("--launcher", choices=["none", "pytorch"], help="for old habits; torchrun's variables decide")


def run(arguments: argparse.Namespace) -> int:
    """Train as the arguments say and return the exit status."""
    if os.environ.get("RANK", "0") == "0":
        print(f"mcir: reading {arguments.opt} …", flush=True)  # noqa: T201 — before the imports, which take seconds

    from torch.distributed.elastic.multiprocessing.errors import record

    from mcir.config import load
    from mcir.engine.checkpoint import CheckpointError
    from mcir.engine.distributed import init_distributed
    from mcir.engine.guard import NotFiniteError
    from mcir.engine.loggers import log_to_console
    from mcir.engine.trainer import Trainer

    log_to_console()
    try:
        options = load(arguments.opt, arguments.set, arguments.force_yml)
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        with init_distributed(options.num_gpu, options.dist_params) as dist:
            trainer = Trainer(options, dist, resume=arguments.auto_resume or restarted)
            try:
                status = record(trainer.train)()
            except (CheckpointError, NotFiniteError):
                raise
            except (ValueError, OSError) as error:  # no mistake of the person: a fault, to be shown whole
                raise RuntimeError("The training failed.") from error
            assert status is not None  # a failure was raised
            return status
    except (ValueError, OSError, NotFiniteError) as error:  # the person's mistake
        if os.environ.get("RANK", "0") != "0":
            time.sleep(1)  # most likely the first process says the same, and its leaving ends this one
        print(f"mcir: {error}", file=sys.stderr)  # noqa: T201
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(prog="mcir/train.py", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
