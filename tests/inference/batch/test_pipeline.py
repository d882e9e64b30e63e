"""The three steps overlap, keep the order of the items and limit their memory; errors and the caller stop them."""

import threading
import time

import pytest

from mcir.inference.batch.pipeline import pipelined


def run(items, size=lambda item: 1, read=lambda item: item, compute=lambda item, got: got, write=None, limit=100):
    stop = threading.Event()
    return list(pipelined(items, size, read, compute, write or (lambda item, got: None), limit, stop))


def test_items_pass_all_steps_in_order():
    written = {}
    done = run(range(50), read=lambda n: n * 10, compute=lambda n, got: (n, got), write=written.__setitem__)
    assert done == list(range(50))
    assert written == {n: (n, 10 * n) for n in range(50)}
    assert run([]) == []


def test_only_computing_runs_in_the_thread_of_the_caller():
    threads = {"read": set(), "compute": set(), "write": set()}

    def seen(step):
        return lambda *_: threads[step].add(threading.current_thread())

    run(range(9), read=seen("read"), compute=seen("compute"), write=seen("write"))
    assert threads["compute"] == {threading.main_thread()}
    assert threading.main_thread() not in threads["read"] | threads["write"]


def test_steps_overlap():
    """The second item waits in ``compute`` until the third is read and the first is written."""
    read_third, written_first = threading.Event(), threading.Event()

    def read(n):
        if n == 2:
            read_third.set()

    def compute(n, _):
        if n == 1:
            assert read_third.wait(10)
            assert written_first.wait(10)

    def write(n, _):
        if n == 0:
            written_first.set()

    assert run(range(3), read=read, compute=compute, write=write) == [0, 1, 2]


@pytest.mark.parametrize("sizes", [[40] * 12, [100] * 5, [250, 10, 10, 250, 10], [60, 60, 30, 30, 30, 90]])
def test_memory_is_limited(sizes):
    lock = threading.Lock()
    active, peaks = {}, []

    def read(n):
        with lock:
            active[n] = sizes[n]
            peaks.append(dict(active))

    def write(n, _):
        time.sleep(0.002)
        with lock:
            del active[n]

    assert run(range(len(sizes)), size=sizes.__getitem__, read=read, write=write, limit=100) == list(range(len(sizes)))
    assert all(sum(peak.values()) <= 100 or len(peak) == 1 for peak in peaks)
    if sizes == [40] * 12:
        assert max(map(len, peaks)) == 2


@pytest.mark.parametrize("step", ["read", "compute", "write"])
def test_errors_stop_the_pipeline(step):
    stop, started, ended = threading.Event(), [], []

    def fail(n, *_):
        if n == 3:
            raise OSError(step)

    def write(n, _):
        started.append(n)
        if step == "write":
            fail(n)
        time.sleep(0.01)
        ended.append(n)

    steps = (fail if step == "read" else lambda n: n, fail if step == "compute" else lambda n, _: n, write)
    with pytest.raises(OSError, match=step):
        list(pipelined(range(100), lambda n: 1, *steps, 3, stop))
    assert stop.is_set()
    assert sorted(started) == sorted({*ended, *([3] if step == "write" else [])})
    assert max(started) < 10


def test_the_caller_may_stop():
    stop, written = threading.Event(), []
    running = pipelined(
        range(1000), lambda n: 1, lambda n: n, lambda n, got: n, lambda n, got: written.append(n), 4, stop
    )
    assert next(running) == 0
    running.close()
    assert stop.is_set()
    assert len(written) < 20
