"""Differences over the seeds: tested, adjusted, and told whatever the sign."""

import math

import pytest

from mcir.tables.config_diff import compared
from mcir.tables.paired_stats import holm, mean_interval, paired_test

CLEAR = [0.30, 0.32, 0.28, 0.31, 0.29]
NOISE = [0.3, -0.2, 0.1, -0.3, 0.2]


def test_each_comparison_is_tested_and_all_are_adjusted_together():
    clear, noise = compared([CLEAR, NOISE])
    assert [clear.p, noise.p] == [paired_test(CLEAR), paired_test(NOISE)]
    assert [clear.adjusted, noise.adjusted] == holm([clear.p, noise.p])
    assert clear.interval == mean_interval(CLEAR) and clear.is_significant and not noise.is_significant
    assert clear.sentence().startswith("+0.300 dB (95 %: +0.280 … +0.320), p = ")
    assert clear.cells()[:3] == ["+0.300", "+0.280 … +0.320", "5 of 5"]
    assert clear.as_data()["mean_gain"] == pytest.approx(0.3)


def test_seeds_that_diverged_take_the_verdict_away():
    some, none = compared([[0.3, math.nan, 0.31, 0.29], [math.inf]])
    assert (some.gains, some.diverged, some.is_significant) == ([0.3, 0.31, 0.29], 1, False)
    assert some.verdict() == "no verdict: of 4 pairs, 1 has no finite numbers"
    assert some.adjusted == some.p  # the other was no comparison
    assert none.cells() == ["–"] * 5 and none.sentence() == "no seed ended with finite numbers; 1 seed diverged"
    assert none.as_data()["interval_95"] is None
