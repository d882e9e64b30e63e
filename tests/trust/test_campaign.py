"""The counter of outcomes."""

import os
import signal
import time

import pytest

from tests.trust.campaign import Campaign


def _raise(error):
    raise error


def test_outcomes(capsys):
    campaign = Campaign("example", seed=1, limit_s=0.2)
    campaign.attempt("right", lambda: True)
    campaign.attempt("rejected", lambda: _raise(ValueError("expected 1")))
    campaign.finish()
    campaign.attempt("wrong", lambda: False)
    campaign.attempt("bug", lambda: _raise(KeyError("x")))
    campaign.attempt("endless", lambda: time.sleep(10))
    with pytest.raises(AssertionError, match="silent: wrong"):
        campaign.finish()
    assert "example (seed 1): tried 5  clean 2  raw 1  hang 1  silent 1" in capsys.readouterr().out


def test_a_campaign_without_attempts_fails():
    with pytest.raises(AssertionError):
        Campaign("empty", seed=0).finish()


@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        (lambda: True, "clean"),
        (lambda: False, "silent"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "raw"),
        (lambda: 1 / 0, "raw"),
    ],
)
def test_an_attempt_in_a_process(action, outcome):
    campaign = Campaign("test", 0)
    campaign.attempt_in_process("x", action)
    assert campaign.counts == {outcome: 1} and len(campaign.failures) == (outcome != "clean")
