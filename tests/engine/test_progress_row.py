"""What a person sees of a training in a terminal: one progress row, and the scalars above it."""

import re
import signal

import pytest
from rich.text import Text

from mcir.console import Console
from mcir.engine.progress_row import ProgressRow, fitting, format_remaining, interest
from mcir.engine.speed import Speed
from tests.engine.conftest import make_run, options

Terminal = pytest.importorskip("tests.screen", reason="pseudo-terminals need pyte and a POSIX system").Terminal

ROW = re.compile(r"^(\d+)/12 +(\d+)% .*?(\S+) (images/s|img/s) +ETA +(\S+) +(l_pix \S+)")


class FixedSpeed(Speed):
    seconds, images_per_s, s_per_iteration = 2.0, 1234.5, 0.5


def row_at(width, total=1_000_000, iteration=999_999, loss="l_pix"):
    console = Console(width=width, force_terminal=True, color_system=None, soft_wrap=True)
    row = ProgressRow(console, total)
    row.advance(iteration, {"lr": 0.1, loss: 0.0123456}, FixedSpeed())
    with console.capture() as captured:
        console.print(row)
    return captured.get().removesuffix("\n")


@pytest.mark.parametrize("width", [60, 61, 70, 80, 100, 120, 200, 1000])
@pytest.mark.parametrize(("total", "iteration"), [(800, 0), (800, 799), (1_000_000, 999_999)])
def test_the_row_contains_all_facts_at_any_width(width, total, iteration):
    row = row_at(width, total, iteration)
    assert "\n" not in row and len(row) < width
    assert re.match(rf"{iteration}/{total} +{100 * iteration // total}% ", row)
    assert re.search(r"1\.23e\+03 im(a)?g(es)?/s +ETA \S+ +l_pix 0\.01235$", row)


def test_the_bar_shrinks_first():
    lengths = [row_at(width, 800, 799).count("━") for width in (200, 120, 80, 70, 62, 50)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 30 and lengths[2] >= 8 and lengths[-1] == 0
    assert "images/s" in row_at(80, 800, 799)


@pytest.mark.parametrize("width", [1, 2, 10, 30, 45])
def test_a_row_that_cannot_fit_is_cut_and_does_not_wrap(width):
    row = row_at(width, loss="l_a_loss_with_a_long_name")
    assert "\n" not in row and Text(row).cell_len <= width


def test_scalars_are_ordered_by_interest_and_cut_at_the_width():
    names = ["ratio_l_neg", "lr", "l_pix", "grad_l_pix", "psnr", "l_neg"]
    assert sorted(names, key=interest) == ["l_pix", "l_neg", "psnr", "lr", "ratio_l_neg", "grad_l_pix"]
    parts = ["a 1", "b 2", "c 3"]
    assert [fitting("1:", parts, width) for width in (2, 8, 12, 13, 99)] == [
        "1:", "1:  a 1", "1:  a 1", "1:  a 1  b 2", "1:  a 1  b 2  c 3",
    ]  # fmt: skip


def test_remaining_times():
    assert [format_remaining(seconds) for seconds in (0.4, 59.6, 3723, 359_999, 360_000)] == [
        "0:00:00", "0:01:00", "1:02:03", "99:59:59", "4d 4h",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run that is a little slower than the refresh of the row, and that warns in the middle."""
    folder = tmp_path_factory.mktemp("run")
    run = make_run(folder)
    (folder / "slow.py").write_text(
        "import logging, time, warnings\n"
        "from mcir.registry import LOSSES\n"
        "from mcir.losses import L1Loss\n\n\n"
        "@LOSSES.register()\n"
        "class SlowLoss(L1Loss):\n"
        "    calls = 0\n\n"
        "    def __init__(self) -> None:\n"
        "        super().__init__()\n\n"
        "    def forward(self, output, gt):\n"
        "        SlowLoss.calls += not output.is_meta\n"
        "        time.sleep(0.1)\n"
        "        if SlowLoss.calls == 5:\n"
        "            logging.getLogger('mcir').warning('a warning of mcir')\n"
        "            warnings.warn('a warning of Python')\n"
        "        return super().forward(output, gt)\n"
    )
    tree = {**options(folder), "imports": ["slow"]}
    tree["train"]["pixel_opt"] = {"type": "SlowLoss"}
    tree["datasets"]["train"]["num_worker_per_gpu"] = 0
    tree["logger"]["report"] = False
    run.write(tree)
    return run


@pytest.mark.parametrize(
    "columns", [80, *(pytest.param(columns, marks=pytest.mark.slow) for columns in (60, 120, 200))]
)
def test_a_training_in_a_terminal(run, columns):
    terminal = Terminal(run.command(), columns, {"PYTHONPATH": f"{run.folder}:.", "OMP_NUM_THREADS": "1"})
    terminal.read()
    assert terminal.process.returncode == 0, "\n".join(terminal.all_rows())
    rows_seen, complete = set(), set()
    for screen in terminal.screens:
        rows = [(number, row) for number, row in enumerate(screen) if re.match(r"\d+/12 ", row)]
        assert len(rows) <= 1, screen
        for number, row in rows:
            assert number == len(screen) - 1, screen  # nothing below: it does not wrap
            rows_seen.add(row)
            if (found := ROW.match(row)) and int(found[1]) >= 3:
                complete.add(int(found[1]))
                assert "…" not in row and len(row) < columns
                assert ("━" in row) or columns == 60
    assert len(complete) >= 2, rows_seen
    rows = terminal.all_rows()
    assert not any("/12 " in row or "ETA" in row for row in rows), rows  # nothing remains of it
    scalars = [row for row in rows if re.match(r"iteration \d+:  l_pix", row)]
    assert [row.split(":")[0] for row in scalars] == [f"iteration {number}" for number in (3, 6, 9, 12)]
    assert all(len(row) < columns and "l_neg" in row for row in scalars)
    assert ("cosine_l_neg" in scalars[0]) == (columns == 200)
    assert rows.count("a warning of mcir") == 1
    assert sum("a warning of Python" in row for row in rows) >= 1
    assert any(row.startswith("iteration 12: val: psnr") for row in rows)


@pytest.mark.slow
def test_a_terminal_that_cannot_move_the_cursor_gets_plain_lines(run):
    terminal = Terminal(run.command(), 200, {"PYTHONPATH": f"{run.folder}:.", "TERM": "dumb"}).read()
    assert b"\x1b" not in terminal.raw
    assert re.search(r"^3/12  l_pix .* eta \d\S+\r$", terminal.raw.decode(), re.MULTILINE)


def test_a_stop_leaves_no_row_and_a_command_that_can_be_copied(run):
    arguments = ["--set", "train.total_iter=100000", "val.val_freq=100000", "logger.save_checkpoint_freq=100000"]
    command = [*run.command(*arguments)]
    terminal = Terminal(command, 80, {"PYTHONPATH": f"{run.folder}:."})
    terminal.read(until=lambda terminal: any("iteration 6:" in row for row in terminal.rows()))
    terminal.process.send_signal(signal.SIGINT)
    terminal.read()
    assert terminal.process.returncode == 130
    rows = terminal.all_rows()
    assert not any("ETA" in row for row in rows), rows
    at = next(number for number, row in enumerate(rows) if row.startswith("Stopped by signal 2 after iteration "))
    assert re.search(
        r"Continue with: [^\r\n]* --auto_resume [^\r\n]*save_checkpoint_freq=100000\r\n", terminal.raw.decode()
    )
    assert rows[at + 1].startswith("Continue with: ") and not any("Traceback" in row for row in rows)
