"""The command line ``mcir``. Each command is a dataclass whose fields are the arguments. Slow imports are local."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mcir
from mcir import test, train
from mcir.arguments import Parser, add_arguments, from_namespace
from mcir.cli.examples import examples
from mcir.cli.images import Compare, Demo, Export, Inspect, Restore
from mcir.cli.new import New
from mcir.cli.options import Check, List, Report, Schema
from mcir.cli.prepare import Lmdb, Lr, Photographs, Split, Subimages, Verify
from mcir.interrupts import raise_on_interrupt
from mcir.tables.commands import Proxy, reproduce_commands
from mcir.terminal import make_tracebacks_printable, show_error


class Group(NamedTuple):
    """A command with subcommands, like ``mcir prepare``."""

    help: str
    metavar: str
    commands: Mapping[str, type]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. Report a user error in one line, without a traceback."""
    make_tracebacks_printable()
    arguments = build_parser().parse_args(argv)
    if arguments.cls is None:
        arguments.parser.print_help()
        return 0
    raise_on_interrupt()
    try:
        return int(from_namespace(arguments.cls, arguments).run())
    except BrokenPipeError:  # the reader, for example `head`, has closed the pipe
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        show_error(f"mcir {arguments.command}: {text}")
        return 1
    except KeyboardInterrupt:
        return 130


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="mcir", description=(mcir.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"mcir {mcir.__version__}")
    _add_commands(parser.add_subparsers(dest="command", metavar="COMMAND"), _commands())
    parser.set_defaults(cls=None, parser=parser)
    return parser


def _add_commands(parsers: Any, commands: Mapping[str, type | Group]) -> None:
    for name, command in commands.items():
        if isinstance(command, Group):
            group = parsers.add_parser(name, help=command.help)
            group.set_defaults(parser=group)
            _add_commands(group.add_subparsers(metavar=command.metavar), command.commands)
            continue
        text = (command.__doc__ or "").partition("\n")[0].replace("%", "%%")
        parser = parsers.add_parser(name, help=text[0].lower() + text[1:].rstrip("."), description=text)
        add_arguments(parser, command)
        parser.examples = examples(parser.prog.partition(" ")[2])
        parser.set_defaults(cls=command)


def _commands() -> dict[str, type | Group]:
    steps = {
        "lmdb": Lmdb,
        "subimages": Subimages,
        "lr": Lr,
        "split": Split,
        "verify": Verify,
        "photographs": Photographs,
    }
    return {
        "new": New,
        "train": train.Train,
        "test": test.Test,
        "restore": Restore,
        "compare": Compare,
        "export": Export,
        "check": Check,
        "list": List,
        "inspect": Inspect,
        "report": Report,
        "schema": Schema,
        "reproduce": Group("reproduce a table or figure of the papers, or a small study", "NAME", reproduce_commands()),
        "proxy": Proxy,
        "demo": Demo,
        "prepare": Group("prepare data sets", "STEP", steps),
    }
