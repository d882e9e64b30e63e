"""Sphinx extension: write the reference of the commands from their argument parsers when the pages are built."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mcir import cli
from mcir.arguments import Parser

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

MARK = "<!-- commands -->"
"""Line of a page that the reference replaces."""


def setup(app: "Sphinx") -> "ExtensionMetadata":
    """Register the replacement of the mark."""
    app.connect("source-read", _insert)
    return {"parallel_read_safe": True}


def _insert(app: "Sphinx", page: str, source: list[str]) -> None:
    if MARK in source[0]:
        source[0] = source[0].replace(MARK, reference())
        app.env.note_reread()  # the commands may change although the page does not


def reference() -> str:
    """Return the reference of all commands as Markdown."""
    parts: list[str] = []
    for parser in _subcommands(cli.build_parser()).values():
        parts += [f"## {parser.prog}", *_describe(parser)]
    return "\n\n".join(parts)


def _describe(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the description of a command, or of its subcommands. Those with the same arguments share a section."""
    commands = _subcommands(parser)
    if not commands:
        yield from (_text(parser.description or ""), _usage(parser), *_arguments(parser), *_examples([parser]))
        return
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, command in commands.items():
        alike.setdefault(tuple(_arguments(command)), []).append(name)
    for names in alike.values():
        first = commands[names[0]]
        yield f"### {parser.prog} {', '.join(names)}"
        if len(names) == 1:
            yield from _describe(first)
        else:
            yield from (f"`{name}`\n: {_text(commands[name].description or '')}" for name in names)
            yield from (_usage(first), *_arguments(first), *_examples([commands[name] for name in names]))


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (choices,) = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)] or [{}]
    return dict(choices)


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage with the required arguments only."""
    formatter = argparse.HelpFormatter(parser.prog, width=sys.maxsize)
    required = [action for action in parser._actions if action.required or not action.option_strings]
    formatter.add_usage(None, required, [], prefix="")
    usage = formatter.format_help().strip().replace(parser.prog, f"{parser.prog} [options]", 1)
    return f"```{{code-block}} text\n:class: usage\n\n{usage}\n```"


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the arguments of a command as definitions."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.dest != "help":
            yield f"`{formatter._format_action_invocation(action)}`\n: {_text(formatter._expand_help(action))}"


def _examples(parsers: Sequence[argparse.ArgumentParser]) -> Iterator[str]:
    """Yield the examples of commands that share a section."""
    lines = [line for parser in parsers if isinstance(parser, Parser) for line in parser.examples]
    if lines:
        yield "\n".join(["```bash", *lines, "```"])


def _text(text: str) -> str:
    """Return text as Markdown: code in backticks is code, everything else is literal."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*_<>\[\]\\])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)
