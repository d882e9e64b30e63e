"""The tables of residual contrastive learning as data: what is entered, and what is refused."""

import pytest
from pydantic import ValidationError

from mcir.tables.paper import known_tables
from mcir.tables.pretraining import methods
from mcir.tables.rcl_paper import RclTable, read_rcl_table

TINY = {
    "name": "tiny",
    "title": "A tiny table",
    "columns": [{"name": "A", "option": "a.yml", "task": "denoise", "labels": 2}],
    "rows": [{"name": "N2N"}],
}


def entered(name):
    numbers = read_rcl_table(name).rows
    return {(row.name, n.set, n.metric): n.value for row in numbers for n in row.numbers}


def test_the_numbers_that_are_known_and_no_others():
    assert known_tables("rcl-") == ["rcl-table1", "rcl-table2", "rcl-table3"]
    assert "rcl-table1" not in known_tables()
    assert entered("rcl-table1") == {
        ("RCL-EMD", "VOC2012", "psnr"): 31.39,
        ("RCL-MMD", "VOC2012", "psnr"): 31.53,
        ("oracle", "MIT", "psnr"): 31.26,
    }
    assert entered("rcl-table2") == {
        ("RCL-EMD", "Stanford SR", "psnr"): 39.01,
        ("oracle", "Stanford SR", "psnr"): 38.93,
    }
    by_labels = {"10": (20.74, 28.20), "100": (27.19, 30.24), "1,000": (31.31, 32.09), "10,000": (33.41, 33.85)}
    assert entered("rcl-table3") == {
        ("RCL+SL", "0", "psnr"): 22.62,
        ("RCL+SL", "0", "ssim"): 0.799,
        **{("SL", name, "psnr"): plain for name, (plain, _) in by_labels.items()},
        **{("RCL+SL", name, "psnr"): pretrained for name, (_, pretrained) in by_labels.items()},
    }


def test_every_method_has_its_row_and_the_third_table_its_labels():
    first, second, third = (read_rcl_table(name) for name in known_tables("rcl-"))
    assert [row.weights for row in first.rows] == [*methods(), "random", "oracle"]
    assert [row.weights for row in second.rows] == [*methods(), "random", "sl-den", "oracle"]
    assert [column.task for column in second.columns] == ["sr", "jdensr"]
    assert third.finetune and [column.labels for column in third.columns] == [0, 10, 100, 500, 1000, 4000, 10000]
    assert [len(group) for group in third.groups()] == [7] and [len(group) for group in second.groups()] == [1, 1]


def numbered(**number):
    return {"rows": [{"name": "N2N", "numbers": [number]}]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": [{"name": "N3N"}]}, "starts from 'N3N'"),
        ({"columns": [{**TINY["columns"][0], "task": "enlarge"}]}, "the task 'enlarge'"),
        (numbered(set="B", metric="psnr", value=1.0, source="x"), "B, psnr"),
        (numbered(set="A", metric="psnr", value=1.0), "needs its source"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        RclTable.model_validate({**TINY, **change})


def test_other_numbers_of_labels():
    table = RclTable.model_validate(TINY)
    assert [column.labels for column in table.with_labels([7]).columns] == [7]
    with pytest.raises(ValueError, match="one number of labelled images, not 2"):
        table.with_labels([7, 8])
    swept = table.model_copy(update={"finetune": True}).with_labels([0, 5000])
    assert [(column.name, column.labels) for column in swept.columns] == [("0", 0), ("5,000", 5000)]


def test_a_table_that_is_not_there():
    with pytest.raises(ValueError, match=r"no table 'rcl-table4'.*rcl-table1, rcl-table2, rcl-table3"):
        read_rcl_table("rcl-table4")
