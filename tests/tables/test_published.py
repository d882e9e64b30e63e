"""The published tables: rows, option files, numbers and their sources."""

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
from mcir.tables.published import Table, known_tables, read_table

ROOT = Path(__file__).parents[2] / "options"
TABLES = {name: read_table(name) for name in known_tables()}
RUNS = sorted(
    {(run.option, run.variant) for table in TABLES.values() for row in table.rows for run in row.runs}, key=str
)

AVERAGES = {
    "EDSR-light ×2": "32.06/0.9303", "EDSR-light ×2 + SPN": "32.19/0.9313", "EDSR-light ×4": "28.14/0.8021",
    "EDSR-light ×4 + SPN": "28.21/0.8040", "SwinIR-light ×4": "28.46/0.8099", "SwinIR-light ×4 + SPN": "28.55/0.8114",
    "SwinIR ×4": "28.88/0.8190", "SwinIR ×4 + SPN": "28.93/0.8198", "MPRNet": "36.17/0.9543", "DualGCN": "36.69/0.9604",
    "SPDNet": "36.54/0.9594", "SwinIR": "36.91/0.9507", "Uformer-S": "36.95/0.9505", "Restormer": "37.49/0.9530",
    "IDT": "37.77/0.9593", "IDT + SPN": "38.03/0.9610",
}  # fmt: skip
"""Published means over the data sets of Tables 1 and 2."""


def test_all_tables_exist():
    assert list(TABLES) == [f"table{number}" for number in range(1, 10)]
    assert known_tables("rcl-") == ["rcl-table1", "rcl-table2", "rcl-table3"]
    assert all(read_table(name).name == name for name in [*TABLES, *known_tables("rcl-")])
    with pytest.raises(ValueError, match=r"no table 'tabel1'. Did you mean 'table1'.*rcl-table3"):
        read_table("tabel1")


def test_the_means_of_the_numbers_are_the_published_means():
    for table in (TABLES["table1"], TABLES["table2"]):
        for row in table.rows:
            for metric, mean, digits in zip(table.metrics, AVERAGES[row.name].split("/"), (2, 4), strict=True):
                values = [number.value for number in row.numbers if number.metric == metric]
                assert len(values) == len(table.columns) - (table.name == "table1")  # Set5 is not in the table
                assert abs(fmean(values) - float(mean)) <= 1.01 * 10**-digits, (row.name, metric)  # rounded or cut off


def test_every_number_has_a_source():
    rows = {(name, row.name): row for name, table in TABLES.items() for row in table.rows}
    assert all(number.source and number.value for row in rows.values() for number in row.numbers)
    assert {key for key, row in rows.items() if not row.runs and not row.numbers} == set()
    best = rows["table3", "DehazeFormer-B + SPN"]
    assert [best.number(name, "psnr").value for name in ("SOTS-indoor", "SOTS-mix")] == [38.41, 31.57]
    assert rows["table5", "FFANet + CCR"].number("SOTS-indoor", "ssim").value == 0.9937
    assert rows["table4", "NAFNet + SPN"].number("GoPro-test", "ssim_3d").value == 0.9619


def test_the_coverage_names_the_publishers():
    text = TABLES["table1"].coverage()
    assert text.startswith("Published numbers: 64 from what the paper's authors published with their code")
    assert text.endswith("There is none for Set5.")
    assert "has no published numbers" in TABLES["table6"].coverage()
    assert "from the paper itself" not in " ".join(table.coverage() for table in TABLES.values())


def test_the_notes_mention_the_errors_of_the_paper():
    notes = " ".join(note for table in TABLES.values() for note in table.notes)
    for error in ("Manga109 at ×2", "1.3 dB", "Rain100L"):
        assert error in notes


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_row_has_valid_options_and_the_data_sets_of_the_columns(table):
    runs = plan(table, PaperTable(options=ROOT))
    assert len(runs) == sum(len(row.runs) for row in table.rows)
    columns, reached = {column.name for column in table.columns}, set()
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
    spn = model_of("dehaze/ffanet_its_spn.yml", None)
    assert len(unused) == 4
    assert all(model == spn or run == "loss_weight_0" for (_, run), model in unused.items())
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
    assert values("table8", "contrastive_opt.loss_weight") == [0, 1e-2, 1e-3, 1e-4, 1e-5]
    assert values("table9", "negatives.weight") == [0, 0.01, 0.1, 0.5, 0.9, 0.999]
    assert values("table6", "negatives.type") == ["FrozenNegatives"] * 2
    assert values("table6", "negatives.weights")[0] == "random"
    assert values("table6", "negatives").pop(0).get("count", 1) == 1  # one random network
    losses = ["ContrastiveRegularization", "CurricularContrastiveRegularization", "PCLLoss"]
    assert values("table5", "contrastive_opt.type") == losses


# -- RCL --------------------------------------------------------------------------------------------------------------


def test_the_rcl_tables_have_only_the_known_numbers():
    by_labels = {"10": (20.74, 28.20), "100": (27.19, 30.24), "1,000": (31.31, 32.09), "10,000": (33.41, 33.85)}
    expected = {
        "rcl-table1": {
            ("RCL-EMD", "VOC2012", "psnr"): 31.39,
            ("RCL-MMD", "VOC2012", "psnr"): 31.53,
            ("oracle", "MIT", "psnr"): 31.26,
        },
        "rcl-table2": {("RCL-EMD", "Stanford SR", "psnr"): 39.01, ("oracle", "Stanford SR", "psnr"): 38.93},
        "rcl-table3": {
            ("RCL+SL", "0", "psnr"): 22.62,
            ("RCL+SL", "0", "ssim"): 0.799,
            **{("SL", name, "psnr"): plain for name, (plain, _) in by_labels.items()},
            **{("RCL+SL", name, "psnr"): pretrained for name, (_, pretrained) in by_labels.items()},
        },
    }
    for name, numbers in expected.items():
        rows = read_table(name).rows
        assert {(row.name, n.set, n.metric): n.value for row in rows for n in row.numbers} == numbers


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
