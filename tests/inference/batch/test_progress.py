"""Progress is shown as a bar or as lines."""

import io
import re

from rich.console import Console

from mcir.inference.batch import progress as progress_module
from mcir.inference.batch.progress import BatchProgress


def lines_of(monkeypatch, **options):
    console = Console(file=io.StringIO(), highlight=False, soft_wrap=True, **options)
    with BatchProgress(console, 10, 40.0) as progress:
        for _ in range(3):
            progress.finish(2, 8.0)
    return console.file.getvalue(), progress


def test_lines_without_a_terminal(monkeypatch):
    monkeypatch.setattr(progress_module, "INTERVAL", 0.0)
    text, progress = lines_of(monkeypatch)
    assert len(text.splitlines()) == 3
    pattern = r"2/10 images, \S+ images/s, \S+ megapixels/s, eta \d+:\d\d:\d\d"
    assert re.fullmatch(pattern, text.splitlines()[0])
    assert text.splitlines()[-1].startswith("6/10 images, ")
    assert (progress.images, progress.megapixels) == (6, 24.0)


def test_lines_are_rare(monkeypatch):
    assert lines_of(monkeypatch)[0] == ""


def test_speed_and_remaining_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), highlight=False, soft_wrap=True)
    with BatchProgress(console, 10, 50.0) as progress:
        now[0] += 20
        progress.finish(4, 10.0)
        assert console.file.getvalue() == "4/10 images, 0.2 images/s, 0.5 megapixels/s, eta 0:01:20\n"
        now[0] += 9
        progress.finish(1, 1.0)
        assert len(console.file.getvalue().splitlines()) == 1
        now[0] += 1
        progress.finish(1, 4.0)
        assert console.file.getvalue().splitlines()[1] == "6/10 images, 0.2 images/s, 0.5 megapixels/s, eta 0:01:10"
    assert progress.speed() == "0.2 images/s, 0.5 megapixels/s"


def test_bar_in_a_terminal(monkeypatch):
    text, _ = lines_of(monkeypatch, force_terminal=True, width=120)
    assert "\x1b[" in text
    assert "━" in text
    assert "10 images" in text


def test_progress_within_an_image(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), highlight=False, soft_wrap=True)
    with BatchProgress(console, 1, 100.0) as progress:
        for megapixels in (25.0, 10.0):  # memory ran out in between
            now[0] += 50
            progress.update(megapixels)
        progress.finish(1, 100.0)
    first, second = console.file.getvalue().splitlines()
    assert first == "0/1 images, 0 images/s, 0.5 megapixels/s, eta 0:02:30"
    assert second == "0/1 images, 0 images/s, 0.25 megapixels/s, eta 0:05:00"
    assert progress.speed() == "0.01 images/s, 1 megapixels/s"
