"""Command-line arguments from dataclasses: the type, default and help of a field become an argument.

>>> @dataclass
... class Train:
...     opt: str = option("option file", "-opt", required=True)
...     total: int = option("number of iterations", default=100)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from mcir.paths import UserPath, expand, expand_path, path_kind
from mcir.text import printable, shortened

T = TypeVar("T")
_MAX_MESSAGE = 1000


def option(
    help: str,
    *flags: str,
    default: Any = None,
    required: bool = False,
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
    group: str | None = None,
    is_positional: bool = False,
) -> Any:
    """Return a dataclass field that is set by an option.

    Args:
        help: help text, without the default.
        flags: flags of the option. Default: ``--`` and the name of the field, with dashes.
        default: value of the field if the option is not set: ``[]`` for a list, False or True for a flag.
        required: whether the option is required.
        metavar: name of the value in the help text.
        parse: function that converts the text to the value. Default: the type of the field.
        group: name of a group of mutually exclusive options.
        is_positional: whether the value may also be written without a flag.
    """
    metadata = {"help": help, "flags": flags, "required": required, "metavar": metavar, "parse": parse, "group": group}
    metadata["is_positional"] = is_positional
    return (
        field(default_factory=list, metadata=metadata) if default == [] else field(default=default, metadata=metadata)
    )


def positional(help: str, *, default: Any = MISSING, metavar: str | None = None) -> Any:
    """Return a dataclass field that is set by a positional argument, which is optional if it has a default."""
    metadata = {"help": help, "flags": None, "metavar": metavar, "parse": None, "group": None}
    return field(default=default, metadata=metadata)


def _processes(text: str) -> int | str:
    if text != "gpu" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of processes or gpu, got '{text}'")
    return text if text == "gpu" else int(text)


def _assignment(text: str) -> str:
    if "=" not in text and text.endswith(".yml"):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got '{text}'. Write the option file before this option.")
    return text


@dataclass(kw_only=True)
class OptionFileArguments:
    """Arguments that select an option file and override its options."""

    opt: UserPath = option(
        "option file (YAML, whose `imports` are run), or a name from `mcir list options`",
        "-opt",
        required=True,
        metavar="FILE",
        is_positional=True,
    )
    set: list[str] = option(
        "options that override the file, like train.total_iter=100", default=[], metavar="A.B=C", parse=_assignment
    )
    force_yml: list[str] = option(
        "the same in BasicSR's syntax", "--force_yml", default=[], metavar="A:B=C", parse=_assignment
    )


@dataclass(kw_only=True)
class LaunchArguments:
    """Arguments of commands that start trainings. Each command also defines ``launcher`` with its own choices."""

    nproc_per_node: Any = option(
        "processes on each machine; gpu: one per GPU",
        "--nproc_per_node",
        "--nproc",
        default=1,
        metavar="N",
        parse=_processes,
    )
    nnodes: int = option("number of machines", default=1, metavar="N")
    slurm: list[str] = option("options of the Slurm jobs, such as partition=gpu", default=[], metavar="KEY=VALUE")
    no_wait: bool = option("submit the Slurm jobs, list them and return", default=False)


class Parser(argparse.ArgumentParser):
    """A parser whose error messages cannot control the terminal, and whose help ends with examples."""

    examples: Sequence[str] = ()

    def format_help(self) -> str:
        """Return the help text."""
        lines = "".join(f"  {example}\n" for example in self.examples)
        return super().format_help() + (f"\nexamples:\n{lines}" if lines else "")

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with status 2."""
        super().error(printable(shortened(message, _MAX_MESSAGE)))


def add_arguments(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add an argument to a parser for every :func:`option` and :func:`positional` of a dataclass."""
    types = get_type_hints(cls, include_extras=True)
    groups: dict[str | None, Any] = {None: parser}
    for item in _arguments_of(cls):
        group = item.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_mutually_exclusive_group()
        settings = _settings(item, types[item.name])
        if item.metadata["flags"] is None:
            groups[group].add_argument(item.name, **settings)
            continue
        flags = item.metadata["flags"] or (f"--{item.name.replace('_', '-')}",)
        is_required, target = item.metadata["required"], groups[group]
        if item.metadata["is_positional"]:
            target = parser.add_mutually_exclusive_group(required=is_required)
            target.add_argument(item.name, nargs="?", **{**settings, "default": argparse.SUPPRESS})
            is_required, settings["help"] = False, "the same, as in BasicSR"
        target.add_argument(*flags, dest=item.name, required=is_required, **settings)


def from_namespace(cls: type[T], namespace: argparse.Namespace, **values: Any) -> T:
    """Build a dataclass from parsed arguments. ``values`` are its other fields, which are not arguments."""
    return cls(**values, **{item.name: getattr(namespace, item.name) for item in _arguments_of(cls)})


def _arguments_of(cls: type) -> list[Field[Any]]:
    return [item for item in fields(cls) if "help" in item.metadata]


def _settings(item: Field[Any], kind: Any) -> dict[str, Any]:
    """Return the settings of ``add_argument`` that follow from a field and its type."""
    metadata, default = item.metadata, item.default
    is_positional = metadata["flags"] is None
    settings: dict[str, Any] = {"help": metadata["help"].replace("%", "%%")}
    if kind is bool:
        return {**settings, "action": "store_false" if default else "store_true"}
    if default not in (None, "", MISSING):
        settings["help"] += f" (default: {default})"
    if metadata["metavar"]:
        settings["metavar"] = metadata["metavar"]
    if get_origin(kind) in (Union, UnionType):  # a type or None
        kind = get_args(kind)[0]
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
        settings["nargs"] = "+"
        if not is_positional:
            settings |= {"action": "extend", "default": []}
    elif default is not MISSING:
        settings["default"] = default
        if is_positional:
            settings["nargs"] = "?"
    if get_origin(kind) is Literal:
        settings["choices"] = get_args(kind)
        kind = type(get_args(kind)[0])
    if metadata["parse"]:
        settings["type"] = metadata["parse"]
    elif path_kind(kind):
        settings["type"] = expand
    else:
        settings["type"] = expand_path if kind is Path else kind
    return settings
