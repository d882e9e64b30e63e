"""Training states with a flipped bit: they are rejected, or load exactly."""

import random

import pytest
import torch

from mcir.engine.checkpoint import Checkpoints, NetworkFile, read_state
from mcir.engine.resume import load_first
from mcir.models.state import digest
from tests.trust.campaign import Campaign
from tests.trust.models import batch, make_model

SEED = 20261131
FACTS = ("iteration", "validated", "best", "best_by", "options")


@pytest.fixture(scope="module")
def model():
    model = make_model()
    model.training_step(batch(1), 1)
    return model


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run"))
    progress = {"validated": 1, "best": 30.5, "best_by": {"psnr": 30.5}, "options": "name: flips\n"}
    checkpoints.save(1, {"model": model.state_dict(), **progress}, NetworkFile.of(model))
    checkpoints.wait()
    return checkpoints.state_file(1)


def loads_exactly(model, file, original):
    """Return whether a state and the model that loads it equal the original state."""
    state = load_first(model, iter([read_state(file)]))
    loaded = {name: digest(part) for name, part in model.state_dict().items()}
    same_facts = all(getattr(state, key) == getattr(original, key) for key in FACTS)
    return same_facts and {"": original.digests[""], **loaded} == original.digests


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_the_file(model, file, tmp_path, count):
    campaign, choose = Campaign("bit flips in training states", SEED), random.Random(SEED)
    original, data, flipped = read_state(file), file.read_bytes(), tmp_path / "1.state"
    for _ in range(count):
        position, bit = choose.randrange(len(data)), choose.randrange(8)
        flipped.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
        campaign.attempt(f"byte {position} bit {bit}", lambda: loads_exactly(model, flipped, original))
    campaign.finish()


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_a_tensor(model, file, tmp_path, count):
    """The bit was flipped before the file was written, so only the digest shows it."""
    campaign, choose = Campaign("bit flips in tensors of states", SEED), random.Random(SEED)
    flipped = tmp_path / "1.state"
    for _ in range(count):
        content = torch.load(file, weights_only=True)
        name, tensor = choose.choice([pair for pair in tensors(content["model"]) if pair[1].numel()])
        values = tensor.view(-1).view(torch.uint8)
        values[choose.randrange(len(values))] ^= 1 << choose.randrange(8)
        torch.save(content, flipped)
        campaign.attempt(name, lambda: not load_first(model, iter([read_state(flipped)])))  # it must not load
    campaign.finish()


def tensors(tree, path=""):
    """Yield the tensors of a state and their paths."""
    for key, value in tree.items():
        if isinstance(value, torch.Tensor):
            yield f"{path}{key}", value
        elif isinstance(value, dict):
            yield from tensors(value, f"{path}{key}.")
