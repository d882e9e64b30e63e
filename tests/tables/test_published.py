"""The published tables: rows, option files, numbers and their sources."""

import json
from pathlib import Path
from statistics import fmean

import pytest
from pydantic import ValidationError

from mcir.config import load, runs_of
from mcir.tables.commands import PaperTable
from mcir.tables.datasets import sets_to_evaluate
from mcir.tables.evaluation import select_metric
from mcir.tables.plan import plan
from mcir.tables.pretraining import methods
from mcir.tables.published import COLLAPSED, Table, known_tables, read_table

ROOT = Path(__file__).parents[2] / "options"
TABLES = {name: read_table(name) for name in known_tables()}
RUNS = sorted(
    {(run.option, run.variant) for table in TABLES.values() for row in table.rows for run in row.runs}, key=str
)

ALL = {**TABLES, **{name: read_table(name) for name in known_tables("rcl-")}}
PAPERS = json.loads((Path(__file__).parents[1] / "golden/papers/numbers.json").read_text(encoding="utf-8"))
"""The numbers that both papers print, by table."""
OTHER_AVERAGES = {("SwinIR ×4", "ssim_y"), ("SwinIR ×4 + SPN", "psnr_y")}
"""Printed averages that are not the means of their rows: 0.8190 (0.8191) and 28.93 (28.94)."""


def test_all_tables_exist():
    assert list(TABLES) == [f"table{number}" for number in range(1, 10)]
    assert known_tables("rcl-") == ["rcl-table1", "rcl-table2", "rcl-table3"]
    assert all(read_table(name).name == name for name in [*TABLES, *known_tables("rcl-")])
    with pytest.raises(ValueError, match=r"no table 'tabel1'. Did you mean 'table1'.*rcl-table3"):
        read_table("tabel1")


def place(table, number):
    """Return column and metric of a printed number. Tables 8 and 9 print PSNR on Set14 in a row called EDSR-light."""
    return ("Set14", "psnr_y") if table in ("table8", "table9") else (number["set"], number["metric"])


def test_the_numbers_of_the_papers_are_complete_and_no_others_are_said_to_be_theirs():
    printed = {
        (table, number["row"], *place(table, number)): number["value"]
        for table, numbers in PAPERS.items()
        for number in numbers
    }
    entered = {
        (name, row.name, number.set, number.metric): number.value
        for name, table in ALL.items()
        for row in table.rows
        for number in row.numbers
        if number.by == "paper"
    }
    collapsed = {key for key, value in entered.items() if value == COLLAPSED}
    assert len(printed) == 377
    assert {key: value for key, value in entered.items() if key not in collapsed} == printed
    assert {key[:2] for key in collapsed} == {
        ("table8", "λ = 1e-2"), ("table8", "λ = 1e-3"), ("table9", "w = 0"), ("table9", "w = 0.01")
    }  # fmt: skip


def test_no_cell_has_two_numbers():
    for table in ALL.values():
        cells = [(row.name, number.set, number.metric) for row in table.rows for number in row.numbers]
        assert len(cells) == len(set(cells))


def test_the_average_is_the_mean_of_its_columns_within_rounding():
    """The means of the printed numbers and the printed means differ by at most the rounding of a single number."""
    otherwise = set()
    for table in (TABLES["table1"], TABLES["table2"]):
        average = table.columns[0]
        for row in table.rows:
            for metric in table.metrics:
                printed = row.number(average.name, metric)
                mean = fmean(row.number(name, metric).value for name in average.mean_of)
                if abs(mean - printed.value) > 0.5001 * 10**-printed.digits:
                    otherwise.add((row.name, metric))
    assert otherwise == OTHER_AVERAGES


def test_numbers_have_the_digits_of_their_source():
    digits = {
        (name, number.metric, number.digits)
        for name, table in ALL.items()
        for row in table.rows
        for number in row.numbers
    }
    assert {metric for _, metric, count in digits if count == 2} == {"psnr", "psnr_y"}
    assert {(name, metric) for name, metric, count in digits if count == 3} == {
        ("table3", "ssim"),
        ("table4", "ssim_3d"),
    }
    assert TABLES["table3"].row("DehazeFormer-T + SPN").number("SOTS-indoor", "ssim").text == "0.990"
    assert TABLES["table4"].row("NAFNet").number("GoPro-test", "ssim_3d").text == "0.9606"
    assert ALL["rcl-table3"].row("RCL+SL").number("0", "ssim").text == "0.7989"


def test_every_number_has_a_source():
    numbers = [number for table in ALL.values() for row in table.rows for number in row.numbers]
    assert all(("arXiv:" in number.source) == (number.by == "paper") for number in numbers)
    assert {number.by for number in numbers} == {"paper", "release"}
    rows = {(name, row.name): row for name, table in TABLES.items() for row in table.rows}
    assert {key for key, row in rows.items() if not row.runs and not row.numbers} == set()


def test_numbers_of_the_readme_alone_are_in_a_group_of_their_own():
    for table in ALL.values():
        publishers = [{number.by for number in row.numbers} for row in table.rows if row.numbers]
        assert all(len(by) == 1 for by in publishers)
        assert publishers == sorted(publishers, key=lambda by: "release" in by)


def test_the_readme_lists_the_released_weights_with_their_numbers():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    released = {
        run.published: (table, row)
        for table in (TABLES["table1"], TABLES["table3"])
        for row in table.rows
        for run in row.runs
        if run.published and run.published.endswith("_spn.yml")
    }
    assert len(released) == 4
    for file, (table, row) in released.items():
        options = load(ROOT / file)
        names = [part.name for part in sets_to_evaluate(options).values()]
        cells = {name: [row.number(name, metric) for metric in table.metrics] for name in names}
        numbers = [f"{name} {psnr.text}/{ssim.text}" for name, (psnr, ssim) in cells.items() if psnr and ssim]
        (line,) = [line for line in lines if line.startswith(f"| `{file}` |")]
        assert line.endswith(f" | `{options.path.pretrain_network_g}` | {', '.join(numbers)} |")


def test_the_coverage_names_the_publishers():
    assert TABLES["table1"].coverage() == "Published numbers: 80 from the paper. There is none for Set5."
    assert TABLES["table3"].coverage().endswith("38 from the paper, 12 only from the README of its released code.")
    assert "has no published numbers" in Table.model_validate(GOOD).coverage()


def test_the_notes_mention_the_errors_of_the_paper():
    notes = " ".join(note for table in TABLES.values() for note in table.notes)
    for error in ("Manga109 at ×2", "1.3 dB", "Rain100L", "28.93", "0.47 dB", "Fig. 3", "26.60"):
        assert error in notes


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_row_has_valid_options_and_the_data_sets_of_the_columns(table):
    runs = plan(table, PaperTable(options=ROOT))
    assert len(runs) == sum(len(row.runs) for row in table.rows)
    columns, reached = {column.name for column in table.columns if not column.mean_of}, set()
    for run in runs:
        assert run.options is not None, run.problem
        names = {part.name for part in sets_to_evaluate(run.options).values()}
        assert names & columns
        reached |= names
        assert all(select_metric(dict.fromkeys(run.options.val.metrics, True), metric) for metric in table.metrics)
        if run.published is not None:
            published = run.published.datasets.test or run.published.datasets.val
            assert {part.name for part in published.values()} == names
            assert run.published.network_g == run.options.network_g
    assert columns <= reached


@pytest.mark.parametrize("option, variant", RUNS)
def test_every_run_has_a_unique_name(option, variant):
    assert (variant in runs_of(ROOT / option)) if variant else not runs_of(ROOT / option)
    options = load(ROOT / option, [f"sweep={variant}"] if variant else [])
    assert options.name == Path(option).stem + (f"_{variant}" if variant else "")
    assert options.train is not None


def test_every_run_of_a_sweep_is_in_a_table():
    files = [f"tables/{file.name}" for file in sorted((ROOT / "tables").glob("*.yml"))]
    every = {(file, run) for file in files for run in runs_of(ROOT / file)}
    used = {run for run in RUNS if run[1]}
    assert used <= every
    unused = {run: model_of(*run) for run in every - used}  # other option files describe the same trainings
    same = [model_of(file, None) for file in ("dehaze/ffanet_its_spn.yml", "sr/edsr_light_x4_spn.yml")]
    assert len(unused) == 4
    assert all(model in same or run == "loss_weight_0" for (_, run), model in unused.items())
    assert all((ROOT / file).read_text().startswith("# ") for file in files)


def model_of(file, run):
    return load(ROOT / file, [f"sweep={run}"] if run else []).model_section()


def values(table, path):
    """Return the values of an option in the sweep of a table."""
    found = []
    for option in {run.option: run for row in TABLES[table].rows for run in row.runs if run.variant}:
        for run in runs_of(ROOT / option):
            value = load(ROOT / option, [f"sweep={run}"]).train.model
            for key in path.split("."):
                value = value[key]
            found.append(value)
    return found


def test_the_sweeps_have_the_values_of_the_paper():
    assert values("table7", "negatives.steps") == [(100,), (500,), (1000,), (2000,), (100, 500, 1000, 2000)]
    assert values("table8", "contrastive_opt.loss_weight") == [0, 1e-2, 1e-3, 5e-4, 1e-4, 1e-5]
    assert values("table9", "negatives.weight") == [0, 0.01, 0.1, 0.5, 0.9, 0.999]
    assert values("table6", "negatives.type") == ["FrozenNegatives"] * 2
    assert values("table6", "negatives.weights")[0] == "random"
    assert values("table6", "negatives").pop(0).get("count", 1) == 1  # one random network
    losses = ["ContrastiveRegularization", "CurricularContrastiveRegularization", "PCLLoss"]
    assert values("table5", "contrastive_opt.type") == losses


# -- RCL --------------------------------------------------------------------------------------------------------------


def test_every_method_has_a_row_and_the_third_table_has_columns_of_labels():
    first, second, third = (read_table(name) for name in known_tables("rcl-"))
    assert [row.initial for row in first.rows] == [*methods(), "random", "oracle"]
    assert [row.initial for row in second.rows] == [*methods(), "random", "sl-den", "oracle"]
    assert [column.task for column in second.columns] == ["sr", "jdensr"]
    assert third.finetune and [column.labels for column in third.columns] == [0, 10, 100, 500, 1000, 4000, 10000]
    assert [len(group) for group in third.groups()] == [7] and [len(group) for group in second.groups()] == [1, 1]


def test_with_labels_replaces_the_numbers_of_labels():
    table = Table.model_validate(PROXY)
    assert [column.labels for column in table.with_labels([7]).columns] == [7]
    with pytest.raises(ValueError, match="expected one number of labelled images, got 2"):
        table.with_labels([7, 8])
    swept = table.model_copy(update={"finetune": True}).with_labels([0, 5000])
    assert [(column.name, column.labels) for column in swept.columns] == [("0", 0), ("5,000", 5000)]


# -- mistakes ---------------------------------------------------------------------------------------------------------

GOOD = {"name": "t", "title": "T", "metrics": ["psnr"], "columns": ["A"], "rows": [{"name": "plain"}]}
PROXY = {**GOOD, "columns": [{"name": "A", "option": "a.yml", "task": "denoise"}], "rows": [{"name": "N2N"}]}
NUMBER = {"set": "A", "metric": "psnr", "value": 1.0, "source": "a page"}


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        (GOOD, {"rows": [{"name": "a"}, {"name": "a"}]}, "there are two rows 'a'"),
        (
            GOOD,
            {"rows": [{"name": "a", "against": "b"}, {"name": "b"}]},
            "against: expected a row above it, got 'b'",
        ),
        (
            GOOD,
            {"rows": [{"name": "a", "numbers": [{**NUMBER, "set": "B"}]}]},
            "no column B with the metric psnr",
        ),
        (
            GOOD,
            {"rows": [{"name": "a", "numbers": [{"set": "A", "metric": "psnr", "value": 1.0}]}]},
            "Field required",
        ),
        (GOOD, {"rows": [{"name": "a", "numbers": [{**NUMBER, "value": None}]}]}, "valid number"),
        (GOOD, {"rows": [{"name": "a", "numbers": [{**NUMBER, "value": "colapsed"}]}]}, "'collapsed'"),
        (GOOD, {"columns": ["A", {"name": "Avg", "mean_of": ["A", "B"]}]}, "'Avg': mean_of: there is no column B"),
        (GOOD, {"pictures": {"B": [0]}}, "pictures: there is no column B"),
        (GOOD, {"tittle": "x"}, "Extra inputs"),
        (PROXY, {"rows": [{"name": "N3N"}]}, "'N3N': weights: expected RCL-EMD, .*, got 'N3N'"),
        (
            PROXY,
            {"columns": [{**PROXY["columns"][0], "task": "enlarge"}]},
            "task: expected denoise, .*, got 'enlarge'",
        ),
    ],
)
def test_invalid_tables_are_errors(table, change, message):
    assert Table.model_validate(table)
    with pytest.raises(ValidationError, match=message):
        Table.model_validate({**table, **change})


def test_a_number_of_the_paper_is_preferred_to_one_of_the_authors():
    numbers = [{**NUMBER, "value": 2.0, "by": "authors"}, NUMBER]
    (row,) = Table.model_validate({**GOOD, "rows": [{"name": "a", "numbers": numbers}]}).rows
    assert row.number("A", "psnr").value == 1.0 and row.number("B", "psnr") is None
