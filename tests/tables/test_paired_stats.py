"""Statistics: against scipy, and against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from mcir.tables.paired_stats import holm, mean_interval, paired_test


@pytest.mark.parametrize("count", [2, 5, 30])
def test_interval_and_test_are_scipys(count):
    values = np.random.default_rng(count).normal(0.1, 0.3, count)
    interval = mean_interval(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (interval.mean, interval.count) == (pytest.approx(values.mean()), count)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    assert paired_test(values.tolist()) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    other = np.random.default_rng(7).normal(size=count)
    assert paired_test(values.tolist()) == pytest.approx(stats.ttest_rel(values + other, other).pvalue)


def test_interval_by_hand():
    # 1, 2, 3: mean 2, standard deviation 1, t of two degrees of freedom at 97.5 % is 4.302653
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - interval.low == pytest.approx(interval.high - 2)
    assert mean_interval([1.0, 2.0, 3.0], 0.5).high < interval.high


def test_the_interval_and_the_test_agree():
    values = [0.1, 0.3, 0.2, -0.05, 0.15]
    p = paired_test(values)
    assert mean_interval(values, 1 - p).low == pytest.approx(0, abs=1e-9)


def test_few_or_equal_values():
    assert mean_interval([0.5]).low == -math.inf
    assert paired_test([0.5]) == 1
    assert paired_test([0.5, 0.5]) == 0
    assert paired_test([0.0, 0.0]) == 1
    for wrong in (lambda: mean_interval([]), lambda: paired_test([]), lambda: mean_interval([1.0, 2.0], 1.0)):
        with pytest.raises(ValueError, match="needs"):
            wrong()


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 gives 0.04, 0.06, 0.06, 0.04: never below the one before
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
