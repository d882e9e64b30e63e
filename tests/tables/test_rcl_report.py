"""The pages and data of a table of residual contrastive learning, of results that were never measured."""

import pytest

from mcir.tables.proxy_report import Result
from mcir.tables.rcl_paper import RclTable, read_rcl_table
from mcir.tables.rcl_report import Found, as_data, tell
from tests.tables.pages import Page


def result(weights, labels, trial, psnr, ssim=0.5):
    return Result(f"{weights}{labels}{trial}", weights, "denoise", True, labels, trial, psnr, ssim, 25.0, 0.25, {}, 1.0)


@pytest.fixture
def table():
    return read_rcl_table("rcl-table3").with_labels([0, 10, 100])


@pytest.fixture
def found(table):
    found = Found()
    results = [result("random", n, trial, 20.0 + n / 10 + trial) for n in (10, 100) for trial in range(2)]
    results += [result("RCL-EMD", 0, 0, 22.0, 0.75)] + [
        result("RCL-EMD", 10, trial, 28.0 + trial) for trial in range(2)
    ]
    found.add(table.columns, results)
    return found


def test_paper_ours_and_difference_with_the_deviation_of_the_trials(table, found):
    plain, pretrained = as_data(table, found)["rows"]
    assert plain["columns"]["10"]["psnr"] == {
        "published": 20.74,
        "source": "Table 3 of arXiv:2106.10070v2",
        "ours": 21.5,
        "std": pytest.approx(0.5**0.5),
        "trials": 2,
        "trained_otherwise": [],
        "difference": pytest.approx(21.5 - 20.74),
    }
    assert plain["columns"]["10"]["ssim"]["source"].startswith("not entered")
    assert plain["columns"]["0"]["psnr"]["trials"] == 0
    assert plain["columns"]["0"]["psnr"]["trained_otherwise"] is None
    assert pretrained["columns"]["0"]["ssim"]["difference"] == pytest.approx(0.75 - 0.799)
    page = Page(tell(table, found, ["told"]).as_html())
    for text in ("20.74", "21.50 ± 0.71 (2)", "+0.76", "22.00 (1)", "-0.62", "25.00", "0.7500 (1)"):
        assert text in page.cells, text
    assert "the input itself" in page.cells and "told" in page.text and "20,000 steps" in page.text
    assert "From Table 3 of arXiv:2106.10070v2: SL (10), SL (100), RCL+SL (0), RCL+SL (10), RCL+SL (100)." in page.text
    assert page.tags.count("svg") == 1 and page.tags.count("polyline") == 4
    for line in ("SL, ours", "RCL+SL, paper"):
        assert line in page.words


def test_a_table_is_whole_when_every_cell_has_its_trials(table, found):
    assert not found.is_whole(table, 2)
    found.add(table.columns, [result("RCL-EMD", 100, trial, 30.0) for trial in range(2)])
    assert found.is_whole(table, 2) and not found.is_whole(table, 3)


def test_only_what_was_pre_trained_otherwise_is_marked(table):
    otherwise = {(table.columns[0].option, "RCL-EMD"): ["manual_seed 3 instead of 0"]}
    found = Found(otherwise)
    found.add(table.columns, [result("RCL-EMD", 10, 0, 28.0), result("random", 10, 0, 20.0)])
    page = Page(tell(table, found, []).as_html())
    assert "28.00 (1) ¶" in page.cells and "20.00 (1)" in page.cells
    assert "¶ RCL+SL was pre-trained otherwise (rcl/voc2012.yml): manual_seed 3 instead of 0." in page.text
    assert "¶" not in Page(tell(table, Found(otherwise), []).as_html()).text  # nothing of it is measured


def test_conditions_are_told_of_columns_that_have_them_in_common():
    first = read_rcl_table("rcl-table1")
    by_column = {column.name: {"patch": 96 + n} for n, column in enumerate(first.columns)}
    found = Found(everywhere={"laid over the pre-trainings": ["a=1", "b=2"]}, by_column=by_column)
    page = Page(tell(first, found, []).as_html())
    assert {"96", "97"} <= set(page.cells) and "laid over the pre-trainings: a=1, b=2." in page.text
    data = as_data(first, found)
    assert [column["conditions"] for column in data["columns"]] == list(by_column.values())
    assert data["conditions"] == {"laid over the pre-trainings": ["a=1", "b=2"]}


def test_nothing_yet_is_no_curve_and_bicubic_goes_with_super_resolution():
    second = read_rcl_table("rcl-table2")
    page = Page(tell(second, Found(), []).as_html())
    assert "bicubic enlargement" in page.cells and "svg" not in page.tags and "1,000 labelled images" in page.text
    third = RclTable.model_validate(read_rcl_table("rcl-table3").model_dump())
    bare = third.model_copy(update={"rows": [row.model_copy(update={"numbers": []}) for row in third.rows]})
    assert "svg" not in Page(tell(bare, Found(), []).as_html()).tags
