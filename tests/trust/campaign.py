"""Campaigns: many attempts with damaged or hostile inputs, whose outcomes are counted.

The outcome of an attempt is `clean` (the right result, or a readable error), `raw` (an exception that is not for
users), `hang` (no end within the limit), or `silent` (a wrong result without an error).
"""

import os
import pickle
import signal
import traceback
from collections import Counter
from contextlib import contextmanager

OUTCOMES = ("clean", "raw", "hang", "silent")
READABLE = (ValueError, OSError)
_SHOWN = 10


class Hang(BaseException):
    """An attempt did not end in time."""


class Campaign:
    """Counter of outcomes.

    Args:
        name: name of the campaign.
        seed: seed of its inputs, for the printed line.
        limit_s: time limit of an attempt in seconds.
    """

    def __init__(self, name, seed, limit_s=10.0):
        self.name, self.seed, self.limit_s = name, seed, limit_s
        self.counts = Counter()
        self.failures = []

    def attempt(self, label, action):
        """Call a function that returns whether its result is right. A ValueError or OSError is a clean rejection."""
        try:
            with time_limit(self.limit_s):
                right = action()
            self.count("clean" if right else "silent", label)
        except READABLE:
            self.count("clean", label)
        except Hang as hang:
            self.count("hang", label, "".join(traceback.format_exception(hang)[-6:]))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self.count("raw", label, "".join(traceback.format_exception(error)[-2:]))

    def attempt_in_process(self, label, action):
        """Make an attempt in a forked process. A process that is ended by a signal counts as raw."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(round(6 * self.limit_s))
            attempt = Campaign(self.name, self.seed, self.limit_s)
            attempt.attempt(label, action)
            os.write(writing, pickle.dumps((attempt.counts, attempt.failures)))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            result = stream.read()
        _, status = os.waitpid(child, 0)
        if status:
            hangs = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            self.count("hang" if hangs else "raw", label, f"the process ended with status {status}")
            return
        counts, failures = pickle.loads(result)
        self.counts += counts
        self.failures += failures

    def count(self, outcome, label, details=""):
        """Count the outcome of an attempt that ran elsewhere, for example in another process."""
        assert outcome in OUTCOMES
        self.counts[outcome] += 1
        if outcome != "clean":
            self.failures.append(f"{outcome}: {label}\n{details}")

    def finish(self):
        """Print the counts, and fail if an attempt was not clean."""
        counts = "  ".join(f"{outcome} {self.counts[outcome]}" for outcome in OUTCOMES)
        print(f"{self.name} (seed {self.seed}): tried {self.counts.total()}  {counts}")
        assert not self.failures, "\n".join(self.failures[:_SHOWN])
        assert self.counts["clean"]


@contextmanager
def time_limit(seconds):
    """Raise ``Hang`` if the block does not end in time."""

    def stop(signum, frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
