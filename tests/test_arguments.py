"""Command-line arguments from dataclasses."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from mcir.arguments import OptionFileArguments, add_arguments, from_namespace, option, positional


@dataclass(kw_only=True)
class Example:
    inputs: list[str] = positional("files", metavar="INPUT")
    out: Path = option("folder", "-o", "--out", default=Path("results"))
    scale: int = option("100 % of it", required=True)
    bits: Literal[8, 16] | None = option("bit depth")
    row: list[int] = option("rows")
    dry_run: bool = option("do nothing")
    check: bool = option("do not check", "--no-check", default=True)
    half: bool = option("fp16", group="precision")
    full: bool = option("fp32", group="precision")
    tile: Any = option("side", default=10, parse=lambda text: int(text) * 2)
    internal: int = 7


def parse(*arguments, cls=Example):
    parser = argparse.ArgumentParser()
    add_arguments(parser, cls)
    return from_namespace(cls, parser.parse_args(arguments), **({"internal": 8} if cls is Example else {}))


def test_defaults_are_those_of_the_fields():
    assert parse("a", "--scale", "2") == Example(
        inputs=["a"], scale=2, row=[], dry_run=False, half=False, full=False, internal=8
    )


def test_values_have_the_types_of_the_fields():
    words = ["a", "b", "--scale", "2", "-o", "x", "--bits", "16", "--row", "1", "2", "--row", "3", "--tile", "4"]
    assert parse(*words, "--dry-run", "--no-check", "--half") == Example(
        inputs=["a", "b"], out=Path("x"), scale=2, bits=16, row=[1, 2, 3], dry_run=True, check=False, half=True,
        full=False, tile=8, internal=8,
    )  # fmt: skip
    assert parse("a", "--scale", "2").row == []  # lists are not shared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a", "required: --scale"),
        ("--scale 2", "required: INPUT"),
        ("a --scale x", "invalid int value"),
        ("a --scale 2 --bits 9", "invalid choice"),
        ("a --scale 2 --half --full", "not allowed with"),
        ("a --scale 2 --internal 1", "unrecognized arguments"),
    ],
)
def test_mistakes_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(*arguments.split())
    assert message in capsys.readouterr().err


def test_help_names_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "folder (default: results)" in text and "100 % of it" in text and "bit depth --row" in text


def test_a_positional_with_a_default_is_optional():
    @dataclass(kw_only=True)
    class Pattern:
        pattern: str = positional("glob", default="*")

    assert parse(cls=Pattern).pattern == "*" and parse("x", cls=Pattern).pattern == "x"


@pytest.mark.parametrize("arguments", ["x.yml --set a=1", "-opt x.yml --set a=1", "--set a=1 -opt x.yml"])
def test_the_option_file_is_the_first_argument_or_follows_opt(arguments):
    parsed = parse(*arguments.split(), cls=OptionFileArguments)
    assert (parsed.opt, parsed.set) == ("x.yml", ["a=1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "one of the arguments FILE -opt is required"),
        ("x.yml -opt y.yml", "argument -opt: not allowed with argument FILE"),
        ("--set a=1 x.yml", "expected KEY=VALUE, got 'x.yml'. Write the option file before this option."),
    ],
)
def test_exactly_one_option_file_is_required(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(*arguments.split(), cls=OptionFileArguments)
    assert message in capsys.readouterr().err
