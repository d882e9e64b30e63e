"""Tests of reports: content in Markdown and HTML, self-contained pages, and drawings."""

import re

import numpy as np
import pytest

from mcir.report.figures import bars, curves, picture_figure
from mcir.report.option_changes import OptionChange
from mcir.report.page import Report, Section
from tests.pages import Page


def report():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    figures = [
        curves({"plain": [(1, 30.0), (2, 31.5)], "+ SPN": [(1, 30.5), (2, 31.0)]}, "PSNR", "iteration", "dB"),
        bars({"Set5": 0.25, "Set14": -0.5}, "gain", "dB", {"Set5": (0.1, 0.4)}),
        picture_figure(picture, "a < b"),
    ]
    table = [["row", "PSNR"], ["EDSR | small", "31.50"], ["<script>", "–"]]
    return picture, Report("T & T", [Section("Numbers", ["It is 1 < 2."], table, figures, "$ mcir")])


def test_the_page_contains_everything():
    picture, page_report = report()
    page = Page(page_report.as_html())
    assert page.cells == ["row", "PSNR", "EDSR | small", "31.50", "<script>", "–"]
    assert "It is 1 < 2." in page.text and "$ mcir" in page.text and "T & T" in page.text
    assert "script" not in page.tags
    assert page.tags.count("svg") == 2
    (shown,) = page.pictures
    assert np.array_equal(shown, picture)


def test_notes_and_changed_options_are_in_the_page_and_in_markdown():
    changes = [OptionChange("train.total_iter", "300", "60")]
    written = Report("T", [Section("S", ["Before."], [["a"], ["1"]], changes=changes, notes=["After."])])
    assert "<del>300</del> → <ins>60</ins>" in written.as_html()
    assert "- train.total_iter: 300 → 60\n\nAfter." in written.as_markdown()
    assert written.as_html().index("Before.") < written.as_html().index("</table>") < written.as_html().index("After.")


def test_the_page_is_self_contained():
    page = Page(report()[1].as_html())
    assert [address for address in page.addresses if not address.startswith("data:")] == []
    assert "link" not in page.tags


def test_markdown_is_a_table():
    lines = report()[1].as_markdown().splitlines()
    assert "| row | PSNR |" in lines and "|---|---:|" in lines
    assert "| EDSR \\| small | 31.50 |" in lines


def test_markdown_leaves_out_sections_with_figures_only():
    both = Report("T", [Section("Drawn", figures=report()[1].sections[0].figures), Section("Said", ["It is."])])
    assert "Drawn" not in both.as_markdown() and "## Said" in both.as_markdown() and "Drawn" in both.as_html()


def test_written_files(tmp_path):
    written = report()[1]
    files = written.write(tmp_path / "new", "page")
    assert [file.name for file in files] == ["page.md", "page.html"]
    assert files[1].read_text() == written.as_html()


def test_higher_values_are_drawn_higher():
    markup = curves({"a": [(0, 1.0), (10, 3.0), (20, 2.0)]}, "", "x", "y").markup
    points = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', markup)[1].split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2 and x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y2 < y0  # the top of a drawing is 0
    assert (y0 - y1) == pytest.approx(2 * (y0 - y2), abs=0.2)


def test_bars_start_at_zero():
    markup = bars({"up": 2.0, "down": -1.0}, "", "dB", {"up": (1.0, 3.0), "down": (float("-inf"), 0.0)}).markup
    rects = [tuple(map(float, found)) for found in re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', markup)]
    (up, tall), (down, short) = rects
    assert up + tall == pytest.approx(down, abs=0.2)
    assert tall == pytest.approx(2 * short, abs=0.3)
    assert markup.count('stroke-width="1.5"') == 1  # an infinite interval is not drawn


def test_a_drawing_of_one_point_or_none():
    for series in ({"a": [(1, 30.0)]}, {"a": []}, {}):
        Page(curves(series, "", "x", "y").markup)
    Page(bars({"a": 0.0}, "", "dB").markup)


def test_names_that_do_not_fit_below_bars_are_in_the_legend():
    names = [f"a long name {number}" for number in range(9)]
    markup = bars(dict.fromkeys(names, 1.0), "", "dB").markup
    assert not [text for text in re.findall(r"<text [^>]*>([^<]*)</text>", markup) if "name" in text]
    assert re.findall(r"<span><b>(\d)</b> a long name (\d)</span>", markup) == [(str(n + 1), str(n)) for n in range(9)]
