"""The arithmetic of a time budget."""

import argparse
import itertools
import re

import numpy as np
import pytest

from mcir.new.duration import LONGEST, format_duration, parse_budget
from mcir.new.schedule import RESERVE, Timing, fit_schedule, largest_part


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("1h", 3600), ("1d", 86_400), ("2h30m", 9000), ("1.5h", 5400), ("90 M", 5400), ("paper", None)],
)
def test_durations(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "10x", "-5m", "1e9d", "29s", "366d", "10m!", "nan", "1h1"])
def test_what_is_not_a_budget(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_budget(text)


def test_the_text_of_a_duration_has_two_units():
    assert [format_duration(value) for value in (0, 59.6, 3600, 9000, 90_061)] == ["0s", "1m", "1h", "2h 30m", "1d 1h"]
    assert format_duration(90_061, units=4) == "1d 1h 1m 1s" and format_duration(95_400, units=4) == "1d 2h 30m"


def random_cases(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        budget, setup, step, pixel = 10 ** rng.uniform((1.5, -1, -3, -9), (6, 1, 1, -4))
        yield budget, Timing(setup, step, pixel), int(10 ** rng.uniform(4, 7))


def test_a_schedule_fits_and_uses_the_budget():
    used = []
    for budget, timing, pixels in random_cases(2000):
        try:
            schedule = fit_schedule(budget, timing, pixels)
        except ValueError as error:
            needed = parse_budget(re.search(r"at least (\w[\w ]*)\.", str(error))[1])
            if needed <= LONGEST:
                assert needed > budget
                assert fit_schedule(needed, timing, pixels).total_iter >= 10
            continue
        validations = schedule.total_iter / schedule.val_freq
        assert validations.is_integer() and 1 <= validations <= 10  # the last iteration is validated
        assert schedule.seconds <= budget * (1 - RESERVE) + 1e-6
        assert 1 <= schedule.print_freq <= schedule.val_freq
        assert 1 <= schedule.save_checkpoint_freq <= schedule.val_freq
        assert schedule.save_checkpoint_freq * timing.step <= max(600, timing.step)
        used.append(schedule.seconds / budget)
    assert len(used) > 1000
    assert np.median(used) > 0.8


def test_a_longer_budget_never_has_fewer_iterations():
    timing = Timing(setup=1, step=0.1, pixel=1e-6)
    totals = [fit_schedule(budget, timing, 500_000).total_iter for budget in (30, 60, 180, 600, 3600, 86_400)]
    assert all(shorter < longer for shorter, longer in itertools.pairwise(totals))


@pytest.mark.parametrize(
    ("sizes", "affordable", "expected"),
    [
        ([(300, 400)] * 3, 10**6, (3, None)),
        ([(300, 400)] * 3, 200_000, (3, 256)),
        ([(4000, 6000)] * 4, 10**9, (4, 1024)),
        ([(4000, 6000)] * 4, 10**6, (4, 384)),
        ([(301, 3000)] * 2, 1, (1, 128)),
        ([(33, 50)] * 2, 1, (1, 32)),
    ],
)
def test_validation_uses_what_is_affordable(sizes, affordable, expected):
    assert largest_part(sizes, affordable, multiple=2) == expected
