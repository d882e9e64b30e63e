"""Test trained networks on several data sets: ``torchrun mcir/test.py -opt options/x.yml``."""

import os
import signal
import sys

if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # noqa: PTH109 (as with `python -m`, so that modules of this folder do not hide others)
    handler = signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))  # no traceback during the imports

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mcir.arguments import OptionFileArguments, Parser, add_arguments, from_namespace, option
from mcir.engine.entry import report_errors
from mcir.interrupts import raise_on_interrupt
from mcir.paths import UserPath
from mcir.terminal import make_tracebacks_printable


@dataclass(kw_only=True)
class Test(OptionFileArguments):
    """Test trained networks on several data sets."""

    __test__ = False  # for pytest

    checkpoint: list[UserPath] = option(
        "weight files (default: path.pretrain_network_g, with path.param_key_g and path.strict_load_g)",
        default=[],
        metavar="FILE",
    )
    launcher: Literal["none", "pytorch"] = option("accepted for scripts of BasicSR; has no effect", default="none")

    def run(self) -> int:
        """Test and return the exit status."""
        return report_errors(self.opt, self._test)

    def _test(self) -> int:
        from mcir.config import load
        from mcir.engine.distributed import init_distributed
        from mcir.engine.tester import Tester

        raise_on_interrupt()
        options = load(self.opt, self.set, self.force_yml)
        with init_distributed(options.num_gpu, options.dist_params) as dist:
            Tester(options, dist).test(self.checkpoint)
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    make_tracebacks_printable()
    parser = Parser(prog="mcir/test.py", description=Test.__doc__)
    add_arguments(parser, Test)
    return from_namespace(Test, parser.parse_args(argv)).run()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, handler)
    sys.exit(main())
