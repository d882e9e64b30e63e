"""The tables: well-formed, every row has its option files, every number its source, none is invented."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from mcir.config import load, runs_of
from mcir.tables.paper import NOT_ENTERED, Table, known_tables, read_table
from mcir.tables.plan import Settings, plan
from mcir.tables.reproduce import _column

ROOT = Path(__file__).parents[2] / "options"
TABLES = {name: read_table(name) for name in known_tables()}
RUNS = sorted(
    {(run.option, run.variant) for table in TABLES.values() for row in table.rows for run in row.runs}, key=str
)

KNOWN = """
README of the paper's code: FFA+SPN 39.80/0.9947 indoor; EDSR-light x4 Urban100 26.12/0.7878 (EDSR 26.04/0.7849, +PCL
26.07/0.7863); NAFNet+SPN 32.93/0.9619; IDT 40.74/0.9884, 32.10/0.9343. SwinIR: 31.67/0.9226. FFA-Net: 36.39/0.9886.
IDT: DDN 33.80/0.9407, DID 34.85/0.9401, SPA 47.34/0.9929. NAFNet w32: 32.8705/0.9606.
"""


def test_all_nine_are_here():
    assert list(TABLES) == [f"table{number}" for number in range(1, 10)]
    assert all(table.name == name for name, table in TABLES.items())


def test_numbers_are_those_that_were_read_somewhere():
    known = {float(text) for text in re.findall(r"\d+\.\d+", KNOWN)}
    numbers = [number for table in TABLES.values() for row in table.rows for number in row.numbers]
    assert {number.value for number in numbers} == known
    assert all((number.value is None) == (number.source == NOT_ENTERED) for number in numbers)
    spn = next(row for row in TABLES["table1"].rows if row.name == "EDSR-light ×4 + SPN")
    assert (spn.number("Urban100", "psnr_y").value, spn.number("Urban100", "ssim_y").value) == (26.12, 0.7878)
    rain = next(row for row in TABLES["table2"].rows if row.name == "IDT")
    assert [rain.number(f"{name}-test", "psnr_y").value for name in ("Rain200L", "Rain200H", "DDN", "DID", "SPA")] == [
        40.74, 32.10, 33.80, 34.85, 47.34,
    ]  # fmt: skip


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
        assert all(_column(dict.fromkeys(job.options.val.metrics, True), metric) for metric in table.metrics)
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
