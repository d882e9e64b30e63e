"""Tests of ``mcir list``, in a pipe and at a terminal."""

import sys
from typing import get_args

import pytest

from mcir import registry
from mcir.cli import main
from mcir.cli.options import Listed
from mcir.config.files import shipped_names
from mcir.config.listing import KINDS, OPTION_FILES
from mcir.registry import ARCHS, Registry
from tests.screen import Terminal

REGISTRIES = {value for value in vars(registry).values() if isinstance(value, Registry)}


def names(kind):
    return shipped_names() if kind == OPTION_FILES else getattr(registry, kind.upper()).names()


def test_without_arguments_every_kind_is_listed(capsys):
    assert main(["list"]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert tuple(kind for kind, _ in rows) == get_args(Listed) == tuple(KINDS)
    assert all(len(description) > 10 for _, description in rows)
    assert {getattr(registry, kind.upper()) for kind in KINDS if kind != OPTION_FILES} == REGISTRIES


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_pipe_each_entry_is_one_line(kind, capsys):
    assert main(["list", kind]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in rows] == names(kind)
    assert all(len(description) > 10 for _, description in rows)


def test_a_name_lists_the_arguments(capsys):
    assert main(["list", "archs", "DehazeFormer"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "mcir.archs.dehazeformer" in rows.pop("DehazeFormer")
    assert list(rows) == list(ARCHS.parameters("DehazeFormer"))
    assert rows["window_size"] == "an integer from 2 to 128 (default: 8)"
    assert rows["out_chans"].endswith("(default: null)")  # as in an option file
    assert rows["depths"].endswith("(default: [8, 8, 8, 4, 4])")
    assert main(["list", "metrics", "calculate_psnr"]) == 0  # another name of PSNR
    assert "crop_border" in capsys.readouterr().out
    assert main(["list", "negatives", "HistoryNegatives"]) == 0
    assert "network:" not in capsys.readouterr().out  # what mcir passes itself


def test_a_pattern_without_a_match_suggests_a_name(capsys):
    assert main(["list", "archs", "EDRS"]) == 1
    assert "Did you mean 'EDSR'" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
@pytest.mark.parametrize("kind", [OPTION_FILES, "losses"])
def test_at_a_terminal_descriptions_wrap_and_names_do_not(kind, columns):
    command = f"from mcir.cli import main; main(['list', {kind!r}])"
    rows = Terminal([sys.executable, "-c", command], columns).read().all_rows()
    starts = [row.split()[0] for row in rows if row and not row.startswith(" ")]
    assert starts[:-1] == names(kind)
    assert starts[-1] == "For"  # how to continue
    assert max(map(len, rows)) < columns  # a full row would have been wrapped by the terminal
    words = set(" ".join(rows).split())
    assert {"negative", "structural", "similarity:"} <= words or kind != "losses"
    if columns <= 80:
        assert any(row.startswith("    ") for row in rows)


def test_the_list_of_kinds_fits_a_narrow_terminal():
    command = "from mcir.cli import main; main(['list'])"
    rows = Terminal([sys.executable, "-c", command], 60).read().rows()
    assert [row.split()[0] for row in rows if row and not row.startswith(" ")] == [*KINDS, "For"]
