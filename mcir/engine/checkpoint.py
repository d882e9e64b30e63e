"""Checkpoints of a run, which are written atomically and in the background.

The checkpoint of iteration n consists of three files: ``models/net_g_n.pth`` contains ``params`` and ``params_ema`` as
in BasicSR, with the name and arguments of the network; ``models/net_g_n.safetensors`` contains the weights for
restoring, with the same metadata; ``training_states/n.state`` contains the state for resuming. The best network so far
is ``models/net_g_best.*``.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from mcir.atomic import atomic_file, remove_temporary_files
from mcir.models import Model
from mcir.models.state import digest
from mcir.paths import file_problem
from mcir.weights import WeightsError, network_config, network_metadata, read_torch_file, read_weights, to_safetensors

_LOG = logging.getLogger("mcir")
_FORMAT = 1
_CHECKPOINT_FILE = re.compile(r"(?:net_g_)?(\d+)\.(?:state|pth|safetensors)")


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read."""


class TrainingState(BaseModel):
    """The content of a ``.state`` file. Keys of other versions are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    file: Path
    """File that was read."""
    format: Literal[1]
    """Version of the format."""
    iteration: int = Field(ge=0)
    """Number of iterations that are done."""
    model: dict[str, dict[str, Any]]
    """State of each part of the model."""
    options: str
    """Resolved options of the run."""
    validated: int | None = None
    """Iteration of the last complete validation. Version 0.1.0 did not save it."""
    best: float | None = None
    """First of the values in ``best_by``."""
    best_by: dict[str, float] | None = None
    """Qualities of the best model by metric. Version 0.1.0 did not save them."""
    digests: dict[str, str] | None = None
    """Digest of each part of the model, and of everything else under ``""``. Earlier versions did not save them."""

    def best_metrics(self, names: Sequence[str]) -> dict[str, float]:
        """Return the qualities of the best model by metric; ``names`` are the metrics that select it."""
        if self.best_by is not None:
            return self.best_by
        return {} if self.best is None else dict.fromkeys(names[:1], self.best)


@dataclass
class NetworkFile:
    """The content of a network's weight files.

    Attributes:
        weights: ``params`` and, if there is a moving average, ``params_ema``.
        architecture: registered name of the network.
        hyperparameters: constructor arguments of the network.
    """

    weights: dict[str, dict[str, Tensor]]
    architecture: str
    hyperparameters: dict[str, Any]

    @classmethod
    def of(cls, model: Model) -> "NetworkFile":
        """Return the content of the weight files of a model."""
        return cls(model.weights(), *network_config(model.network))


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: folder of the run.
        keep: number of latest checkpoints to keep, in addition to the best network. Default: all.
    """

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.states = folder / "training_states"
        self.keep = keep
        self._buffers: list[Tensor] = []
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    # -- writing --------------------------------------------------------------------------------------------------

    def save(self, iteration: int, state: Mapping[str, Any], network: NetworkFile, is_best: bool = False) -> None:
        """Copy the state to host memory and write the checkpoint of an iteration in the background.

        Raises:
            CheckpointError: the previous checkpoint could not be written.
        """
        self.wait()
        copies: dict[tuple[Any, ...], Tensor] = {}
        state = self._copy({"format": _FORMAT, "iteration": iteration, **state}, copies)
        network = NetworkFile(self._copy(network.weights, copies), network.architecture, network.hyperparameters)
        self._buffers = list(copies.values())
        self._writing = self._writer.submit(self._write, iteration, state, network, is_best)

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            CheckpointError: the checkpoint could not be written.
        """
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except Exception as failure:
            kept = self.iterations()
            last = f"The last checkpoint is that of iteration {kept[-1]}" if kept else "There is no earlier checkpoint"
            raise CheckpointError(f"A checkpoint could not be written: {failure}. {last}.") from failure

    def raise_failure(self) -> None:
        """Raise an error if writing the last checkpoint has already failed, without waiting for it.

        Raises:
            CheckpointError: the checkpoint could not be written.
        """
        if self._writing is not None and self._writing.done():
            self.wait()

    def _copy(self, tree: Any, copies: dict[tuple[Any, ...], Tensor]) -> Any:
        """Copy a tree to host memory, each tensor once. Reuse the buffers of the previous checkpoint if they match."""
        if isinstance(tree, Tensor):
            form = (tree.shape, tree.stride(), tree.dtype)
            key = (tree.data_ptr() or id(tree), *form)
            if key not in copies:
                buffer = self._buffers[len(copies)] if len(copies) < len(self._buffers) else None
                if buffer is None or (buffer.shape, buffer.stride(), buffer.dtype) != form:
                    buffer = torch.empty_like(tree, device="cpu", requires_grad=False)
                copies[key] = buffer.copy_(tree.detach())
            return copies[key]
        if isinstance(tree, Mapping):
            return {key: self._copy(value, copies) for key, value in tree.items()}
        if isinstance(tree, list | tuple):
            return type(tree)(self._copy(value, copies) for value in tree)
        return tree

    def _write(self, iteration: int, state: Mapping[str, Any], network: NetworkFile, is_best: bool) -> None:
        for label in [str(iteration), *(["best"] if is_best else [])]:
            write_network(self.models / f"net_g_{label}", network, iteration)
        # the state is written last, so a checkpoint that has a state is complete
        with atomic_file(self.state_file(iteration), durable=True) as file:
            torch.save({**state, "digests": digests(state)}, file)
        self._prune()

    def _prune(self) -> None:
        """Remove the files of older checkpoints than those to keep, also files that a killed process left behind."""
        iterations = self.iterations()
        if self.keep is None or not iterations:
            return
        kept = iterations[-self.keep :]
        for file in (*self.states.glob("*"), *self.models.glob("*")):
            found = _CHECKPOINT_FILE.fullmatch(file.name)
            if found and int(found[1]) < kept[-1] and int(found[1]) not in kept:
                file.unlink(missing_ok=True)

    # -- reading --------------------------------------------------------------------------------------------------

    def state_file(self, iteration: int) -> Path:
        """Return the path of the state of an iteration."""
        return self.states / f"{iteration}.state"

    def iterations(self) -> list[int]:
        """Return the iterations of all checkpoints that have a state, in ascending order."""
        if not self.states.is_dir():
            return []
        return sorted(int(file.stem) for file in self.states.iterdir() if re.fullmatch(r"\d+\.state", file.name))

    def rewind_to(self, iteration: int) -> None:
        """Rename the states of later iterations, and remove incomplete and superfluous files of a killed process."""
        for later in self.iterations():
            if later > iteration:
                file = self.state_file(later)
                file.replace(file.with_suffix(".state.abandoned"))
        remove_temporary_files(self.folder)
        self._prune()


def digests(state: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each part of the model in a training state, and that of everything else under ``""``."""
    others = {key: value for key, value in state.items() if key not in ("model", "digests")}
    return {"": digest(others), **{name: digest(part) for name, part in state["model"].items()}}


def read_state(file: Path) -> TrainingState:
    """Read a training state.

    Raises:
        CheckpointError: the file does not exist, is damaged, or is not a training state of mcir.
    """
    if problem := file_problem(file):
        raise CheckpointError(f"{file}: expected a training state, but the path {problem}.")
    try:
        content = read_torch_file(file)
        state = TrainingState.model_validate({**content, "file": file} if isinstance(content, dict) else content)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the content"
        raise CheckpointError(f"{file}: expected a training state of mcir, got {where}: {first['msg']}.") from error
    if state.digests is not None and digests({**content, "model": {}}) != {"": state.digests.get("")}:
        raise CheckpointError(f"{file} is damaged: its digest does not match.")
    return state


def archive_run(folder: Path) -> None:
    """Rename the folder of an earlier run, so that a new run with the same name does not overwrite its files."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(folder.stat().st_mtime))
    target = folder.with_name(f"{folder.name}_archived_{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}_archived_{stamp}_{number}")
    folder.rename(target)
    _LOG.info("The folder of an earlier run with this name was renamed to %s.", target)


def write_network(base: Path, network: NetworkFile, iteration: int) -> None:
    """Write ``base.pth`` and ``base.safetensors``.

    Raises:
        OSError: a file cannot be written, for example because the disk is full. Existing files are not changed.
    """
    weights = {
        name: {key: value.contiguous() for key, value in params.items()} for name, params in network.weights.items()
    }
    facts = network_metadata(network.architecture, network.hyperparameters)
    with atomic_file(base.with_name(base.name + ".pth"), durable=True) as file:
        torch.save({**weights, **facts}, file)
    best = "params_ema" if "params_ema" in weights else "params"
    content = to_safetensors(weights[best], {**facts, "weights": best, "iteration": str(iteration)})
    with atomic_file(base.with_name(base.name + ".safetensors"), durable=True) as file:
        file.write_bytes(content)


def load_into(model: Model, file: Path, key: str | None = None, strict: bool = True) -> None:
    """Load a weight file into a model. Log weights that do not match.

    Args:
        model: model whose network gets the weights.
        file: path of the weight file.
        key: entry of the file that contains the weights. Default: ``params_ema``, else ``params``, else the whole file.
        strict: whether the file must contain exactly the weights of the network.

    Raises:
        WeightsError: the file cannot be read, or ``strict`` is set and the weights do not match.
    """
    weights = read_weights(file, key).tensors
    try:
        mismatches = model.load_weights(weights, strict)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    if mismatches:
        listed = ", ".join(mismatches[:10]) + (" …" if len(mismatches) > 10 else "")
        _LOG.warning("%s: %d weights do not match and are not loaded: %s", file, len(mismatches), listed)
