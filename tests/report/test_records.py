"""Tests of reading the folder of a training: complete, resumed, incomplete, old, or empty."""

import json
import math
from pathlib import Path

import pytest

from mcir.checked_json import as_json
from mcir.report.records import Collapse, find_run, read_collapse, read_run
from tests.report.runs import START, as_lines, train_line, val_line, write_run


def test_a_complete_run(tmp_path):
    run = read_run(write_run(tmp_path / "spn"))
    assert (run.name, run.iteration, run.total, run.state) == ("spn", 400, 400, "finished: 400 iterations")
    assert run.scalars["l_pix"][:2] == [(10, 0.1), (20, 0.05)] and len(run.scalars["lr"]) == 40
    assert not {"kind", "iteration", "dataset", "images", "unit"} & run.scalars.keys()
    psnr = run.metrics["photographs"]["psnr"]
    assert psnr.points == [(100, 30.0), (200, 31.0), (300, 32.0), (400, 33.0)]
    assert (psnr.baseline, psnr.baseline_value, psnr.unit, psnr.last, psnr.best) == (
        "bicubic",
        30,
        "dB",
        (400, 33),
        (400, 33),
    )
    assert psnr.images[200] == {"cat": 32.0}
    assert run.metrics.keys() == {"photographs"} and run.metrics["photographs"].keys() == {"psnr", "ssim"}
    assert list(run.pictures["photographs"]["cat"].outputs) == [100, 200, 300, 400]
    assert not run.missing


def test_the_state_of_a_run(tmp_path):
    folder = write_run(tmp_path / "run", until=300)
    assert read_run(folder).state == "stopped at iteration 300 of 400"
    assert read_run(folder, running=True).state == "running: iteration 300 of 400"
    (folder / "training_states").mkdir()
    (folder / "training_states" / "345.state").write_bytes(b"")  # stopped by a signal between two log lines
    (folder / "training_states" / "999.state.abandoned").write_bytes(b"")
    assert read_run(folder).state == "stopped at iteration 345 of 400"
    (folder / "environment.jsonl").unlink()
    assert read_run(folder).state == "at iteration 345 (the planned number is not recorded)"
    assert read_run(folder, running=True).state == "running: iteration 345"
    bare = tmp_path / "bare" / "models"
    bare.mkdir(parents=True)
    for name in ("net_g_500.pth", "net_g_70.pth", "net_g_best.pth"):
        (bare / name).write_bytes(b"")
    assert read_run(tmp_path / "bare").state == "at iteration 500 (the planned number is not recorded)"


def test_a_collapse_is_the_state_of_a_run(tmp_path):
    folder = write_run(tmp_path / "run", until=300)
    assert read_collapse(folder) is None and read_run(folder).collapse is None
    (folder / "collapse.json").write_text(
        '{"iteration": 1310, "scalars": ["l_pix", "l_neg"], "options": "name: run\\n"}\n'
    )
    assert read_collapse(folder) == Collapse(1310, ["l_pix", "l_neg"], "name: run\n")
    state = "collapsed at iteration 1,310: NaN or infinite values of l_pix, l_neg"
    assert read_run(folder).state == state
    assert read_run(folder, running=True).state.startswith("running")
    for damaged in ("", "{", "[1]", '{"iteration": "a"}'):
        (folder / "collapse.json").write_text(damaged)
        assert read_collapse(folder) is None


def test_a_resumed_run(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "environment.jsonl").open("a") as file:
        file.write(as_lines([{**START, "iteration": 200, "total_iter": 1200}]) + '{"half')
    with (folder / "results.jsonl").open("a") as file:
        file.write(as_lines([train_line(400, l_pix=7.0), val_line(400, 35.0)]))
    (folder / "results.jsonl.abandoned").write_text("")
    run = read_run(folder)
    assert [start["iteration"] for start in run.starts] == [0, 200] and run.total == 1200
    assert run.scalars["l_pix"][-1] == (400, 7.0) and len(run.scalars["l_pix"]) == 40  # the last of two lines counts
    assert run.metrics["photographs"]["psnr"].last == (400, 35.0)
    assert [text for text in run.missing if "abandoned" in text]
    assert any(text.startswith("environment.jsonl: 1 of 3 lines cannot be used") for text in run.missing)


def test_an_old_run(tmp_path):
    folder = write_run(tmp_path / "run")
    old = {"kind": "val", "iteration": 100, "dataset": "Set5", "psnr": 30.0, "images": {"psnr": {"baby": 30.0}}}
    (folder / "results.jsonl").write_text(as_lines([{**old, "iteration": 50, "psnr": 31.0}, old]))
    for file in ("environment.jsonl", "options.yml"):
        (folder / file).unlink()
    run = read_run(folder)
    psnr = run.metrics["Set5"]["psnr"]
    assert (psnr.last, psnr.best, psnr.baseline_value, psnr.format(psnr.last[1])) == (
        (100, 30),
        (50, 31),
        None,
        "30.0000",
    )
    assert [text.partition(":")[0] for text in run.missing] == ["environment.jsonl", "options.yml"]


def test_damaged_lines_and_values_that_are_not_numbers(tmp_path):
    folder = write_run(tmp_path / "run", until=10)
    strange = [train_line(20, l_pix="inf", grad_norm=None, note="x"), {"iteration": "ten"}, {"kind": "train"}, {}]
    perfect = [{**val_line(at, 30.0), "psnr": value} for at, value in ((10, "inf"), (20, 30.0), (30, "nan"))]
    with (folder / "results.jsonl").open("a") as file:
        file.write(as_lines([*strange, *perfect]) + '[1]\n{"kind": "tr')
    run = read_run(folder)
    assert run.scalars["l_pix"] == [(10, 0.1), (20, math.inf)]
    assert len(run.scalars["grad_norm"]) == 1 and "note" not in run.scalars
    psnr = run.metrics["photographs"]["psnr"]
    assert psnr.best == (10, math.inf) and psnr.format(math.inf, "+") == "+inf\N{NO-BREAK SPACE}dB"
    assert psnr.format(psnr.last[1]) == psnr.format(math.inf - math.inf, "+") == "not a number"
    missing = " ".join(run.missing)
    assert "2 of 10 lines" in missing and "l_pix: values that are not finite" in missing


def test_huge_numbers_and_deep_nesting_do_not_hide_the_rest(tmp_path):
    folder = write_run(tmp_path / "run", until=10)
    vast = "9" * 5000
    with (folder / "results.jsonl").open("a") as file:
        for values in (
            f'"iteration": 20, "l_pix": {vast}',
            f'"iteration": {vast}, "l_pix": 1',
            '"iteration": 30, "lr": 2',
        ):
            file.write(f'{{"kind": "train", {values}}}\n')
        file.write("[" * 100_000 + "\n")
    run = read_run(folder)
    assert run.iteration == 30 and run.scalars["lr"][-1] == (30, 2)
    assert run.scalars["l_pix"] == [(10, 0.1), (20, math.inf)]
    assert "1 of 5 lines" in " ".join(run.missing)


def test_a_metric_where_lower_is_better(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = [
        {**val_line(at, value), "higher_is_better": {"psnr": False}} for at, value in ((1, 3.0), (2, 1.0), (3, 2.0))
    ]
    (folder / "results.jsonl").write_text(as_lines(lines))
    assert read_run(folder).metrics["photographs"]["psnr"].best == (2, 1.0)


def test_a_folder_with_checkpoints_only(tmp_path):
    (tmp_path / "run" / "models").mkdir(parents=True)
    run = read_run(find_run(str(tmp_path / "run")))
    assert [text.partition(":")[0] for text in run.missing][:3] == ["environment.jsonl", "options.yml", "results.jsonl"]
    assert "No validation" in run.missing[-1] and not run.scalars


def test_missing_images_are_reported(tmp_path):
    folder = write_run(tmp_path / "run")
    for file in folder.rglob("*.jpg"):
        file.unlink()
    assert "no images over time" in " ".join(read_run(folder).missing)


@pytest.mark.parametrize("lost", ["gt.jpg", "input.jpg", "200.jpg"])
def test_a_damaged_image_is_reported_and_the_others_are_read(tmp_path, lost):
    folder = write_run(tmp_path / "run")
    (folder / "progress" / "photographs" / "cat" / lost).write_bytes(b"no picture")
    run = read_run(folder)
    assert run.missing == [f"progress/photographs/cat/{lost}: cannot be read."]
    assert {100, 300, 400} <= run.pictures["photographs"]["cat"].outputs.keys()
    for file in folder.rglob("?00.jpg"):
        file.unlink()
    assert "<iteration>.jpg: missing." in " ".join(read_run(folder).missing)
    assert "val.pictures" not in " ".join(read_run(folder).missing)


@pytest.mark.parametrize("text", ["", "a: [1", "- a\n- b\n", "only words", "a\0b", "\x89PNG\r\n\x1a\n", "[" * 9999])
def test_an_options_file_without_options_is_reported_and_shown(tmp_path, text):
    folder = write_run(tmp_path / "run")
    (folder / "options.yml").write_text(text, newline="")
    run = read_run(folder)
    assert run.missing == ["options.yml: expected options in YAML."]
    assert run.options.split() == text.split()


def test_a_run_is_found_by_folder_or_by_name(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "experiments" / "quickstart", until=10)
    monkeypatch.chdir(tmp_path)
    assert find_run(str(folder)) == folder
    assert find_run("quickstart") == Path("experiments/quickstart")
    with pytest.raises(ValueError, match=r"quikstart: there is no such folder.* Did you mean 'quickstart'\?"):
        find_run("quikstart")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="other: expected the folder of a training"):
        find_run("other")


@pytest.mark.parametrize("value", [math.inf, -math.inf, float("nan")])
def test_json_is_standard(value):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = as_json({"a": {"b": value}, "c": 1.5}, indent=2)
    assert json.loads(text, parse_constant=refuse) == {"a": {"b": str(value)}, "c": 1.5}


def test_an_infinite_value_in_a_list_is_a_string():
    assert json.loads(as_json({"a": [math.inf, 1.0]})) == {"a": ["inf", 1.0]}
