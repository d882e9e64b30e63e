"""Trainings that are killed at any moment, also while they save: a resumed run equals an uninterrupted one."""

import copy
import json
import random
import shutil
import signal
import sys
from itertools import chain, count

import pytest

from mcir.engine.checkpoint import Checkpoints, NetworkFile
from mcir.engine.fit import fit
from mcir.engine.resume import load_first, states_to_resume
from tests.trust.campaign import Campaign
from tests.trust.kills import Operations, content, run_in_child
from tests.trust.models import batch, make_model

SEED = 20261130
TOTAL = 5

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and killed")


@pytest.fixture(scope="module")
def model():
    """A model before its first step. Processes that are forked change their own copy of it."""
    model = make_model()
    copy.deepcopy(model).training_step(batch(1), 1)  # imports what a step needs
    return model


def train(folder, model):
    """Train to the end, from the last checkpoint if there is one; two checkpoints are kept, and the best network."""
    checkpoints = Checkpoints(folder, keep=2)
    states = states_to_resume(checkpoints, None, True)
    first = next(states, None)
    done = 0 if first is None else load_first(model, chain([first], states)).iteration
    checkpoints.rewind_to(done)

    def save(iteration, is_best):
        state = {"model": model.state_dict(), "validated": iteration, "best": None, "options": ""}
        checkpoints.save(iteration, state, NetworkFile.of(model), is_best=iteration == 3)

    fit(model, map(batch, count(done + 1)), total=TOTAL, start=done, save_every=1, on_checkpoint=save)
    checkpoints.wait()


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    """The files of an uninterrupted run, and the names of its operations on files."""
    folder = tmp_path_factory.mktemp("reference")
    names = folder.with_suffix(".json")

    def observed():
        operations = Operations(folder)
        train(folder, model)
        names.write_text(json.dumps(operations.names))

    assert run_in_child(observed) == 0
    return content(folder), json.loads(names.read_text())


def killed_and_resumed(folder, model, moments, expected):
    """Kill a run at each of the operations in turn, resume it, and return whether its files are the expected ones."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    def killed(moment):
        Operations(folder, moment)
        train(folder, model)

    for moment in moments:
        status = run_in_child(lambda moment=moment: killed(moment))
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the run ended with status {status}")
    if status := run_in_child(lambda: train(folder, model)):
        raise RuntimeError(f"the resumed run ended with status {status}")
    return content(folder) == expected


def test_the_operations_of_a_save_are_observed(reference):
    expected, names = reference
    assert set(expected) == {
        f"{folder}{label}.{suffix}"
        for folder, labels, suffixes in (
            ("training_states/", (4, 5), ("state",)),
            ("models/net_g_", (4, 5, "best"), ("pth", "safetensors")),
        )
        for label in labels
        for suffix in suffixes
    }
    kinds = [name.split()[0] for name in names]
    assert {"open", "write", "fsync", "rename", "unlink"} <= set(kinds)
    assert kinds.count("rename") == 3 * TOTAL + 2
    assert kinds.count("unlink") == 3 * (TOTAL - 2)


def test_killed_at_an_operation_of_each_kind(reference, model, tmp_path):
    choose, moments = random.Random(SEED), []
    for kind in ("open", "write", "write", "fsync", "rename", "unlink"):
        moments.append([choose.choice([number for number, name in enumerate(reference[1]) if name.startswith(kind)])])
    campaign(reference, model, tmp_path, moments)


@pytest.mark.slow
def test_killed_at_every_operation(reference, model, tmp_path):
    campaign(reference, model, tmp_path, [[moment] for moment in range(len(reference[1]))])


@pytest.mark.slow
def test_killed_several_times(reference, model, tmp_path):
    choose, moments = random.Random(SEED), range(len(reference[1]))
    campaign(reference, model, tmp_path, [choose.choices(moments, k=choose.randint(2, 4)) for _ in range(300)])


def campaign(reference, model, folder, attempts):
    expected, names = reference
    kills = Campaign("kills at operations of a save", SEED, limit_s=60)
    for moments in attempts:
        label = ", ".join(names[moment] for moment in moments)
        kills.attempt(label, lambda moments=moments: killed_and_resumed(folder / "run", model, moments, expected))
    kills.finish()
