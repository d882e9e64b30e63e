"""Statistics of paired differences, compared with scipy and with numbers computed by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from mcir.tables.paired_stats import compare, holm, mean_interval, paired_test


@pytest.mark.parametrize("count", [2, 5, 30])
def test_interval_and_p_value_equal_those_of_scipy(count):
    values = np.random.default_rng(count).normal(0.1, 0.3, count)
    interval = mean_interval(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    assert paired_test(values.tolist()) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    other = np.random.default_rng(7).normal(size=count)
    assert paired_test(values.tolist()) == pytest.approx(stats.ttest_rel(values + other, other).pvalue)


def test_interval_of_three_values():
    # 1, 2, 3: mean 2, standard deviation 1, t of two degrees of freedom at 97.5 % is 4.302653
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - interval.low == pytest.approx(interval.high - 2)
    assert mean_interval([1.0, 2.0, 3.0], 0.5).high < interval.high


def test_an_interval_with_confidence_1_minus_p_ends_at_zero():
    values = [0.1, 0.3, 0.2, -0.05, 0.15]
    p = paired_test(values)
    assert mean_interval(values, 1 - p).low == pytest.approx(0, abs=1e-9)


def test_single_and_equal_values_have_results():
    assert mean_interval([0.5]).low == -math.inf
    assert paired_test([0.5]) == 1
    assert paired_test([0.5, 0.5]) == 0
    assert paired_test([0.0, 0.0]) == 1


def test_holm_correction_of_four_values():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 gives 0.04, 0.06, 0.06, 0.04; adjusted values never decrease
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


CLEAR = [0.30, 0.32, 0.28, 0.31, 0.29]
NOISE = [0.3, -0.2, 0.1, -0.3, 0.2]


def test_p_values_of_several_comparisons_are_adjusted_together():
    clear, noise = compare([CLEAR, NOISE])
    assert [clear.p, noise.p] == [paired_test(CLEAR), paired_test(NOISE)]
    assert [clear.adjusted, noise.adjusted] == holm([clear.p, noise.p])
    assert clear.interval == mean_interval(CLEAR) and clear.is_significant and not noise.is_significant
    assert clear.sentence().startswith("+0.300 dB (95 %: +0.280 … +0.320), p = ")
    assert clear.cells()[:3] == ["+0.300", "+0.280 … +0.320", "5 of 5"]
    assert clear.data()["mean_gain"] == pytest.approx(0.3)


def test_a_comparison_with_diverged_seeds_is_not_significant():
    some, none = compare([[0.3, math.nan, 0.31, 0.29], [math.inf]])
    assert (some.gains, some.diverged, some.is_significant) == ([0.3, 0.31, 0.29], 1, False)
    assert some.verdict() == "no verdict: of 4 pairs, 1 has no finite numbers"
    assert some.adjusted == some.p  # nothing was tested for the other one
    assert none.cells() == ["–"] * 5 and none.sentence() == "no seed ended with finite numbers; 1 seed diverged"
    assert none.data()["interval_95"] is None


def test_differences_from_the_smallest_detectable_one_on_are_significant():
    (found,) = compare([NOISE])
    centred = [gain - sum(NOISE) / len(NOISE) for gain in NOISE]
    for tests in (1, 15):
        smallest = found.smallest_detectable(tests)
        assert paired_test([gain + 1.001 * smallest for gain in centred]) < 0.05 / tests
        assert paired_test([gain + 0.999 * smallest for gain in centred]) > 0.05 / tests
    assert compare([[0.3]])[0].smallest_detectable() is None
