"""Figure 2: the paper's gains and ours."""

import json
from pathlib import Path

import pytest

from mcir.cli import main
from mcir.tables import gains_figure as module
from mcir.tables.commands import GainsFigure
from mcir.tables.gains_figure import reproduce_gains
from mcir.tables.published import Table
from mcir.tables.results import Cell
from tests.pages import Page
from tests.tables.test_reproduce import ROOT, save_both


def results(folder="results"):
    return json.loads(Path(folder, "fig2.json").read_text())["gains"], Page(Path(folder, "fig2.html").read_text())


@pytest.fixture
def with_numbers(table, monkeypatch):
    tree = table.model_dump()
    tree["rows"][1]["numbers"] = [{"set": "Two", "metric": "psnr", "value": 20.75, "source": "a page"}]
    tree["rows"][1]["numbers"] += [{"set": "Elsewhere", "metric": "psnr", "value": 31.0, "source": "a page"}]
    monkeypatch.setattr(module, "TASKS", {"table_tiny": "Enlarging"})
    monkeypatch.setattr(module, "read_table", lambda name: Table.model_validate(tree))


def test_our_gains_are_next_to_those_of_the_paper(home, with_numbers):
    save_both()
    assert reproduce_gains(GainsFigure(), lambda text: None) == 1
    means = []
    for run in ("plain", "spn_steps_1"):
        (evaluation,) = json.loads(Path(f"results/{run}/results.json").read_text()).values()
        means.append(evaluation["Two"]["psnr"]["mean"])
    two, elsewhere = results()[0]
    assert two == {
        "table": "table_tiny",
        "row": "plain + SPN",
        "against": "plain",
        "metric": "psnr",
        "set": "Two",
        "published": 0.25,
        "ours": pytest.approx(means[1] - means[0]),
        "collapse": None,
    }
    assert (elsewhere["set"], elsewhere["published"], elsewhere["ours"]) == ("Elsewhere", -0.25, None)
    page = results()[1]
    assert page.tags.count("rect") == 3 and page.tags.count("svg") == 1
    assert {"+0.25", f"{two['ours']:+.2f}", "-0.25", "–"} <= set(page.cells)
    assert "Enlarging (table_tiny)" in page.words


def test_without_any_training_the_paper_alone_is_shown(home, with_numbers):
    lines = []
    assert reproduce_gains(GainsFigure(), lines.append) == 1
    gains, page = results()
    assert [(gain["ours"], gain["collapse"]) for gain in gains] == [(None, None)] * 2 and page.tags.count("rect") == 2
    assert "plain  (options/sr/plain.yml)  not trained" in "\n".join(lines)


def test_a_collapsed_training_is_a_result(home, with_numbers, monkeypatch):
    results_of = module.evaluate_trainings

    def with_collapse(*arguments):
        found = results_of(*arguments)
        found.cells |= dict.fromkeys(
            [("plain + SPN", "Two"), ("plain + SPN", "Elsewhere")], Cell({}, collapse="iteration 1")
        )
        return found

    monkeypatch.setattr(module, "evaluate_trainings", with_collapse)
    assert reproduce_gains(GainsFigure(), lambda text: None) == 0
    gains, page = results()
    assert [(gain["ours"], gain["collapse"]) for gain in gains] == [(None, "iteration 1")] * 2
    assert page.cells.count("collapsed (iteration 1)") == 2


def test_the_command(home, capsys):
    assert main(["reproduce", "fig2", "--options", str(ROOT / "options"), "--results", "out"]) == 1
    gains, page = results("out")
    published = {(gain["row"], gain["set"]): gain["published"] for gain in gains}
    expected = {  # stated in the introduction of the paper
        ("EDSR-light ×4 + SPN", "Manga109"): 0.16,
        ("SwinIR-light ×4 + SPN", "Manga109"): 0.12,
        ("IDT + SPN", "Rain200L-test"): 0.38,
        ("IDT + SPN", "SPA-test"): 0.70,
        ("FFANet + SPN", "SOTS-indoor"): 3.41,
        ("DehazeFormer-B + SPN", "SOTS-indoor"): 0.57,
    }
    assert {key: published[key] for key in expected} == pytest.approx(expected)
    assert "+3.41" in page.cells and "Avg" not in page.cells
    assert page.words.count("Deblurring (table4)") == 2  # in the contents and above the figures
    assert "mcir prepare verify gopro datasets/GoPro" in capsys.readouterr().out
