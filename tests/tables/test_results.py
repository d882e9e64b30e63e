"""Our results and the published results of a table: means over data sets, gains and collapses."""

import pytest

from mcir.tables.published import Table
from mcir.tables.results import Cell, Results
from mcir.tables.table_report import table_report

NUMBERS = {"A": ("30.00", "30.50"), "B": ("36.39", "39.80"), "Avg": ("33.20", "35.15")}


def number(name, value):
    return {"set": name, "metric": "psnr", "value": float(value), "source": "a page"}


@pytest.fixture
def results():
    """The results of a table with two data sets and their mean."""
    rows = [
        {"name": "plain", "numbers": [number(name, values[0]) for name, values in NUMBERS.items()]},
        {"name": "SPN", "against": "plain", "numbers": [number(name, values[1]) for name, values in NUMBERS.items()]},
        {"name": "λ = 1", "against": "plain", "numbers": [{**number("A", 0), "value": "collapsed"}]},
    ]
    columns = [{"name": "Avg", "mean_of": ["A", "B"]}, "A", "B"]
    return Results(
        Table.model_validate({"name": "t", "title": "T", "metrics": ["psnr"], "columns": columns, "rows": rows})
    )


def fill(results, row, **values):
    results.cells |= {(row, name): Cell({"psnr": value}) for name, value in values.items()}


def test_a_mean_needs_all_its_columns(results):
    plain, (average, _, _) = results.table.rows[0], results.table.columns
    fill(results, "plain", A=30.0)
    assert results.ours(plain, average, "psnr") is None
    fill(results, "plain", B=36.0)
    assert results.ours(plain, average, "psnr") == 33.0


def test_gains_are_over_the_same_columns(results):
    spn = results.table.rows[1]
    fill(results, "plain", A=30.0, B=36.0)
    fill(results, "SPN", A=30.3)
    assert results.gains(spn, "psnr") == {"A": pytest.approx(0.3)}
    assert results.gains(spn, "psnr", published=True) == {"Avg": 1.95, "A": 0.5, "B": 3.41}
    fill(results, "SPN", B=37.0)
    assert results.gains(spn, "psnr") == pytest.approx({"Avg": 0.65, "A": 0.3, "B": 1.0})
    cells = results.data()["rows"][1]["sets"]
    assert [cells["B"]["psnr"][key] for key in ("gain", "published_gain")] == [1.0, 3.41]
    page = table_report(results, []).as_markdown()
    assert "| SPN, over plain | psnr | +1.95 | +0.650 | +0.50 | +0.300 | +3.41 | +1.000 |" in page


def test_a_mean_with_an_incomparable_column_has_no_gain(results):
    fill(results, "plain", A=30.0, B=36.0)
    fill(results, "SPN", A=30.3, B=37.0)
    results.cells["SPN", "B"] = Cell({"psnr": 37.0}, differences=["train.total_iter 2 instead of 1"])
    assert set(results.gains(results.table.rows[1], "psnr")) == {"A"}
    assert "SPN and plain were trained with different options, so no gain" in table_report(results, []).as_markdown()


def test_a_collapse_is_a_result_without_gain(results):
    spn, (average, first, _) = results.table.rows[1], results.table.columns
    fill(results, "plain", A=30.0, B=36.0)
    fill(results, "SPN", A=30.3)
    results.cells["SPN", "B"] = Cell({}, collapse="iteration 1,200")
    assert results.ours(spn, average, "psnr") is None and set(results.gains(spn, "psnr")) == {"A"}
    assert results.collapsed() == ["SPN (B): iteration 1,200"]
    data = results.data()["rows"]
    assert (data[1]["sets"]["B"]["psnr"]["ours"], data[1]["sets"]["B"]["psnr"]["difference"]) == ("collapsed", None)
    assert (data[2]["sets"]["A"]["psnr"]["published"], data[2]["sets"]["B"]["psnr"]["published"]) == ("collapsed", None)
    page = table_report(results, []).as_markdown()
    assert "| λ = 1 | – | – | – | collapsed | – | – | – | – | – |" in page
    assert "| λ = 1, over plain | psnr | – | – | collapsed | – | – | – |" in page
    assert "39.80 | collapsed (iteration 1,200) | – |" in page and "“collapsed”: the training diverged" in page
    assert results.gains(results.table.rows[2], "psnr", published=True) == {}
    assert results.published(results.table.rows[2], first, "psnr") is None


def test_a_table_without_a_collapse_does_not_explain_it(results):
    del results.table.rows[2]
    assert "collapsed" not in table_report(results, []).as_markdown()


def test_columns_without_any_result_are_not_shown(results):
    page = table_report(results, []).as_markdown()
    assert "| row | Avg: published | A: published | B: published |" in page and "We have no results yet." in page
    assert "| row | metric | Avg: published | A: published | B: published |" in page
    assert "The published numbers are from a page." in page


def test_numbers_are_first_and_footnotes_last(results):
    fill(results, "plain", A=30.0, B=36.0)
    results.cells["SPN", "A"] = Cell({"psnr": 30.3}, differences=["train.total_iter: 1 → 2"])
    report = table_report(results, ["plain  trained"])
    numbers, *_ = report.sections
    assert numbers.table and not numbers.paragraphs
    headings = [section.heading for section in report.sections]
    places = ["PSNR in dB", "What is compared", "Signs in the tables, and sources", "Trainings, and what is missing"]
    assert [heading for heading in headings if heading in places] == places
    footnotes = next(section.paragraphs for section in report.sections if section.heading.startswith("Signs"))
    assert "¶ trained with options that differ from the row; “What is compared” lists the differences." in footnotes
