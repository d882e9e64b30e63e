"""What is told of the way of many pictures."""

import io
import re

from rich.console import Console

from mcir.inference.batch import pace as pace_module
from mcir.inference.batch.progress import Pace


def clock(monkeypatch, *seconds):
    times = iter(seconds)
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: next(times))


def lines_of(monkeypatch, **options):
    console = Console(file=io.StringIO(), highlight=False, soft_wrap=True, **options)
    with Pace(console, 10, 40.0) as pace:
        for _ in range(3):
            pace.done(2, 8.0)
    return console.file.getvalue(), pace


def test_where_there_is_no_terminal_lines_are_plain_and_complete(monkeypatch):
    monkeypatch.setattr(pace_module, "INTERVAL", 0.0)
    text, pace = lines_of(monkeypatch)
    assert len(text.splitlines()) == 3
    pattern = r"2/10 pictures, \S+ images/s, \S+ megapixels/s, eta \d+:\d\d:\d\d"
    assert re.fullmatch(pattern, text.splitlines()[0])
    assert text.splitlines()[-1].startswith("6/10 pictures, ")
    assert (pace.pictures, pace.megapixels) == (6, 24.0)


def test_lines_come_now_and_then(monkeypatch):
    assert lines_of(monkeypatch)[0] == ""


def test_the_numbers_are_pictures_and_megapixels_a_second_and_the_time_left_by_megapixels(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), highlight=False, soft_wrap=True)
    with Pace(console, 10, 50.0) as pace:
        now[0] += 20
        pace.done(4, 10.0)
        assert console.file.getvalue() == "4/10 pictures, 0.2 images/s, 0.5 megapixels/s, eta 0:01:20\n"
        now[0] += 9
        pace.done(1, 1.0)
        assert len(console.file.getvalue().splitlines()) == 1
        now[0] += 1
        pace.done(1, 4.0)
        assert console.file.getvalue().splitlines()[1] == "6/10 pictures, 0.2 images/s, 0.5 megapixels/s, eta 0:01:10"
    assert pace.speed() == "0.2 images/s, 0.5 megapixels/s"


def test_at_a_terminal_there_is_a_bar(monkeypatch):
    text, _ = lines_of(monkeypatch, force_terminal=True, width=120)
    assert "\x1b[" in text
    assert "━" in text
    assert "10 pictures" in text


def test_a_large_picture_moves_on_before_it_is_done_and_never_back(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), highlight=False, soft_wrap=True)
    with Pace(console, 1, 100.0) as pace:
        for megapixels in (25.0, 10.0):  # memory ran out in between
            now[0] += 50
            pace.doing(megapixels)
        pace.done(1, 100.0)
    first, second = console.file.getvalue().splitlines()
    assert first == "0/1 pictures, 0 images/s, 0.5 megapixels/s, eta 0:02:30"
    assert second == "0/1 pictures, 0 images/s, 0.25 megapixels/s, eta 0:05:00"
    assert pace.speed() == "0.01 images/s, 1 megapixels/s"
