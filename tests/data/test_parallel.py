"""Threads that keep the order and do not run ahead."""

import threading
import time

import pytest

from mcir.data.parallel import in_order


@pytest.mark.parametrize("workers", [1, 3, None])
def test_results_come_in_order(workers):
    assert list(in_order(lambda x: (time.sleep(0.002 * (x % 3)), x * x)[1], range(30), workers)) == [
        x * x for x in range(30)
    ]


def test_few_results_wait():
    done = []
    results = in_order(lambda x: done.append(x) or x, range(1000), 2)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(done) <= 5
    results.close()


def test_an_error_arrives_and_stops_the_rest():
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
