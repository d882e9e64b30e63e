"""Tests of figures: reduced and smoothed curves, logarithmic axes, and labels."""

import math
import random
import re

import pytest

from mcir.report.figures import bars, curves, grouped_bars, spans_decades
from tests.pages import Page


def drawn(figure, kind="data-name"):
    """Return the points of the lines with an attribute."""
    lines = re.findall(rf'<polyline points="([^"]+)"[^>]*{kind}[^>]*>', figure.markup)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


def labels(figure):
    return re.findall(r"<text [^>]*>([^<]+)</text>", figure.markup)


def test_long_series_are_reduced_but_spikes_remain():
    points = [(i, 9.0 if i == 54_321 else -9.0 if i == 76_543 else math.sin(i / 5000)) for i in range(100_000)]
    (line,) = drawn(curves({"a": points}, "", "x", "y"))
    assert len(line) < 1300
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    positions = [(x - 72) / 548 * 100_000 for x, _ in sorted(line, key=lambda point: point[1])]
    assert (positions[0], positions[-1]) == pytest.approx((54_321, 76_543), abs=200)
    few = [(i, float(i % 3)) for i in range(600)]
    assert len(drawn(curves({"a": few}, "", "x", "y"))[0]) == 600


def test_a_noisy_series_is_faint_with_its_mean_on_top():
    generator = random.Random(0)
    noisy = [(i, i / 1000 + generator.gauss(0, 0.3)) for i in range(1000)]
    quiet = [(i, i / 1000) for i in range(1000)]
    figure = curves({"noisy": noisy, "quiet": quiet}, "", "x", "y", smooth=True)
    assert len(drawn(figure)) == 2
    (raw,) = drawn(figure, 'class="raw"')
    mean, line = drawn(figure)
    assert max(abs(a[1] - b[1]) for a, b in zip(mean, line, strict=False)) < 40
    assert max(y for _, y in raw) - min(y for _, y in raw) > 200
    assert not drawn(curves({"noisy": noisy}, "", "x", "y"), 'class="raw"')


def test_decades_have_equal_height_on_a_logarithmic_axis():
    figure = curves({"a": [(0, 1000.0), (1, 10.0), (2, 0.1), (3, 0.0), (4, -1.0)]}, "", "x", "y", logarithmic=True)
    ((_, first), (_, second), (_, third)) = drawn(figure)[0]
    assert second - first == pytest.approx(third - second, abs=0.1)
    assert {"0.1", "1", "10", "100", "1,000"} <= set(labels(figure))
    narrow = curves({"a": [(0, 1.5), (1, 4.5)]}, "", "x", "y", logarithmic=True)
    assert "2" in labels(narrow)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 50.0], False),
        ([1.0, 100.0], True),
        ([0.0, 100.0], False),
        ([-1.0, 100.0], False),
        ([0.001, *[1.0] * 30, 2.0], False),  # one value near 0 is no decay
        ([1.0, math.inf, math.nan], False),
        ([], False),
    ],
)
def test_spans_decades(values, expected):
    assert spans_decades(values) == expected


def test_levels_and_marks():
    points = {"a": [(0, 1.0), (10, 2.0)]}
    figure = curves(points, "", "x", "y", levels={"<input>": 4.0}, marks=[5, 99])
    assert "&lt;input&gt;</span> <b>4</b>" in figure.markup and "<input>" not in figure.markup
    (level,) = re.findall(r'<path d="M72 ([\d.]+)H620"[^>]*stroke-dasharray="6 4"', figure.markup)
    assert 32 < float(level) < min(y for _, y in drawn(figure)[0])  # above the line, and within the drawing
    assert re.findall(r'd="M([\d.]+) 32V280"', figure.markup) == ["346.0"]  # marks outside the data are not drawn
    assert "stroke-dasharray" not in curves(points, "", "x", "y", levels={"a": math.inf}).markup


def test_values_that_are_not_finite_are_left_out():
    ((first, second),) = drawn(curves({"a": [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]}, "", "x", "y"))
    assert (first[0], second[0]) == (72, 620)


def test_a_spike_does_not_affect_the_mean_beyond_its_window():
    points = [(at, 1e17 if at == 0 else 0.1 + 0.2 * (at % 2)) for at in range(600)]
    line = drawn(curves({"a": points}, "", "x", "y", logarithmic=True, smooth=True))[0]
    alone = drawn(curves({"a": [(0, 1e17), (1, 0.1), (599, 0.2)]}, "", "x", "y", logarithmic=True))[0]
    assert line[300][1] == pytest.approx(alone[-1][1], abs=0.5)


@pytest.mark.parametrize("logarithmic", [True, False])
def test_values_out_of_range_are_left_out(logarithmic):
    points = [(1, 1.7e308), (2, -1.7e308), (3, 1e-320), (4, 1e199), (5, 1e-199)]
    (line,) = drawn(curves({"a": points}, "", "x", "y", logarithmic=logarithmic, smooth=True))
    assert len(line) == (2 if logarithmic else 3)


def test_a_series_without_points_keeps_its_colour():
    alone = curves({"b": [(0, 1.0), (1, 2.0)]}, "", "x", "y").markup
    second = curves({"a": [], "b": [(0, 1.0), (1, 2.0)]}, "", "x", "y").markup
    colours = [set(re.findall(r'stroke="(#\w+)"', markup)) for markup in (alone, second)]
    assert len(colours[0]) == len(colours[1]) == 1 and colours[0] != colours[1]
    assert second.count("</i>") == 1  # one entry in the legend


def test_a_single_point_is_visible():
    assert 'stroke-linecap="round"' in curves({"a": [(5, 30.0)]}, "", "x", "y").markup


@pytest.mark.parametrize(("values", "shown"), [([12000.0] * 2, "12,000"), ([0.00425, 0.0042500001], "0.004")])
def test_nearly_equal_values_are_a_flat_line_in_the_middle(values, shown):
    figure = curves({"a": list(enumerate(values))}, "", "x", "y")
    ((_, first), (_, second)) = drawn(figure)[0]
    assert first == pytest.approx(second, abs=0.1) and first == pytest.approx((32 + 280) / 2, abs=0.1)
    assert shown in labels(figure)


def texts(figure):
    """Return position, anchor and content of the texts of a drawing."""
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)</text>', figure.markup)
    return [(float(x), float(y), anchor, text) for x, y, anchor, text in found]


@pytest.mark.parametrize(
    "values",
    [[0.00014, 0.0002], [-1.6e-5, 0.0], [33.9, 33.9105], [1e5, 9e6], [-123e6, 4.0], [1e17, 3e17], [-1e199, 1e199]],
)
def test_ticks_fit_and_the_axis_label_is_above_them(values):
    figure = curves({"a": list(enumerate(values))}, "", "x", "a title of the axis")
    ticks = [(x, y, text) for x, y, anchor, text in texts(figure) if anchor == "end" and y < 290]
    assert len(ticks) > 1 and "rotate" not in figure.markup
    ((left, _), *_) = drawn(figure)[0]
    for x, y, text in ticks:
        assert x < left < 640 / 3
        assert x >= 17 * 0.64 * len(text)  # a wide font on a narrow screen
        assert y - 17 * 0.75 > 16 + 17 * 0.25  # below the title
    assert (0.0, 16.0, "start", "a title of the axis") in texts(figure)
    assert f"&#34;plot&#34;: [{left:.0f}, 620, 32, 280]" in figure.markup  # read by the script


def test_the_axis_label_of_bars_is_above_them():
    figure = bars({"one": -0.00016, "two": 0.0001}, "", "dB")
    assert (0.0, 16.0, "start", "dB") in texts(figure) and "rotate" not in figure.markup


def test_a_long_label_stays_inside_the_drawing():
    figure = curves({"a": [(0, 1.0), (1_000_000, 2.0)]}, "", "x", "y")
    assert re.search(r'<text x="640.0" y="296.0" text-anchor="end">1,000,000</text>', figure.markup)


def test_names_are_escaped():
    nasty = "<script>alert(1)</script>\"'"
    page = Page(curves({nasty: [(0, 1.0)]}, nasty, nasty, nasty).markup)
    assert "script" not in page.tags
    assert page.text.count(nasty) == 3


def bars_of(figure):
    """Return left, right, top, bottom and colour of each bar."""
    found = re.findall(
        r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" fill="(\S+)"', figure.markup
    )
    sizes = [(*map(float, numbers), color) for *numbers, color in found]
    return [(x, x + width, y, y + height, color) for x, y, width, height, color in sizes]


def test_bars_of_a_group_are_side_by_side_and_start_at_zero():
    figure = grouped_bars({"paper": {"a": 0.2, "b": -0.1}, "ours": {"b": 0.1}}, "gains", "dB")
    (left, right, top, zero, blue), second, third = bars_of(figure)
    assert right - left == pytest.approx(second[1] - second[0], abs=0.2)
    assert top < zero and second[2] == pytest.approx(zero, abs=0.2) and third[3] == pytest.approx(zero, abs=0.2)
    assert (
        second[3] - second[2] == pytest.approx((zero - top) / 2, abs=0.2) == pytest.approx(third[3] - third[2], abs=0.2)
    )
    assert third[0] == pytest.approx(second[1], abs=0.2)  # both are above "b"
    assert blue == second[4] != third[4]
    assert {"a", "b", "dB"} <= set(labels(figure))
    assert Page(figure.markup).text.split()[-2:] == ["paper", "ours"]


def test_a_series_without_values_keeps_its_colour():
    both = bars_of(grouped_bars({"paper": {"a": 1.0}, "ours": {"a": 2.0}}, "", "dB"))
    (alone,) = bars_of(grouped_bars({"paper": {}, "ours": {"a": 2.0}}, "", "dB"))
    assert alone[4] == both[1][4] != both[0][4]
    assert alone[1] - alone[0] > both[1][1] - both[1][0]
    assert not bars_of(grouped_bars({"paper": {}, "ours": {}}, "", "dB"))
