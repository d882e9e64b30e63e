"""Tests of requests to stop, in one process; ``test_distributed`` has those in two."""

import os
import signal

import pytest
import torch

from mcir.engine.distributed import DistContext
from mcir.engine.stop import StopRequest

SINGLE = DistContext(0, 1, torch.device("cpu"))


@pytest.fixture
def received():
    """The signals that reach the handlers of the surrounding program."""
    numbers = []
    before = {
        number: signal.signal(number, lambda number, frame: numbers.append(number))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_does_not_interrupt_the_loop(received, number):
    with StopRequest(SINGLE) as stop:
        assert stop.agreed() == 0 and not stop.is_requested()
        os.kill(os.getpid(), number)
        assert stop.is_requested() and stop.number == 0
        assert stop.agreed() == stop.number == number
        assert stop.agreed() == number
    assert received == []


@pytest.mark.parametrize(("second", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_the_process(received, second, status):
    with pytest.raises(SystemExit) as caught, StopRequest(SINGLE):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), second)
    assert caught.value.code == status
    assert received == []


def test_a_signal_after_the_last_iteration_is_raised_again(received):
    with StopRequest(SINGLE) as stop:
        assert stop.agreed() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == []
    assert received == [signal.SIGTERM]


def test_an_error_is_not_hidden_by_a_signal(received):
    with pytest.raises(ValueError, match="damaged"), StopRequest(SINGLE):
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("damaged")
    assert received == []


def test_the_previous_handlers_are_restored(received):
    with StopRequest(SINGLE):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    assert received == [signal.SIGINT]


def test_an_ignored_signal_stays_ignored(received):
    """``nohup`` ignores SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest(SINGLE) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.agreed() == 0


def test_a_signal_ends_the_wait_for_data(received):
    def batches():
        yield {"number": 1}
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("waits for ever")

    with StopRequest(SINGLE) as stop:
        assert list(stop.interruptible(batches())) == [{"number": 1}]
        assert stop.agreed() == signal.SIGTERM
