"""Tests of the log of a run: plain lines, a progress bar, JSON lines, TensorBoard."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from rich.console import Console

from mcir.atomic import append
from mcir.checked_json import read_records
from mcir.engine import loggers
from mcir.engine import speed as speed_module
from mcir.engine.evaluation import Evaluation, Score
from mcir.engine.log_output import LogOutput
from mcir.engine.loggers import RunLog, results_table
from mcir.engine.speed import Speed
from mcir.report import progress
from mcir.report.metric import format_value
from mcir.report.option_changes import OptionChange
from mcir.report.run import write_report

INFINITE = float("inf")


def evaluation(psnr=31.5, name="Set5"):
    scores = {
        "psnr": Score(psnr, 28.25, "dB", True, {"baby": psnr, "bird": 30.0}),
        "ssim": Score(0.91234, 0.85, "", True, {"baby": 0.9, "bird": 0.92}),
    }
    return Evaluation(name, "bicubic", scores, {"baby": np.full((34, 56, 3), 200, np.uint8)})


def speed():
    measured = Speed()
    list(measured.timed([{"lq": [None] * 16}]))
    time.sleep(0.01)
    return measured


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def log_everything(log):
    log.start(40)
    log.advance(50, {"l_pix": torch.tensor(0.5)}, speed())
    log.log_scalars(50, {"l_pix": 0.0123456, "lr": 1e-4}, speed())
    log.log_evaluation(50, evaluation())
    log.log_text("the [end]")
    log.close()


def test_without_a_terminal_there_are_plain_lines(tmp_path, capsys):
    log_everything(RunLog(tmp_path, 100, tensorboard=False))
    output, errors = capsys.readouterr()
    assert not errors
    assert "\x1b" not in output
    assert "\r" not in output
    first, second, third = output.splitlines()
    assert re.fullmatch(
        r"50/100  l_pix 0\.01235  lr 0\.0001  \S+ images/s, data \d+%, \d+ MiB, eta \d+:\d\d:\d\d", first
    )
    assert second == "iteration 50: Set5: psnr 31.50 dB, ssim 0.9123"
    assert third == "the [end]"


def test_json_lines_contain_all_values(tmp_path):
    log = RunLog(tmp_path, 100, tensorboard=False)
    log.log_scalars(50, {"l_pix": 0.5, "lr": 1e-4}, speed())
    log.log_evaluation(50, evaluation(psnr=INFINITE))
    train, val = read_records(tmp_path / "results.jsonl").records  # before the end
    log.close()
    assert (train["kind"], train["iteration"], train["l_pix"], train["lr"]) == ("train", 50, 0.5, 1e-4)
    assert train["images_per_s"] > 0
    assert 0 <= train["data_time"] < 1
    assert train["memory_mib"] > 10
    assert val == {
        "kind": "val",
        "iteration": 50,
        "dataset": "Set5",
        "psnr": "inf",
        "ssim": 0.91234,
        "given": "bicubic",
        "of_input": {"psnr": 28.25, "ssim": 0.85},
        "unit": {"psnr": "dB", "ssim": ""},
        "higher_is_better": {"psnr": True, "ssim": True},
        "images": {"psnr": {"baby": "inf", "bird": 30.0}, "ssim": {"baby": 0.9, "bird": 0.92}},
    }


def test_a_resumed_run_continues_its_lines(tmp_path):
    for iteration in (1, 2):
        log = RunLog(tmp_path, 100, tensorboard=False)
        log.log_scalars(iteration, {"l_pix": 0.5}, speed())
        log.close()
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2]


def test_lines_of_later_iterations_are_moved_away_on_resume(tmp_path):
    log = RunLog(tmp_path, 100, tensorboard=False)
    for iteration in (2, 4, 6):
        log.log_scalars(iteration, {"l_pix": 0.5}, speed())
    log.close()
    lines, abandoned = tmp_path / "results.jsonl", tmp_path / "results.jsonl.abandoned"
    before = lines.read_text()
    lines.write_text(before + '{"kind": "tr')  # killed while writing
    RunLog(tmp_path, 100, tensorboard=False, iteration=4).close()
    assert [json.loads(line)["iteration"] for line in lines.read_text().splitlines()] == [2, 4]
    assert lines.read_text() + abandoned.read_text() == before + '{"kind": "tr\n'
    RunLog(tmp_path, 100, tensorboard=False, iteration=2).close()
    assert [json.loads(line)["iteration"] for line in lines.read_text().splitlines()] == [2]
    assert abandoned.read_text().count('"iteration": ') == 2


def test_results_of_a_validation_that_runs_again_are_moved_away(tmp_path):
    log = RunLog(tmp_path, 100, tensorboard=False)
    for iteration in (2, 4):
        log.log_scalars(iteration, {"l_pix": 0.5}, speed())
        log.log_evaluation(iteration, evaluation())
    log.close()
    RunLog(tmp_path, 100, tensorboard=False, iteration=4, validated=2).close()
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["iteration"]) for line in lines] == [("train", 2), ("val", 2), ("train", 4)]
    (image,) = progress.read_images(tmp_path)[0]["Set5"].values()
    assert list(image.outputs) == [2]


def test_images_of_later_iterations_are_removed_on_resume(tmp_path):
    log = RunLog(tmp_path, 100, tensorboard=False)
    for iteration in (2, 4, 6):
        log.log_evaluation(iteration, evaluation())
    log.close()
    assert list(progress.read_images(tmp_path)[0]["Set5"]["baby"].outputs) == [2, 4, 6]
    RunLog(tmp_path, 100, tensorboard=False, iteration=4, validated=4).close()
    (image,) = progress.read_images(tmp_path)[0]["Set5"].values()
    assert list(image.outputs) == [2, 4] and image.size == (6, 8)


def test_tensorboard_hides_later_iterations_on_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for begin, iterations, value in ((0, (2, 4, 6), 0.5), (4, (6,), 0.25)):
        time.sleep(1.1 if begin else 0)  # the names of event files contain the time in seconds
        log = RunLog(tmp_path, 100, tensorboard=True, iteration=begin)
        for iteration in iterations:
            log.log_scalars(iteration, {"l_pix": value}, speed())
        log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tb_logger"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/l_pix")] == [(2, 0.5), (4, 0.5), (6, 0.25)]


def test_tensorboard_files_can_be_read(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log_everything(RunLog(tmp_path, 100, tensorboard=True))
    events = accumulator.EventAccumulator(str(tmp_path / "tb_logger"))
    events.Reload()
    logged = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert logged["train/l_pix"] == [(50, pytest.approx(0.0123456))]
    assert logged["Set5/psnr"] == [(50, 31.5)]
    assert logged.keys() >= {"train/lr", "train/images_per_s", "train/data_time", "train/memory_mib", "Set5/ssim"}
    (image,) = events.Images("Set5/baby")
    assert (image.step, image.width, image.height) == (50, 56, 34)


def test_without_tensorboard_there_is_no_event_file(tmp_path):
    log_everything(RunLog(tmp_path, 100, tensorboard=False))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["progress", "results.jsonl"]


def test_other_processes_log_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    log_everything(RunLog(None, 100, tensorboard=True))
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_closing_twice_is_allowed(tmp_path, capsys):
    log = RunLog(tmp_path, 100, tensorboard=True)
    log.close()
    log.close()
    log.log_text("still here")
    assert "still here" in capsys.readouterr().out


def test_speed_is_measured_since_the_last_restart(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(speed_module.time, "perf_counter", lambda: now[0])
    measured = Speed(world_size=4)

    def slow_batches():
        for images, seconds in [(4, 0.5)] * 4 + [(1, 0.0)]:
            now[0] += seconds
            yield {"lq": [None] * images}

    batches = measured.timed(slow_batches())
    for _ in range(4):
        next(batches)
        now[0] += 1.5  # the step
    assert (measured.s_per_iteration, measured.images_per_s, measured.data_fraction) == (2.0, 8.0, 0.25)
    measured.restart()
    next(batches)
    now[0] += 4.0
    assert (measured.s_per_iteration, measured.images_per_s, measured.data_fraction) == (4.0, 1.0, 0.0)


def test_the_table_compares_the_network_with_its_input():
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table("Results", [evaluation(), evaluation(27.0, "Set14")], "EDSR"))
    console.file.close()
    rows = [re.findall(r"[\w.+-]+(?: dB)?", line) for line in console.export_text().splitlines()]
    rows = [row for row in rows if row]
    assert ["Set5", "bicubic", "28.25 dB", "0.8500"] in rows
    assert ["EDSR", "31.50 dB", "0.9123"] in rows
    assert ["gain", "+3.25 dB", "+0.0623"] in rows
    assert ["Set14", "bicubic", "28.25 dB", "0.8500"] in rows
    assert ["gain", "-1.25 dB", "+0.0623"] in rows


def colours(log, capsys):
    """Return the coloured parts of what a log has printed at a terminal."""
    return re.findall(r"\x1b\[(?:\d+;)*(3\d)m([^\x1b]*)\x1b\[0m", capsys.readouterr().out)


def test_the_best_value_so_far_is_green_also_after_a_resume(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    log = RunLog(tmp_path, 100, tensorboard=False)
    for iteration, psnr in ((2, 30.0), (4, 29.0), (6, 31.0)):
        log.log_evaluation(iteration, evaluation(psnr))
        assert ("32", f"psnr {psnr:.2f} dB") in colours(log, capsys) if psnr != 29 else not colours(log, capsys)
    log.close()
    log = RunLog(tmp_path, 100, tensorboard=False, iteration=6, validated=6)
    log.log_evaluation(8, evaluation(30.5))
    assert not colours(log, capsys)
    log.log_evaluation(10, evaluation(31.5))
    assert colours(log, capsys) == [("32", "psnr 31.50 dB")]


def test_gains_are_green_and_losses_red(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    log = RunLog(tmp_path, 100, tensorboard=False)
    log.print(results_table("Results", [evaluation(), evaluation(27.0, "Set14")], "EDSR"))
    log.log_changes([OptionChange("train.total_iter", "300", "60")])
    shown = colours(log, capsys)
    assert [part for part in shown if "dB" in part[1]] == [("32", "+3.25 dB"), ("31", "-1.25 dB")]
    assert shown[-2:] == [("31", "300"), ("32", "60")]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("FORCE_COLOR", "")])
def test_colours_can_be_disabled(tmp_path, capsys, monkeypatch, name, value):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv(name, value)
    log = RunLog(tmp_path, 100, tensorboard=False)
    log.log_evaluation(2, evaluation())
    log.print(results_table("Results", [evaluation()], "EDSR"))
    log.log_changes([OptionChange("train.total_iter", "300", "60")])
    output = capsys.readouterr().out
    assert not re.search(r"\x1b\[(\d+;)*[34]\dm", output) and "train.total_iter: 300 → 60" in output


def test_values_have_their_unit():
    assert format_value(INFINITE, "dB") == "inf dB"
    assert format_value(0.91234, "") == "0.9123"
    assert format_value(-0.005, "dB", "+") in ("-0.01 dB", "-0.00 dB")


@pytest.mark.parametrize(("rank", "level"), [(None, logging.INFO), ("0", logging.INFO), ("3", logging.ERROR)])
def test_rank_zero_prints_log_messages_once(monkeypatch, rank, level):
    logger = logging.getLogger("mcir")
    for name, value in {"handlers": [], "level": logging.NOTSET, "propagate": True}.items():
        monkeypatch.setattr(logger, name, value)
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    loggers.log_to_console()
    loggers.log_to_console()
    assert len(logger.handlers) == 1
    assert logger.level == level
    assert not logger.propagate


# -- outputs that cannot be written -----------------------------------------------------------------------------------


ENOSPC = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/mnt/full")


def full(*_, **__):
    raise ENOSPC


@pytest.fixture
def warnings(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("mcir"), "propagate", True)
    return caplog


def test_an_output_reports_its_failure_once_and_repeats_what_failed(warnings):
    written, is_full = [], [True]

    def action(number):
        def write():
            if is_full[0]:
                full()
            written.append(number)

        return write

    output, pictures = LogOutput("results.jsonl", keep=3), LogOutput("An image")
    for number in range(5):
        output.write(action(number))
        pictures.write(action(-number))
    assert written == []
    assert warnings.messages == [
        f"{name} cannot be written ({ENOSPC}). The run continues and tries again."
        for name in ("results.jsonl", "An image")
    ]
    warnings.clear()
    is_full[0] = False
    output.write(action(5))
    pictures.write(action(-5))
    assert written == [2, 3, 4, 5, -5]
    assert warnings.messages == [
        "results.jsonl is written again; 2 entries are lost.",
        "An image is written again; 5 entries are lost.",
    ]


def test_only_errors_of_the_system_are_tolerated():
    with pytest.raises(ZeroDivisionError):
        LogOutput("results.jsonl").write(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("function", "name", "is_repeated"),
    [
        ("mcir.checked_json.append", "results.jsonl", True),
        ("mcir.engine.event_file.append", "The TensorBoard log", True),
        ("mcir.report.progress.cv2.imencode", "An image of the validation", False),
    ],
)
def test_a_full_disk_costs_no_values(tmp_path, monkeypatch, warnings, function, name, is_repeated):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path, 100, tensorboard=True)
    with monkeypatch.context() as context:
        context.setattr(function, full)
        log.log_scalars(1, {"l_pix": 0.5}, speed())
        log.log_evaluation(1, evaluation())
        log.log_evaluation(2, evaluation())
    assert len([text for text in warnings.messages if text.startswith(f"{name} cannot be written")]) == 1
    log.log_scalars(3, {"l_pix": 0.5}, speed())
    log.log_evaluation(3, evaluation())
    log.close()
    records = [json.loads(line)["iteration"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert records == [1, 1, 2, 3, 3]
    events = accumulator.EventAccumulator(str(tmp_path / "tb_logger"))
    events.Reload()
    assert [event.step for event in events.Scalars("Set5/psnr")] == [1, 2, 3]
    (images,) = progress.read_images(tmp_path)[0]["Set5"].values()
    assert list(images.outputs) == ([1, 2, 3] if is_repeated else [3])


def test_appending_to_a_disk_that_becomes_full_leaves_whole_lines(tmp_path):
    file = tmp_path / "results.jsonl"
    append(file, b"first\n")
    script = (
        "import resource, signal, sys; from pathlib import Path; from mcir.atomic import append\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))\n"
        "append(Path(sys.argv[1]), b'second\\n')"
    )
    run = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True)
    assert "OSError" in run.stderr
    assert file.read_bytes() == b"first\n"


def test_a_terminal_that_ends_does_not_end_the_run(tmp_path, monkeypatch, warnings):
    log = RunLog(tmp_path, 100, tensorboard=False)
    monkeypatch.setattr(log.console, "print", full)
    log_everything(log)
    assert len(warnings.messages) == 1 and warnings.messages[0].startswith("The terminal output cannot be written")


def test_names_that_are_not_utf8_are_logged_with_visible_bytes(tmp_path, capsys):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    name = os.fsdecode(b"caf\xe9")
    scores = {"psnr": Score(30.0, 28.0, "dB", True, {name: 30.0})}
    picture = np.full((34, 56, 3), 200, np.uint8)
    log = RunLog(tmp_path, 100, tensorboard=True)
    log.log_evaluation(1, Evaluation("Set5", "bicubic", scores, {name: picture}))
    log.log_text(name)
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tb_logger"))
    events.Reload()
    assert events.Tags()["images"] == ["Set5/caf\\xe9"]
    record = json.loads((tmp_path / "results.jsonl").read_text())
    assert record["images"]["psnr"] == {"caf\\xe9": 30.0}
    assert "caf\\xe9" in capsys.readouterr().out
    write_report([tmp_path], tmp_path / "report.html")
    assert "caf\\xe9" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_unexpected_error_of_an_output_is_raised_once():
    output, written = LogOutput("The log", keep=5), []
    with pytest.raises(KeyError):
        output.write(lambda: {}["x"])
    output.write(lambda: written.append(1))
    assert written == [1]
