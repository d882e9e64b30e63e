"""Tests of the watchdog, in processes whose main thread never returns to Python."""

import signal
import subprocess
import sys
import time

import pytest

HANGS = """
import ctypes, signal, sys, time
from mcir.engine import watchdog
from mcir.engine.watchdog import Watchdog

watchdog.PATIENCE_S = 1.0
signal.signal(signal.SIGTERM, lambda *_: None)
with Watchdog([signal.SIGTERM]) as dog:
    time.sleep(float(sys.argv[1]))  # an iteration
    dog.progress()
    print("hangs", flush=True)
    if sys.argv[2] == "saves":
        with dog.paused():
            time.sleep(3)
    else:
        ctypes.CDLL(None).sleep(int(sys.argv[2]))  # ended by a signal, then
        ctypes.CDLL(None).sleep(int(sys.argv[2]))  # never returns to Python
print("ends")
"""


def start(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "hangs\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    return process


@pytest.mark.parametrize(("iteration", "seconds"), [("0", 1), ("1", 2)])
def test_a_process_that_hangs_in_a_library_ends_after_twice_its_usual_time(iteration, seconds):
    begin = time.monotonic()
    process = start(iteration, "60")
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert seconds <= time.monotonic() - begin < seconds + 10
    assert (output, f"within {seconds} s of signal 15" in errors) == ("", True)


def test_saving_takes_any_time_and_a_second_signal_ends_it():
    saving, impatient = start("0", "saves"), start("0", "60")
    impatient.send_signal(signal.SIGTERM)
    assert saving.communicate(timeout=30)[0] == "ends\n"
    impatient.communicate(timeout=30)
    assert (saving.returncode, impatient.returncode) == (0, 128 + signal.SIGTERM)
