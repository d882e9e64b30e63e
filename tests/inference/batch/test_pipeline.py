"""Reading ahead and writing behind: order, overlap, the bound on memory, and ends before the end."""

import threading
import time

import pytest

from mcir.inference.batch.pipeline import pipelined


def run(items, size=lambda item: 1, read=lambda item: item, compute=lambda item, got: got, write=None, room=100):
    stop = threading.Event()
    return list(pipelined(items, size, read, compute, write or (lambda item, got: None), room, stop))


def test_every_item_passes_all_three_steps_in_order():
    written = {}
    done = run(range(50), read=lambda n: n * 10, compute=lambda n, got: (n, got), write=written.__setitem__)
    assert done == list(range(50))
    assert written == {n: (n, 10 * n) for n in range(50)}
    assert run([]) == []


def test_computing_stays_in_the_thread_of_the_caller_and_the_others_leave_it():
    threads = {"read": set(), "compute": set(), "write": set()}

    def seen(step):
        return lambda *_: threads[step].add(threading.current_thread())

    run(range(9), read=seen("read"), compute=seen("compute"), write=seen("write"))
    assert threads["compute"] == {threading.main_thread()}
    assert threading.main_thread() not in threads["read"] | threads["write"]


def test_the_next_is_read_and_the_last_written_while_one_is_computed():
    """The second is computed only when the third has been read and the first is being written."""
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
def test_no_more_is_held_than_there_is_room_but_a_large_one_alone(sizes):
    lock = threading.Lock()
    held, peaks = {}, []

    def read(n):
        with lock:
            held[n] = sizes[n]
            peaks.append(dict(held))

    def write(n, _):
        time.sleep(0.002)
        with lock:
            del held[n]

    assert run(range(len(sizes)), size=sizes.__getitem__, read=read, write=write, room=100) == list(range(len(sizes)))
    assert all(sum(peak.values()) <= 100 or len(peak) == 1 for peak in peaks)
    if sizes == [40] * 12:
        assert max(map(len, peaks)) == 2


@pytest.mark.parametrize("step", ["read", "compute", "write"])
def test_an_error_ends_it_and_what_is_begun_is_finished(step):
    stop, begun, ended = threading.Event(), [], []

    def fail(n, *_):
        if n == 3:
            raise OSError(step)

    def write(n, _):
        begun.append(n)
        if step == "write":
            fail(n)
        time.sleep(0.01)
        ended.append(n)

    steps = (fail if step == "read" else lambda n: n, fail if step == "compute" else lambda n, _: n, write)
    with pytest.raises(OSError, match=step):
        list(pipelined(range(100), lambda n: 1, *steps, 3, stop))
    assert stop.is_set()
    assert sorted(begun) == sorted({*ended, *([3] if step == "write" else [])})
    assert max(begun) < 10


def test_the_caller_may_leave_off():
    stop, written = threading.Event(), []
    going = pipelined(
        range(1000), lambda n: 1, lambda n: n, lambda n, got: n, lambda n, got: written.append(n), 4, stop
    )
    assert next(going) == 0
    going.close()
    assert stop.is_set()
    assert len(written) < 20
