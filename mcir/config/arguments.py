"""How an option file is named, and changed, on a command line."""

import argparse
from typing import Any


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``load`` takes: ``-opt``, ``--set`` and BasicSR's ``--force_yml``."""
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file (YAML)")
    parser.add_argument("--set", metavar="A.B=C", help="set options: --set train.total_iter=100", **many)
    parser.add_argument("--force_yml", metavar="A:B=C", help="the same in BasicSR's writing", **many)
