"""A tiny table made whole: trained, evaluated, told of; and what is said when something is not there."""

import json
import re
from pathlib import Path

import pytest
import torch

from mcir.cli import main
from mcir.config import load
from mcir.registry import MODELS
from mcir.tables import evaluated as module
from mcir.tables.paper import Table
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


def state(run, options, iteration=2):
    """Write the training state of a run that was made with other options."""
    target = Path(f"experiments/{run}/training_states/{iteration}.state")
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"format": 1, "iteration": iteration, "options": options.dump()}, target)


def trained():
    save("plain", "experiments/plain/models/net_g_2.pth", 0)
    save("spn", "experiments/spn_steps_1/models/net_g_2.pth", 1, ["sweep=steps_1"])


def read():
    return json.loads(Path("results/table_tiny.json").read_text())


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
        "evaluated": None,
        "trained_otherwise": None,
        "difference": None,
        "gain": None,
        "published_gain": None,
    }
    assert data["rows"][1]["sets"]["Two"]["psnr"]["source"] == "not entered: to be read from the paper"
    page = Page(Path("results/table_tiny.html").read_text())
    assert "20.50" in page.cells and "31.25 †" in page.cells
    assert "From a page: plain (Two)." in page.text and "From another page †: plain (Elsewhere)." in page.text
    assert "no gain of ours to tell of" in page.text and "A slip." in page.text and not page.pictures


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
    assert page.tags.count("svg") == 2 and "99" not in page.text.replace(
        "99th", ""
    )  # of an iteration that stands there twice, the last
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
    make(table, Settings(), lambda _: None)
    assert asked[2:] == [["experiments/plain/models/net_g_2.pth"]]


def test_published_weights_are_evaluated_by_their_own_options(home, table):
    save("plain", "pretrained/plain.pth", 3)
    assert make(table, Settings(rows=["plain"]), lambda _: None) == 0
    found = json.loads(Path("results/plain_published/results.json").read_text())
    data = read()
    assert data["rows"][0]["weights"] == ["pretrained/plain.pth"]
    assert data["rows"][0]["sets"]["Two"]["psnr"]["ours"] == found["pretrained/plain.pth"]["Two"]["psnr"]["mean"]


def test_published_weights_are_marked_and_no_gain_is_taken_against_them(home, table):
    save("plain", "pretrained/plain.pth", 3)
    save("spn", "experiments/spn_steps_1/models/net_g_2.pth", 1, ["sweep=steps_1"])
    assert make(table, Settings(), lambda _: None) == 0
    plain, pushed, _ = read()["rows"]
    assert plain["sets"]["Two"]["psnr"]["evaluated"] == "published"
    assert pushed["sets"]["Two"]["psnr"]["evaluated"] == "own"
    assert pushed["sets"]["Two"]["psnr"]["gain"] is None and pushed["mean_gain"] == {}
    page = Page(Path("results/table_tiny.html").read_text())
    assert f"{plain['sets']['Two']['psnr']['ours']:.2f} §" in page.cells
    assert f"{pushed['sets']['Two']['psnr']['ours']:.2f}" in page.cells
    assert "plain + SPN: plain is of published weights, of another training; no gain is told" in page.text


def test_weights_of_another_training_are_told_apart(home, table):
    trained()
    state("plain", load("options/sr/plain.yml"))
    pushed = ["sweep=steps_1", "train.contrastive_opt.loss_weight=0.5", "logger.print_freq=7"]
    state("spn_steps_1", load("options/sr/spn.yml", pushed))
    said = []
    assert make(table, Settings(), said.append) == 1
    plain, other, _ = read()["rows"]
    assert plain["sets"]["Two"]["psnr"]["trained_otherwise"] == []
    cell = other["sets"]["Two"]["psnr"]
    assert cell["trained_otherwise"] == ["train.contrastive_opt.loss_weight 0.5 instead of nothing"]
    assert cell["gain"] is None and other["mean_gain"] == {}
    assert "trained otherwise: experiments/spn_steps_1/models/net_g_2.pth; train.contrastive_opt" in "\n".join(said)
    for suffix in ("md", "html"):
        text = Path(f"results/table_tiny.{suffix}").read_text()
        assert f"{cell['ours']:.2f} ¶" in text and "¶ plain + SPN was trained otherwise: train.contrastive_opt" in text
    assert make(table, Settings(overrides=["train.contrastive_opt.loss_weight=0.5"]), said.append) == 0
    data = read()
    assert data["overrides"] == ["train.contrastive_opt.loss_weight=0.5"]
    assert data["rows"][1]["sets"]["Two"]["psnr"]["trained_otherwise"] == []
    assert data["rows"][0]["overrides_left_out"] == data["overrides"]
    for suffix in ("md", "html"):
        assert "Laid over every option file" in Path(f"results/table_tiny.{suffix}").read_text()


def test_a_longer_training_passed_by_is_no_training_of_fewer_iterations(home, table):
    save("plain", "experiments/plain/models/net_g_1.pth", 0)
    state("plain", load("options/sr/plain.yml"), 1)
    assert make(table, Settings(rows=["plain"], overrides=["train.total_iter=1"]), lambda _: None) == 1
    assert read()["rows"][0]["sets"]["Two"]["psnr"]["trained_otherwise"] == ["train.total_iter 2 instead of 1"]


def test_published_gains_stand_beside_ours(home, table):
    numbers = [{"set": "Two", "metric": "psnr", "value": 20.75, "source": "a page"}]
    tree = table.model_dump()
    tree["rows"][1]["numbers"] = numbers
    assert make(Table.model_validate(tree), Settings(), lambda _: None) == 1
    assert read()["rows"][1]["mean_published_gain"] == {"psnr": 0.25}
    page = Page(Path("results/table_tiny.html").read_text())
    assert "+0.250" in page.cells and "no gain of ours" in page.text


def test_the_divergence_is_drawn_to_its_own_scale(home, table):
    trained()
    make(table, Settings(), lambda _: None)
    page = Page(Path("results/table_tiny.html").read_text())
    assert re.search(r"\(bright: \d+\.\d of 255, the 99th percentile", page.text)
    assert page.pictures[-1].max() > 240


def test_images_that_went_bad_leave_the_numbers(home, table):
    trained()
    make(table, Settings(), lambda _: None)
    before = read()
    (home / "pictures/0.png").write_bytes(b"no picture")
    assert make(table, Settings(), lambda _: None) == 0
    page = Page(Path("results/table_tiny.html").read_text())
    assert read() == before and not page.pictures
    assert re.search(r"plain \+ SPN, Two: .*0", page.text)


def test_what_is_missing_is_told_once_for_the_table(home, capsys):
    main(["reproduce", "table1", "--options", str(ROOT / "options")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("EDSR-light ×2  (") and lines[10].startswith("SwinIR ×4 + SPN  (") and not lines[11]
    assert sum("belongs in datasets/DIV2K" in line for line in lines) == 1
    following = lines[next(number for number, line in enumerate(lines) if "belongs in datasets/DIV2K" in line) + 1]
    assert following.startswith("    for: EDSR-light ×2, EDSR-light ×2 + SPN, EDSR-light ×4")
    main(["reproduce", "table7", "--options", str(ROOT / "options")])
    assert "table7.yml, sweep=steps_500)  not trained" in capsys.readouterr().out


def test_the_help_says_what_a_table_shows(capsys):
    with pytest.raises(SystemExit):
        main(["reproduce", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "Table 7 of the paper: The update step s of the negatives: FFANet, SOTS-indoor" in told
    assert "Table 2 of residual contrastive learning: Super-resolution ×2 by proxy" in told


def test_the_command_lists_a_table(home, capsys):
    assert main(["reproduce", "table4", "--options", str(ROOT / "options"), "--results", "out"]) == 1
    told = capsys.readouterr().out
    assert "NAFNet + SPN" in told and "mcir prepare verify gopro datasets/GoPro" in told
    assert "32.93" in Path("out/table4.md").read_text()
    assert main(["reproduce", "table4", "--row", "x", "--options", str(ROOT / "options")]) == 1
    assert "No row of table4 fits 'x'" in capsys.readouterr().err
