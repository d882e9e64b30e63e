"""A tiny table made whole: trained, evaluated, told of; and what is said when something is not there."""

import json
import os
from pathlib import Path

import pytest
import torch

from mcir.cli import main
from mcir.config import load
from mcir.registry import MODELS
from mcir.tables import reproduce as module
from mcir.tables.plan import Settings
from mcir.tables.reproduce import make
from tests.tables.pages import Page

ROOT = Path(__file__).parents[2]


def save(name, target, seed, variant=()):
    """Write the checkpoint of a run that was never made."""
    options = load(f"options/sr/{name}.yml", [*variant, f"manual_seed={seed}"])
    weights = MODELS.build(options.model_section()).weights()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, target)


def trained():
    save("plain", "experiments/plain/models/net_g_2.pth", 0)
    save("spn", "experiments/spn_steps_1/models/net_g_2.pth", 1, ["sweep=steps_1"])


def line(iteration, psnr):
    return json.dumps({"kind": "val", "iteration": iteration, "dataset": "Two", "psnr": psnr, "images": {}}) + "\n"


def test_nothing_is_here_yet(home, table):
    said = []
    assert make(table, Settings(), said.append) == 1
    told = "\n".join(said)
    assert "plain  (options/sr/plain.yml)  not trained" in told and "pretrained/plain.pth" in told
    data = json.loads(Path("results/table_tiny.json").read_text())
    cell = data["rows"][0]["sets"]["Two"]["psnr"]
    assert cell == {
        "published": 20.5,
        "by": "paper",
        "source": "a page",
        "ours": None,
        "difference": None,
        "gain": None,
    }
    assert data["rows"][1]["sets"]["Two"]["psnr"]["source"] == "not entered: to be read from the paper"
    page = Page(Path("results/table_tiny.html").read_text())
    assert "20.50" in page.cells and "31.25 †" in page.cells
    assert "From a page: plain (Two)." in page.text and "From another page †: plain (Elsewhere)." in page.text
    assert "no gain to tell of" in page.text and "A slip." in page.text and not page.pictures


def test_numbers_gains_curves_and_pictures(home, table):
    trained()
    Path("experiments/plain/results.jsonl").write_text(line(1, 10.0) + line(2, 11.0))
    Path("experiments/spn_steps_1/results.jsonl").write_text(line(1, 10.0) + line(2, 99.0) + line(2, 12.0))
    assert make(table, Settings(), lambda _: None) == 0
    ours = {
        name: json.loads(Path(f"results/{run}/results.json").read_text())[f"experiments/{run}/models/net_g_2.pth"][
            "Two"
        ]
        for name, run in (("plain", "plain"), ("plain + SPN", "spn_steps_1"))
    }
    data = json.loads(Path("results/table_tiny.json").read_text())
    plain, pushed, other = data["rows"]
    psnr = ours["plain"]["psnr"]["mean"]
    assert plain["sets"]["Two"]["psnr"]["ours"] == psnr
    assert plain["sets"]["Two"]["psnr"]["difference"] == pytest.approx(psnr - 20.5)
    assert plain["sets"]["Two"]["ssim"]["ours"] == ours["plain"]["ssim_y"]["mean"]  # its column by any name of it
    gain = ours["plain + SPN"]["psnr"]["mean"] - psnr
    assert abs(gain) > 1e-3
    assert pushed["sets"]["Two"]["psnr"]["gain"] == pytest.approx(gain)
    assert pushed["mean_gain"]["psnr"] == pytest.approx(gain)
    assert plain["sets"]["Elsewhere"]["psnr"]["ours"] is None and other["weights"] == []

    page = Page(Path("results/table_tiny.html").read_text())
    for text in (f"{psnr:.2f}", f"{psnr - 20.5:+.2f}", f"{gain:+.3f}", "31.25 †", "another's network"):
        assert text in page.cells, text
    assert page.tags.count("svg") == 2 and "99" not in page.text  # of an iteration that stands there twice, the last
    assert "gain over plain per set" in page.text and "while training" in page.text
    assert [picture.shape for picture in page.pictures] == [(24, 28, 3)] * 5  # there is no image 9
    given, first, second, gt, divergence = page.pictures
    assert (given[::2, ::2] == given[1::2, 1::2]).all() and not (gt[::2, ::2] == gt[1::2, 1::2]).all()
    assert (first != second).any() and divergence.any()
    assert f"| {gain:+.3f} |" in Path("results/table_tiny.md").read_text()


def test_divergence_of_equal_networks_is_nothing(home, table):
    save("plain", "experiments/plain/models/net_g_2.pth", 0)
    save("spn", "experiments/spn_steps_1/models/net_g_2.pth", 0, ["sweep=steps_1"])
    make(table, Settings(), lambda _: None)
    divergence = Page(Path("results/table_tiny.html").read_text()).pictures[-1]
    assert (divergence == divergence[0, 0]).all()
    assert json.loads(Path("results/table_tiny.json").read_text())["rows"][1]["mean_gain"]["psnr"] == 0


def test_an_evaluation_is_not_repeated_for_the_same_weights(home, table, monkeypatch):
    trained()
    make(table, Settings(), lambda _: None)
    asked = []
    of_tester = module.Tester.test
    monkeypatch.setattr(module.Tester, "test", lambda self, files: asked.append(files) or of_tester(self, files))
    assert make(table, Settings(), lambda _: None) == 0 and asked == []
    make(table, Settings(again=True), lambda _: None)
    assert len(asked) == 2
    save("plain", "experiments/plain/models/net_g_2.pth", 5)
    os.utime("results/plain/results.json", (1, 1))  # older than the weights
    make(table, Settings(), lambda _: None)
    assert asked[2:] == [["experiments/plain/models/net_g_2.pth"]]


def test_published_weights_are_evaluated_by_their_own_options(home, table):
    save("plain", "pretrained/plain.pth", 3)
    assert make(table, Settings(rows="plain"), lambda _: None) == 0
    found = json.loads(Path("results/plain_published/results.json").read_text())
    data = json.loads(Path("results/table_tiny.json").read_text())
    assert data["rows"][0]["weights"] == ["pretrained/plain.pth"]
    assert data["rows"][0]["sets"]["Two"]["psnr"]["ours"] == found["pretrained/plain.pth"]["Two"]["psnr"]["mean"]


def test_the_command_lists_a_table(home, capsys):
    assert main(["reproduce", "table4", "--options", str(ROOT / "options"), "--results", "out"]) == 1
    told = capsys.readouterr().out
    assert "NAFNet + SPN" in told and "mcir prepare verify gopro datasets/GoPro" in told
    assert "32.93" in Path("out/table4.md").read_text()
    assert main(["reproduce", "table4", "--row", "x", "--options", str(ROOT / "options")]) == 1
    assert "No row of table4 fits 'x'" in capsys.readouterr().err
