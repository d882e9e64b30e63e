"""Test trained networks on several sets: ``torchrun mcir/test.py -opt options/x.yml``."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # noqa: PTH109 — as `python -m` has it: this folder's modules must not hide others

from mcir.config.arguments import add_option_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of testing."""
    add_option_arguments(parser)
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="weight files; else path.pretrain_network_g, with its param_key_g and strict_load_g",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch"], help="for old habits; torchrun's variables decide")


def run(arguments: argparse.Namespace) -> int:
    """Test as the arguments say and return the exit status."""
    if os.environ.get("RANK", "0") == "0":
        print(f"mcir: reading {arguments.opt} …", flush=True)  # noqa: T201 — before the imports, which take seconds

    from torch.distributed.elastic.multiprocessing.errors import record

    from mcir.config import load
    from mcir.engine.distributed import init_distributed
    from mcir.engine.loggers import log_to_console
    from mcir.engine.tester import Tester

    log_to_console()
    try:
        options = load(arguments.opt, arguments.set, arguments.force_yml)
        with init_distributed(options.num_gpu, options.dist_params) as dist:
            record(Tester(options, dist).test)(arguments.checkpoint)
    except (ValueError, OSError) as error:  # the person's mistake
        if os.environ.get("RANK", "0") != "0":
            time.sleep(1)  # most likely the first process says the same, and its leaving ends this one
        print(f"mcir: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Test as the command line says."""
    parser = argparse.ArgumentParser(prog="mcir/test.py", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
