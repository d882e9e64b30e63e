"""Tests of threads that keep the order of results."""

import threading
import time

import pytest

from mcir.data.parallel import in_order


@pytest.mark.parametrize("workers", [1, 3, None])
def test_results_are_in_order(workers):
    assert list(in_order(lambda x: (time.sleep(0.002 * (x % 3)), x * x)[1], range(30), workers)) == [
        x * x for x in range(30)
    ]


def test_only_a_few_results_are_computed_in_advance():
    done = []
    results = in_order(lambda x: done.append(x) or x, range(1000), 2)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(done) <= 5
    results.close()


def test_an_error_is_raised_and_stops_the_other_items():
    seen = []

    def work(x):
        seen.append(x)
        if x == 3:
            raise ValueError("item 3")
        return x

    with pytest.raises(ValueError, match="item 3"):
        list(in_order(work, range(1000), 1))
    assert len(seen) < 10
    assert threading.active_count() < 20
