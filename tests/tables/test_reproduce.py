"""The reproduction of a tiny table, complete or with missing files."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from mcir.cli import main
from mcir.config import load
from mcir.launch import SlurmCluster
from mcir.registry import MODELS
from mcir.tables import evaluation as module
from mcir.tables import reproduce as command
from mcir.tables.commands import PaperTable
from mcir.tables.evaluation import evaluate_run
from mcir.tables.plan import plan
from mcir.tables.published import Table
from mcir.tables.reproduce import reproduce_table
from tests.fake_cluster import FakeCluster
from tests.pages import Page

ROOT = Path(__file__).parents[2]


def save(name, target, seed, variant=()):
    """Write a checkpoint without a training."""
    options = load(f"options/sr/{name}.yml", [*variant, f"manual_seed={seed}"])
    weights = MODELS.build(options.model_section()).weights()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, target)


def save_state(run, options, iteration=2):
    """Write the training state of a training with these options."""
    target = Path(f"experiments/{run}/training_states/{iteration}.state")
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"format": 1, "iteration": iteration, "model": {}, "options": options.dump()}, target)


def save_both(seeds=(0, 1)):
    save("plain", "experiments/plain/models/net_g_2.pth", seeds[0])
    save("spn", "experiments/spn_steps_1/models/net_g_2.pth", seeds[1], ["sweep=steps_1"])


def reproduce(table, log=lambda text: None, **settings):
    return reproduce_table(table, PaperTable(**settings), log)


def read():
    return json.loads(Path("results/table_tiny.json").read_text())


def psnr_cells():
    return [row["sets"]["Two"]["psnr"] for row in read()["rows"]]


def validation(iteration, psnr):
    return json.dumps({"kind": "val", "iteration": iteration, "dataset": "Two", "psnr": psnr, "images": {}}) + "\n"


def test_without_any_training(home, table):
    lines = []
    assert reproduce(table, lines.append) == 1
    text = "\n".join(lines)
    assert "plain  (options/sr/plain.yml)  not trained" in text and "pretrained/plain.pth" in text
    plain, spn, _ = psnr_cells()
    absent = ("ours", "collapse", "std", "evaluated", "trained_otherwise", "difference", "gain", "published_gain")
    published = {"published": 20.5, "by": "paper", "source": "a page", "trials": 0}
    assert plain == {**published, **dict.fromkeys(absent)}
    assert spn["published"] is None and spn["source"] is None
    page = Page(Path("results/table_tiny.html").read_text())
    assert "20.50" in page.cells and "31.25 †" in page.cells
    assert "From another page †: plain." in page.text and "† published by the authors" in page.text
    assert "The other published numbers are from a page." in page.text and "§" not in page.text
    assert "We have no gain" in page.text and "An error." in page.text and not page.pictures


def test_numbers_gains_curves_and_images(home, table):
    save_both()
    Path("experiments/plain/results.jsonl").write_text(validation(1, 10.0) + validation(2, 11.0))
    lines = validation(1, 10.0) + validation(2, 99.0) + validation(2, 12.0)
    Path("experiments/spn_steps_1/results.jsonl").write_text(lines)
    assert reproduce(table) == 0
    scores = []
    for run in ("plain", "spn_steps_1"):
        results = json.loads(Path(f"results/{run}/results.json").read_text())
        scores.append(results[f"experiments/{run}/models/net_g_2.pth"]["Two"])
    plain, spn, other = read()["rows"]
    psnr = scores[0]["psnr"]["mean"]
    assert plain["sets"]["Two"]["psnr"]["ours"] == psnr
    assert plain["sets"]["Two"]["psnr"]["difference"] == pytest.approx(psnr - 20.5)
    assert plain["sets"]["Two"]["ssim"]["ours"] == scores[0]["ssim_y"]["mean"]  # a column names any variant of a metric
    gain = scores[1]["psnr"]["mean"] - psnr
    assert abs(gain) > 1e-3
    assert spn["sets"]["Two"]["psnr"]["gain"] == pytest.approx(gain)
    assert plain["sets"]["Elsewhere"]["psnr"]["ours"] is None and other["weights"] == []

    page = Page(Path("results/table_tiny.html").read_text())
    for text in (f"{psnr:.2f}", f"{psnr - 20.5:+.2f}", f"{gain:+.3f}", "31.25 †", "a network of others"):
        assert text in page.cells, text
    assert page.tags.count("svg") == 2 and "99.0" not in page.text  # the last value of an iteration counts
    assert "gain over plain per data set" in page.text and "during training" in page.text
    assert [image.shape for image in page.pictures] == [(24, 28, 3)] * 7  # there is no image 9
    degraded, first, second, gt, *_, divergence = page.pictures
    assert (degraded[::2, ::2] == degraded[1::2, 1::2]).all() and not (gt[::2, ::2] == gt[1::2, 1::2]).all()
    assert (first != second).any() and divergence.max() > 240  # drawn to its own scale
    shown = scores[0]["psnr"]["images"]["0"], scores[0]["ssim_y"]["images"]["0"]
    assert f"plain: psnr {shown[0]:.2f} dB, ssim_y {shown[1]:.4f}" in page.words
    assert "Two: 0" in page.words and "divergence |plain − plain + SPN|" in page.text
    assert f"| {gain:+.3f} |" in Path("results/table_tiny.md").read_text()


def test_equal_networks_have_no_difference(home, table):
    save_both(seeds=(0, 0))
    reproduce(table)
    difference = Page(Path("results/table_tiny.html").read_text()).pictures[-1]
    assert (difference == difference[0, 0]).all()
    assert psnr_cells()[1]["gain"] == 0


def test_published_gains_are_next_to_ours(home, table):
    tree = table.model_dump()
    tree["rows"][1]["numbers"] = [{"set": "Two", "metric": "psnr", "value": 20.75, "source": "a page"}]
    assert reproduce(Table.model_validate(tree)) == 1
    assert psnr_cells()[1]["published_gain"] == 0.25
    page = Page(Path("results/table_tiny.html").read_text())
    assert "+0.25" in page.cells and "We have no gain" in page.text


# -- origin of the weights ---------------------------------------------------------------------------------------------


def test_published_weights_are_marked_and_have_no_gain(home, table):
    save("plain", "pretrained/plain.pth", 3)
    save("spn", "experiments/spn_steps_1/models/net_g_2.pth", 1, ["sweep=steps_1"])
    assert reproduce(table) == 0
    found = json.loads(Path("results/plain_published/results.json").read_text())
    plain, spn, _ = psnr_cells()
    assert read()["rows"][0]["weights"] == ["pretrained/plain.pth"]
    assert plain["ours"] == found["pretrained/plain.pth"]["Two"]["psnr"]["mean"]
    assert (plain["evaluated"], spn["evaluated"]) == ("published", "own")
    assert spn["gain"] is None
    page = Page(Path("results/table_tiny.html").read_text())
    assert f"{plain['ours']:.2f} §" in page.cells and f"{spn['ours']:.2f}" in page.cells
    assert "plain + SPN: plain has published weights from another training, so no gain is shown." in page.text


def test_trainings_with_other_options_are_marked_and_have_no_gain(home, table):
    save_both()
    save_state("plain", load("options/sr/plain.yml"))
    changed = ["sweep=steps_1", "train.contrastive_opt.loss_weight=0.5", "logger.print_freq=7"]
    save_state("spn_steps_1", load("options/sr/spn.yml", changed))
    lines = []
    assert reproduce(table, lines.append) == 1
    plain, spn, _ = psnr_cells()
    assert plain["trained_otherwise"] == []
    assert spn["trained_otherwise"] == ["train.contrastive_opt.loss_weight 0.5 instead of nothing"]
    assert spn["gain"] is None
    assert "trained with other options: experiments/spn_steps_1/models/net_g_2.pth; train.contr" in "\n".join(lines)
    for suffix in ("md", "html"):
        text = Path(f"results/table_tiny.{suffix}").read_text()
        assert f"{spn['ours']:.2f} ¶" in text and "¶ plain + SPN was trained with other options: train.contr" in text
    overrides = ["train.contrastive_opt.loss_weight=0.5"]
    assert reproduce(table, set=overrides) == 0
    assert psnr_cells()[1]["trained_otherwise"] == []
    assert read()["overrides"] == read()["rows"][0]["overrides_left_out"] == overrides
    for suffix in ("md", "html"):
        text = Path(f"results/table_tiny.{suffix}").read_text()
        assert "overrides: train.contrastive_opt.loss_weight=0.5." in text
        assert "plain ignores train.contrastive_opt.loss_weight=0.5: it has no such section." in text


def test_an_intermediate_checkpoint_of_a_longer_training_is_a_training_with_other_options(home, table):
    save("plain", "experiments/plain/models/net_g_1.pth", 0)
    save_state("plain", load("options/sr/plain.yml"), 1)
    assert reproduce(table, row=["plain"], set=["train.total_iter=1"]) == 1
    assert psnr_cells()[0]["trained_otherwise"] == ["train.total_iter 2 instead of 1"]


# -- evaluation -------------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluated(monkeypatch):
    """The checkpoints that were evaluated."""
    files, test = [], module.Tester.test
    monkeypatch.setattr(module.Tester, "test", lambda self, names: files.append(names[0]) or test(self, names))
    return files


@pytest.mark.parametrize("change", ["weights", "metrics", "data", "version", "again"])
def test_an_evaluation_is_repeated_only_if_something_has_changed(home, table, evaluated, change, monkeypatch):
    def evaluate(again=False, **settings):
        return evaluate_run(plan(table, PaperTable(row=["plain"], **settings))[0], again, lambda text: None)

    save("plain", "experiments/plain/models/net_g_2.pth", 0)
    first = evaluate().mean("Two", "psnr")
    assert evaluate().mean("Two", "psnr") == first and len(evaluated) == 1
    overrides = {"metrics": ["val.metrics.psnr.crop_border=4"], "data": ["datasets.val.max_images=1"]}
    if change == "version":
        monkeypatch.setattr(module.mcir, "__version__", "99")
    elif change == "weights":
        save("plain", "experiments/plain/models/net_g_2.pth", 5)
    again = evaluate(change == "again", set=overrides.get(change, []))
    assert len(evaluated) == 2
    assert (again.mean("Two", "psnr") == first) == (change in ("version", "again"))


def test_data_sets_are_evaluated_when_they_exist(home, table, evaluated):
    save("plain", "experiments/plain/models/net_g_2.pth", 0)
    file = Path("options/sr/plain.yml")
    tree = yaml.safe_load(file.read_text())
    tree["datasets"]["val_2"] = {**tree["datasets"]["val"], "name": "Elsewhere", "dataroot_gt": str(home / "far")}
    file.write_text(yaml.safe_dump(tree))
    lines = []
    assert reproduce(table, lines.append, row=["plain"]) == 1
    cells = read()["rows"][0]["sets"]
    assert cells["Two"]["psnr"]["ours"] > 0 and cells["Elsewhere"]["psnr"]["ours"] is None
    assert f"{home}/far is missing" in "\n".join(lines)
    (home / "images").rename(home / "far")
    (home / "images").symlink_to(home / "far")
    assert reproduce(table, lines.append, row=["plain"]) == 0
    cells = read()["rows"][0]["sets"]
    assert cells["Elsewhere"]["psnr"]["ours"] == cells["Two"]["psnr"]["ours"] and len(evaluated) == 2
    assert [line for line in lines if "evaluating" in line][-1].endswith("net_g_2.pth on Elsewhere")


def test_pictures_require_only_the_sets_that_are_present(home, table):
    save_both()
    for name in ("plain", "spn"):
        file = Path(f"options/sr/{name}.yml")
        tree = yaml.safe_load(file.read_text())
        tree["datasets"]["val_0"] = {**tree["datasets"]["val"], "name": "Elsewhere", "dataroot_gt": str(home / "far")}
        file.write_text(yaml.safe_dump(tree))
    assert reproduce(table) == 1
    page = Page(Path("results/table_tiny.html").read_text())
    assert len(page.pictures) == 7 and "Two: 0" in page.words


def test_a_damaged_checkpoint_concerns_only_its_row(home, table):
    save_both()
    file = Path("experiments/plain/models/net_g_2.pth")
    file.write_bytes(file.read_bytes()[:500])
    lines = []
    assert reproduce(table, lines.append) == 1
    plain, spn, _ = read()["rows"]
    assert plain["sets"]["Two"]["psnr"]["ours"] is None and spn["sets"]["Two"]["psnr"]["ours"] > 0
    assert str(file) in plain["problems"][0] and spn["problems"] == []
    assert f"plain: {plain['problems'][0]}" in "\n".join(lines)


def test_results_stay_when_images_are_damaged_later(home, table):
    save_both()
    reproduce(table)
    before = read()
    (home / "images/0.png").write_bytes(b"no image")
    assert reproduce(table) == 0
    page = Page(Path("results/table_tiny.html").read_text())
    assert read() == before and not page.pictures
    assert re.search(r"plain \+ SPN, Two: .*0", page.text)


# -- training ---------------------------------------------------------------------------------------------------------


def test_missing_trainings_start_and_stopped_trainings_resume(home, table, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    lines = []
    assert reproduce(table, lines.append, train=True) == 0
    assert sum(" mcir.train " in text for text in lines) == 2
    assert [cell["trained_otherwise"] for cell in psnr_cells()] == [[], [], None]
    lines.clear()
    assert reproduce(table, lines.append, train=True, row=["*SPN"], set=["train.total_iter=3"]) == 0
    assert sum(" mcir.train " in text for text in lines) == 2
    log = [json.loads(text) for text in Path("experiments/spn_steps_1/results.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in log if record["kind"] == "val"] == [1, 2, 3]


def test_a_sweep_continues_after_a_collapse_and_does_not_repeat_it(home, table, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    file = Path("options/sr/plain.yml")
    tame = file.read_text()
    tree = yaml.safe_load(tame)
    tree["train"]["optim_g"] = {"type": "SGD", "lr": 1000}
    tree["train"]["pixel_opt"]["loss_weight"] = 1e9
    file.write_text(yaml.safe_dump(tree))
    save("plain", "pretrained/plain.pth", 3)
    lines = []
    assert reproduce(table, lines.append, train=True) == 3
    assert lines[-1] == "collapsed: plain (Two): iteration 2"
    again = "to train it again, change its options or remove experiments/plain"
    assert f"plain: collapsed at iteration 2: NaN or infinite values of l_pix, grad_norm; {again}." in lines
    plain, spn, _ = psnr_cells()
    assert (plain["ours"], plain["collapse"], plain["difference"]) == ("collapsed", "iteration 2", None)
    assert spn["ours"] > 0 and spn["gain"] is None and read()["rows"][0]["weights"] == []
    page = Page(Path("results/table_tiny.html").read_text())
    assert "collapsed (iteration 2)" in page.cells and "“collapsed”: the training diverged" in page.text
    lines.clear()
    assert reproduce(table, lines.append, train=True) == 3
    assert not any(" mcir.train " in text for text in lines)
    assert any(text.startswith("plain: collapsed at iteration 2") and again in text for text in lines)
    file.write_text(tame)
    assert reproduce(table, lines.append, train=True) == 0
    assert psnr_cells()[0]["ours"] > 0 and not Path("experiments/plain/collapse.json").exists()
    assert len(list(Path("experiments").glob("plain_archived_*/collapse.json"))) == 1  # it started from the beginning


def test_a_network_below_its_input_has_collapsed_unless_it_is_published(home, table):
    def blacken(file):
        weights = torch.load(file)
        weights["params"]["conv_last.bias"] -= 9
        torch.save(weights, file)

    save_both()
    blacken("experiments/spn_steps_1/models/net_g_2.pth")
    lines = []
    assert reproduce(table, lines.append) == 3
    assert lines[-1] == "collapsed: plain + SPN (Two): below the input"
    plain, spn, _ = psnr_cells()
    assert plain["collapse"] is None and spn["gain"] is None
    assert (spn["ours"], spn["collapse"]) == ("collapsed", "below the input")
    page = Page(Path("results/table_tiny.html").read_text())
    assert page.cells.count("collapsed (below the input)") == 4  # PSNR, SSIM and their gains
    Path("experiments/plain").rename("elsewhere")
    save("plain", "pretrained/plain.pth", 3)
    blacken("pretrained/plain.pth")
    reproduce(table, row=["plain"])
    assert psnr_cells()[0]["ours"] > 0


def test_missing_training_data_are_reported(home, table):
    (home / "images").rename(home / "moved")
    lines = []
    assert reproduce(table, lines.append, train=True) == 1
    assert f"plain: cannot be trained. Missing: {home}/images" in lines


def test_slurm_jobs_are_submitted_without_waiting(home, table, monkeypatch, capsys):
    cluster = FakeCluster(home / "cluster")
    cluster.block()
    monkeypatch.setenv("CLUSTER", str(cluster.home))
    monkeypatch.setenv("PATH", f"{cluster.home / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(command, "read_table", lambda name: table)
    monkeypatch.setattr(SlurmCluster, "poll_seconds", 0.2)
    arguments = ["reproduce", "table4", "--train", "--launcher", "slurm", "--slurm", "partition=gpu", "--no-wait"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "plain: job 100 for experiments/plain is submitted; its log: results/slurm/plain/100_0_log.out" in text
    assert "plain + SPN: job 101 for experiments/spn_steps_1 is submitted" in text
    assert "--partition=gpu" in cluster.script(100) and not Path("results/table_tiny.json").exists()
    (home / "images").rename(home / "moved")
    cluster.end(100)
    assert reproduce(table, train=True, launcher="slurm", no_wait=True) == 1
    assert cluster.jobs() == [100, 101]
    capsys.readouterr()
    assert main(["reproduce", "table4", "--launcher", "slurm"]) == 1
    assert "--launcher slurm needs --train" in capsys.readouterr().err


# -- the command ------------------------------------------------------------------------------------------------------


def test_missing_data_are_listed_once(home, capsys):
    main(["reproduce", "table1", "--options", str(ROOT / "options")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("EDSR-light ×2  (") and lines[10].startswith("SwinIR ×4 + SPN  (") and not lines[11]
    (number,) = [number for number, line in enumerate(lines) if "belongs in datasets/DIV2K" in line]
    assert lines[number + 1].startswith("    needed by: EDSR-light ×2, EDSR-light ×2 + SPN, EDSR-light ×4")
    main(["reproduce", "table7", "--options", str(ROOT / "options")])
    assert "table7.yml, sweep=steps_500)  not trained" in capsys.readouterr().out


def test_the_help_shows_the_titles_of_the_tables(capsys):
    with pytest.raises(SystemExit):
        main(["reproduce", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "table 7 of the MCIR paper: The update step s of the negatives: FFANet, SOTS-indoor" in text
    assert "table 2 of the RCL paper: Super-resolution ×2 of clean" in text


def test_the_command(home, capsys):
    assert main(["reproduce", "table4", "--options", str(ROOT / "options"), "--results", "out"]) == 1
    text = capsys.readouterr().out
    assert "NAFNet + SPN" in text and "mcir prepare verify gopro datasets/GoPro" in text
    assert "32.93" in Path("out/table4.md").read_text()
    assert main(["reproduce", "table4", "--row", "x", "--options", str(ROOT / "options")]) == 1
    assert "--row: no row of table4 matches 'x'" in capsys.readouterr().err
