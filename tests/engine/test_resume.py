"""Tests of training states: intact ones are loaded exactly, all others are named and passed over."""

import logging
import os
import pickle

import pytest
import torch

from mcir.engine.checkpoint import CheckpointError, Checkpoints, NetworkFile, read_state
from mcir.engine.resume import load_first, states_to_resume
from mcir.models import ContrastiveModel
from mcir.models.state import digest

OPTIONS = {
    "network_g": {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2},
    "pixel_opt": {"type": "L1Loss"},
    "contrastive_opt": {"type": "SPNLoss", "weights": "random", "layer_weights": {"relu1_1": 1.0}},
    "negatives": {"type": "HistoryNegatives", "steps": [1, 2]},
    "ema_decay": 0.5,
    "optim_g": {"type": "Adam", "lr": 1e-2},
}


def make_model(**options):
    model = ContrastiveModel(**{**OPTIONS, **options})
    model.configure_optimizer()
    return model


def step(model, iteration):
    gt = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(iteration))
    model.training_step({"lq": gt[..., ::2, ::2], "gt": gt}, iteration)


def write(checkpoints, model, iteration):
    progress = {"validated": iteration, "best": 30.0, "best_by": {"psnr": 30.0}, "options": "name: x\n"}
    checkpoints.save(iteration, {"model": model.state_dict(), **progress}, NetworkFile.of(model))
    checkpoints.wait()


def change(file, function):
    """Change the content of a state; its zip file stays valid."""
    content = torch.load(file, weights_only=True)
    changed = function(content)
    torch.save(content if changed is None else changed, file)


def model_digests(model):
    return {name: digest(part) for name, part in model.state_dict().items()}


def load(checkpoints, model, resume=True, file=None):
    return load_first(model, states_to_resume(checkpoints, file, resume))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoints of iterations 1 and 2, and the model after iteration 2."""
    model, folder = make_model(), tmp_path_factory.mktemp("run")
    for iteration in (1, 2):
        step(model, iteration)
        write(Checkpoints(folder), model, iteration)
    return folder, model


@pytest.fixture
def checkpoints(trained, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.states.mkdir()
    for iteration in (1, 2):
        file = Checkpoints(trained[0]).state_file(iteration)
        checkpoints.state_file(iteration).write_bytes(file.read_bytes())
    return checkpoints


@pytest.fixture
def mcir_log(monkeypatch, caplog):
    """The captured log of mcir, whose logger may not propagate."""
    monkeypatch.setattr(logging.getLogger("mcir"), "propagate", True)
    caplog.set_level(logging.INFO, "mcir")
    return caplog


def test_a_loaded_state_is_saved_again_with_the_same_digests(checkpoints, trained, tmp_path, mcir_log):
    model = make_model(channels_last=True)  # another memory layout
    state = load(checkpoints, model)
    assert (state.iteration, state.best_metrics(["psnr"])) == (2, {"psnr": 30.0})
    assert model_digests(model) == {name: value for name, value in state.digests.items() if name}
    for each in (model, trained[1]):
        step(each, 3)
    torch.testing.assert_close(model.network.state_dict(), trained[1].network.state_dict())
    assert "2.state: resuming after iteration 2 with the saved weights, negatives and moments" in mcir_log.text


def test_the_digest_depends_on_every_value_and_not_on_the_layout():
    tree = {"a": [torch.zeros(2, 3, 4, 5), 1], "b": {"c": torch.ones((), dtype=torch.bfloat16), "d": None}}
    others = [
        {"a": [torch.zeros(3, 2, 4, 5), 1], "b": tree["b"]},
        {"a": [torch.zeros(2, 3, 4, 5).double(), 1], "b": tree["b"]},
        {"a": [torch.full((2, 3, 4, 5), -0.0), 1], "b": tree["b"]},
        {"a": [tree["a"][0], 2], "b": tree["b"]},
        {"a": tree["a"], "b": {"c": tree["b"]["c"]}},
        {"a": tree["a"]},
        {"a": [tree["a"], []], "b": tree["b"]},
    ]
    assert len({digest(each) for each in (tree, *others)}) == 1 + len(others)
    layout = {"b": tree["b"], "a": (tree["a"][0].to(memory_format=torch.channels_last), 1)}
    assert digest(layout) == digest(tree)


DAMAGES = {
    "cut": (lambda data: data[: len(data) // 2], "cannot be read"),
    "empty": (lambda data: b"", "cannot be read"),
    "garbage": (lambda data: b"\x00\xff" * 100, "cannot be read"),
    "text": (lambda data: b"the weights of last night", "cannot be read"),
    "pickle": (lambda data: pickle.dumps([1], protocol=2), "cannot be read"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_state_is_named_and_passed_over(checkpoints, mcir_log, damage, message):
    file = checkpoints.state_file(2)
    file.write_bytes(damage(file.read_bytes()))
    (checkpoints.states / ".3.state.99999999").write_bytes(b"left by a killed process")
    assert [state.iteration for state in states_to_resume(checkpoints, None, True)] == [1]
    assert [text for text in mcir_log.messages if str(file) in text and message in text]
    checkpoints.state_file(1).write_bytes(b"")
    assert list(states_to_resume(checkpoints, None, True)) == []
    assert "is intact. The training starts from the beginning." in mcir_log.text


def drop(part):
    return lambda state: {key: value for key, value in state.items() if key != part}


def in_model(**parts):
    return lambda state: {**state, "model": {**state["model"], **parts}}


def poison(state):
    state["model"]["ema"]["network.conv_first.weight"][0, 0, 0, 0] = float("nan")
    del state["digests"]


def flip(part, *keys):
    def function(state):
        tree = state["model"][part]
        for key in keys:
            tree = tree[key]
        tree.view(-1).view(torch.uint8)[0] ^= 1

    return function


def without_digests(function):
    return lambda state: {key: value for key, value in function(state).items() if key != "digests"}


WRONG = {
    "format alone": lambda state: {"format": 1},
    "another program": lambda state: {"iteration": 3, "epoch": 1},
    "later format": lambda state: {**state, "format": 2},
    "list": lambda state: [1, 2],
    "tensor": lambda state: torch.ones(2),
    "no iteration": drop("iteration"),
    "no options": drop("options"),
    "negative iteration": lambda state: {**state, "iteration": -1},
    "text iteration": lambda state: {**state, "iteration": "2"},
    "model is a list": lambda state: {**state, "model": []},
    "part is a number": in_model(ema=3),
    "best is a text": lambda state: {**state, "best_by": {"psnr": "high"}},
    "missing part": lambda state: {**state, "model": drop("negatives")(state["model"])},
    "another iteration": lambda state: {**state, "iteration": 1},
    "another best": lambda state: {**state, "best_by": {"psnr": 31.0}},
    "other options": lambda state: {**state, "options": "name: y\n"},
    "empty optimizer": without_digests(in_model(optimizer={})),
    "wrong moments": without_digests(in_model(optimizer={"state": {0: 3}, "param_groups": [{}]})),
    "moments of other shapes": without_digests(
        in_model(
            optimizer={
                "state": {0: {name: torch.ones(2, 2, 1, 1) for name in ("step", "exp_avg", "exp_avg_sq")}},
                "param_groups": [{}],
            }
        )
    ),
    "too many moments": without_digests(in_model(optimizer={"state": {99: {}}, "param_groups": [{}]})),
    "empty network": without_digests(in_model(network_g={})),
    "network of numbers": without_digests(
        lambda state: in_model(network_g=dict.fromkeys(state["model"]["network_g"], 1.0))(state)
    ),
    "other shapes": without_digests(
        lambda state: in_model(network_g={key: value[..., :1] for key, value in state["model"]["network_g"].items()})(
            state
        )
    ),
    "another dtype": lambda state: in_model(
        network_g={key: value.double() + 1e-3 for key, value in state["model"]["network_g"].items()}
    )(state),
    "weight": flip("network_g", "conv_first.weight"),
    "average": flip("ema", "network.conv_first.bias"),
    "negative": flip("negatives", "members.1.network.conv_last.weight"),
    "moment": flip("optimizer", "state", 0, "exp_avg_sq"),
    "nan": poison,
}


@pytest.mark.parametrize("function", WRONG.values(), ids=WRONG)
def test_a_state_of_wrong_content_is_named_and_passed_over(checkpoints, mcir_log, function):
    """The zip file is valid, so only the content, the model or the digests show that it is wrong."""
    change(checkpoints.state_file(2), function)
    model = make_model()
    assert load(checkpoints, model).iteration == 1
    assert [text for text in mcir_log.messages if str(checkpoints.state_file(2)) in text and len(text) < 1200]
    assert model_digests(model).items() <= read_state(checkpoints.state_file(1)).digests.items()


def test_a_state_that_is_given_by_its_path_is_an_error_if_it_is_wrong(checkpoints):
    file = checkpoints.state_file(2)
    with pytest.raises(ValueError, match=r"x\.state: expected a training state, but the path does not exist"):
        load(checkpoints, make_model(), resume=False, file="x.state")
    with pytest.raises(CheckpointError, match="expected a training state, but the path is a folder"):
        read_state(checkpoints.states)
    change(file, drop("model"))
    with pytest.raises(ValueError, match=r"2\.state: expected a training state .*model: Field required"):
        load(checkpoints, make_model(), resume=False, file=str(file))


def test_a_network_that_no_state_fits_is_an_error(checkpoints):
    other = make_model(network_g={**OPTIONS["network_g"], "num_feat": 6})
    with pytest.raises(CheckpointError, match=r"1\.state does not fit the options of this run: .*conv_first\.weight"):
        load(checkpoints, other)
    with pytest.raises(CheckpointError, match=r"1\.state does not fit.*expected the parts .*ema"):
        load(checkpoints, make_model(ema_decay=0.0))


class Malicious:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def dump_alone(content, file):
    file.write_bytes(pickle.dumps(content, protocol=2))


def load_alone(file):
    return pickle.loads(file.read_bytes())


def load_archive(file):
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(("dump", "load_carelessly"), [(dump_alone, load_alone), (torch.save, load_archive)])
def test_code_in_a_file_is_not_run(tmp_path, dump, load_carelessly):
    file, folder = tmp_path / "net.state", tmp_path / "owned"
    dump({"params": {"a": Malicious(str(folder))}}, file)
    with pytest.raises(CheckpointError, match=r"net\.state cannot be read") as caught:
        read_state(file)
    assert "weights_only" not in str(caught.value)
    assert not folder.exists()
    load_carelessly(file)
    assert folder.is_dir()  # loading it without weights_only runs the code
