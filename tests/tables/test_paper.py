"""The tables: well-formed, every row has its option files, every number its source, none is invented."""

from pathlib import Path
from statistics import fmean

import pytest
from pydantic import ValidationError

from mcir.config import load, runs_of
from mcir.tables.evaluated import column_of
from mcir.tables.paper import NOT_ENTERED, Table, known_tables, read_table
from mcir.tables.plan import Settings, plan

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
"""The means over the data sets of Tables 1 and 2, which are published beside the numbers themselves."""


def test_all_nine_are_here():
    assert list(TABLES) == [f"table{number}" for number in range(1, 10)]
    assert all(table.name == name for name, table in TABLES.items())


def test_numbers_were_taken_over_without_a_slip():
    """Their means are those that were published."""
    for table in (TABLES["table1"], TABLES["table2"]):
        for row in table.rows:
            for metric, mean, digits in zip(table.metrics, AVERAGES[row.name].split("/"), (2, 4), strict=True):
                values = [number.value for number in row.numbers if number.metric == metric]
                assert len(values) == len(table.sets) - (table.name == "table1")  # Set5 is not in the table
                assert abs(fmean(values) - float(mean)) <= 1.01 * 10**-digits, (row.name, metric)  # rounded or cut off


def test_every_number_says_where_it_stands():
    rows = {(name, row.name): row for name, table in TABLES.items() for row in table.rows}
    assert all(number.source != NOT_ENTERED and number.value for row in rows.values() for number in row.numbers)
    assert {key for key, row in rows.items() if not row.runs and not row.numbers} == set()
    best = rows["table3", "DehazeFormer-B + SPN"]
    assert [best.number(name, "psnr").value for name in ("SOTS-indoor", "SOTS-mix")] == [38.41, 31.57]
    assert rows["table5", "FFANet + CCR"].number("SOTS-indoor", "ssim").value == 0.9937
    assert rows["table4", "NAFNet + SPN"].number("GoPro-test", "ssim_3d").value == 0.9619


def test_whose_the_numbers_are_is_told():
    told = TABLES["table1"].coverage()
    assert told.startswith("Published numbers: 64 from what the paper's authors published with their code")
    assert told.endswith("There is none for Set5.")
    assert "ours stand alone" in TABLES["table6"].coverage()
    assert "from the paper itself" not in " ".join(table.coverage() for table in TABLES.values())


def test_the_papers_slips_are_told():
    notes = " ".join(note for table in TABLES.values() for note in table.notes)
    for slip in ("Manga109 at ×2", "1.3 dB", "Rain100L"):
        assert slip in notes


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_row_can_be_planned_and_evaluated_by_its_columns(table):
    jobs = plan(table, Settings(options=ROOT))
    assert len(jobs) == sum(len(row.runs) for row in table.rows)
    reached = set()
    for job in jobs:
        assert job.options is not None, job.problem
        names = {part.name for part in job.evaluation_sections()}
        assert names & set(table.sets)
        reached |= names
        assert all(column_of(dict.fromkeys(job.options.val.metrics, True), metric) for metric in table.metrics)
        if job.published is not None:
            published = job.published.datasets.test or job.published.datasets.val
            assert {part.name for part in published.values()} == names
            assert job.published.network_g == job.options.network_g
    assert set(table.sets) <= reached


@pytest.mark.parametrize("option, variant", RUNS)
def test_every_run_trains_a_network_of_its_own_name(option, variant):
    assert (variant in runs_of(ROOT / option)) if variant else not runs_of(ROOT / option)
    options = load(ROOT / option, [f"sweep={variant}"] if variant else [])
    assert options.name == Path(option).stem + (f"_{variant}" if variant else "")
    assert options.train is not None


def test_every_run_of_a_sweep_stands_in_a_table():
    files = [f"tables/{file.name}" for file in sorted((ROOT / "tables").glob("*.yml"))]
    every = {(file, run) for file in files for run in runs_of(ROOT / file)}
    made = {run for run in RUNS if run[1]}
    assert made <= every
    again = {run: model_of(*run) for run in every - made}  # trainings that other option files make already
    spn = model_of("dehaze/ffanet_its_spn.yml", None)
    assert len(again) == 4
    for (_, run), model in again.items():
        assert model == spn or run == "loss_weight_0"
    assert all((ROOT / file).read_text().startswith("# ") for file in files)


def model_of(file, run):
    return load(ROOT / file, [f"sweep={run}"] if run else []).model_section()


def values(table, path):
    files = {run.option: run for row in TABLES[table].rows for run in row.runs if run.variant}
    found = []
    for option in files:
        for run in runs_of(ROOT / option):
            value = load(ROOT / option, [f"sweep={run}"]).train.model
            for key in path.split("."):
                value = value[key]
            found.append(value)
    return found


def test_the_axes_are_the_papers():
    assert values("table7", "negatives.steps") == [(100,), (500,), (1000,), (2000,), (100, 500, 1000, 2000)]
    assert values("table8", "contrastive_opt.loss_weight") == [0, 1e-2, 1e-3, 1e-4, 1e-5]
    assert values("table9", "negatives.weight") == [0, 0.01, 0.1, 0.5, 0.9, 0.999]
    assert values("table6", "negatives.type") == ["FrozenNegatives"] * 2
    losses = ["ContrastiveRegularization", "CurricularContrastiveRegularization", "PCLLoss"]
    assert values("table5", "contrastive_opt.type") == losses


def test_unknown_tables():
    with pytest.raises(ValueError, match=r"no table 'tabel1'. Did you mean 'table1'"):
        read_table("tabel1")


GOOD = {"name": "t", "title": "T", "metrics": ["psnr"], "sets": ["A"], "rows": [{"name": "plain"}]}
NUMBER = {"set": "A", "metric": "psnr", "value": 1.0, "source": "a page"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "stands there twice"),
        ({"rows": [{"name": "a", "against": "b"}, {"name": "b"}]}, "does not stand above"),
        ({"rows": [{"name": "a", "numbers": [{**NUMBER, "set": "B"}]}]}, "no such column"),
        ({"rows": [{"name": "a", "numbers": [{"set": "A", "metric": "psnr", "value": 1.0}]}]}, "needs its source"),
        ({"rows": [{"name": "a", "numbers": [{**NUMBER, "value": None}]}]}, "needs its source"),
        ({"pictures": {"B": [0]}}, "no such column"),
        ({"tittle": "x"}, "Extra inputs"),
    ],
)
def test_what_is_no_table(change, message):
    assert Table.model_validate(GOOD)
    with pytest.raises(ValidationError, match=message):
        Table.model_validate({**GOOD, **change})


def test_the_papers_number_comes_before_that_of_the_networks_authors():
    numbers = [{**NUMBER, "value": 2.0, "by": "authors"}, NUMBER]
    table = Table.model_validate({**GOOD, "rows": [{"name": "a", "numbers": numbers}]})
    assert table.rows[0].number("A", "psnr").value == 1.0
    assert table.rows[0].number("B", "psnr") is None
