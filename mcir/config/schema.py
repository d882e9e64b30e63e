"""The sections of an option file that are the same for every task, as frozen models.

What differs from task to task, a network, a loss, a data set, is a *component*: its section holds the arguments of the
registered class that its ``type`` names, and is checked against the constructor's signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter
from typing import Annotated, Any, Literal

import addict
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PrivateAttr, SkipValidation
from pydantic_core import PydanticCustomError

from mcir.config.tree import Node
from mcir.config.yaml_loader import write
from mcir.registry import MODELS, KeyPath, Location, MetricSection, Where


def _one_folder(name: str) -> str:
    if "/" in name or "\\" in name or "\0" in name or not name.strip("."):
        raise PydanticCustomError("folder_name", "that a folder can bear, without slashes and not of dots alone")
    return name


FolderName = Annotated[str, AfterValidator(_one_folder)]
"""A name that becomes a folder and leads nowhere else."""


class Fixed(BaseModel):
    """A section whose keys are fixed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PathOptions(Fixed):
    """Files that a run starts from, and where its own go."""

    pretrain_network_g: str | None = Field(default=None, description="Weights that the network starts from.")
    strict_load_g: bool = Field(default=True, description="The file and the network hold the same weights.")
    param_key_g: str | None = Field(
        default=None,
        description="Entry of the file that holds the weights; null: params_ema, else params, else the file itself.",
    )
    resume_state: str | None = Field(default=None, description="Training state that the run goes on from.")
    experiments_root: str = Field(default="experiments", description="Gets one folder for each training run.")
    results_root: str = Field(default="results", description="Gets one folder for each test.")


class ValOptions(Fixed):
    """How a network is evaluated, while it trains and afterwards."""

    val_freq: int = Field(default=5000, ge=1, description="Evaluate each time so many iterations have passed.")
    save_img: bool = Field(default=False, description="Save every restored image as a file.")
    suffix: str | None = Field(default=None, description="What saved images' names end with, behind a '_'.")
    pictures: int = Field(default=4, ge=0, description="Side-by-side pictures that are shown of each data set.")
    metrics: SkipValidation[Mapping[str, MetricSection]] = Field(
        default_factory=addict.Dict, description="Metrics by the name under which their results are shown."
    )


class LoggerOptions(Fixed):
    """What a run tells and keeps."""

    print_freq: int = Field(default=100, ge=1, description="Log each time so many iterations have passed.")
    save_checkpoint_freq: int = Field(default=5000, ge=1, description="Save each time so many iterations have passed.")
    keep_checkpoints: int = Field(default=5, ge=1, description="Latest checkpoints that are kept, beside the best.")
    use_tb_logger: bool = Field(default=True, description="Write a TensorBoard log.")
    report: bool = Field(default=True, description="Write report.html, a page of the training, at its end.")


class DistOptions(Fixed):
    """How several processes work together."""

    backend: Literal["auto", "nccl", "gloo"] = Field(default="auto", description="auto: nccl on GPUs, gloo on CPUs.")
    find_unused_parameters: bool = Field(default=False, description="Allow weights without gradient; slower.")
    timeout_minutes: float = Field(default=30.0, gt=0, description="A process that waits longer gives up.")


class Stage(Fixed):
    """From which iteration on a training set is cut into other crops and other batches."""

    start: int = Field(ge=1, description="Iterations that are done when the stage begins.")
    gt_size: int = Field(ge=1, description="Side of the square that is cut from a ground truth.")
    batch_size_per_gpu: int = Field(ge=1, description="Samples in a batch of each process.")


class DatasetOptions(Fixed):
    """A data set and how it is loaded."""

    name: FolderName = Field(description="How results call the data set; its key in the option file unless given.")
    section: SkipValidation[Any] = Field(description="Type and arguments of the data set's class.")
    batch_size_per_gpu: int = Field(default=1, ge=1, description="Samples in a batch of each process.")
    num_worker_per_gpu: int = Field(
        default=0, ge=0, description="Processes that load data; 0: the training process does."
    )
    progressive: SkipValidation[tuple[Stage, ...]] = Field(
        default=(), description="Later stages of the training, in order: larger crops in smaller batches, as a rule."
    )


class Datasets(Fixed):
    """The data sets of a run."""

    train: DatasetOptions | None = None
    val: dict[str, DatasetOptions] = Field(default_factory=dict)
    test: dict[str, DatasetOptions] = Field(default_factory=dict)


class TrainOptions(Fixed):
    """How long a model trains, and the arguments of its constructor."""

    total_iter: int = Field(ge=1, description="Number of iterations.")
    model: SkipValidation[Any] = Field(description="Arguments of the model's class.")


class General(Fixed):
    """The single values at the top of an option file."""

    name: FolderName = Field(description="Name of the run and of its folder.")
    model_type: SkipValidation[str] = Field(description="Class of the model: how a training step is made.")
    scale: int = Field(default=1, ge=1, description="Size of the output over the size of the input.")
    num_gpu: Literal["auto"] | NonNegativeInt = Field(
        default="auto", description="Number of GPUs; auto: all that are there, 0: CPU."
    )
    manual_seed: int = Field(default=0, ge=0, description="Decides every random draw.")
    imports: tuple[str, ...] = Field(default=(), description="Modules that register components of your own.")


class Options(General):
    """A checked option file."""

    datasets: Datasets
    networks: SkipValidation[Mapping[str, Any]] = Field(description="Sections of the networks: network_g and others.")
    path: PathOptions = Field(default_factory=PathOptions)
    train: TrainOptions | None = None
    val: ValOptions = Field(default_factory=ValOptions)
    logger: LoggerOptions = Field(default_factory=LoggerOptions)
    dist_params: DistOptions = Field(default_factory=DistOptions)

    _root: Node = PrivateAttr(default_factory=lambda: Node({}, Location("options")))

    def __eq__(self, other: object) -> bool:
        """Compare the values, wherever they were written."""
        return isinstance(other, Options) and self.model_dump() == other.model_dump()

    def where(self, *section: str) -> Where:
        """Return the function that finds the locations of a section's values, for ``Registry.build``."""
        return lambda path: self._root.locate((*section, *path))

    def where_in_model(self, path: KeyPath) -> Location:
        """Return the location of a value in ``model_section()``."""
        at_top = path[0].startswith("network_") if path and isinstance(path[0], str) else False
        return self._root.locate(path if at_top else ("train", *path))

    @property
    def network_g(self) -> Any:
        """The section of the network that restores."""
        return self.networks["network_g"]

    def model_section(self) -> Any:
        """Return the section that ``MODELS.build`` takes; without training options it holds only the networks."""
        section = {"type": self.model_type, **self.networks}
        if "seed" in MODELS.parameters(self.model_type):
            section["seed"] = self.manual_seed
        return freeze(section | (self.train.model if self.train else {}))

    def dump(self) -> str:
        """Return the options as an option file of today's names, everything resolved and defaults filled in."""
        tree = {key: getattr(self, key) for key in General.model_fields}
        tree["datasets"] = {
            key: {
                "name": dataset.name,
                **dataset.section,
                **dataset.model_dump(include=LOADER_KEYS if key == "train" else EVALUATION_LOADER_KEYS),
            }
            for key, dataset in self._datasets().items()
        }
        tree |= self.networks
        tree["path"] = self.path.model_dump()
        if self.train:
            tree["train"] = {"total_iter": self.train.total_iter, **self.train.model}
        tree["val"] = self.val.model_dump()
        tree["logger"] = self.logger.model_dump()
        tree["dist_params"] = self.dist_params.model_dump()
        return write(thaw(tree))

    def _datasets(self) -> dict[str, DatasetOptions]:
        train = {"train": self.datasets.train} if self.datasets.train else {}
        return {**train, **self.datasets.val, **self.datasets.test}


LOADER_KEYS = {"batch_size_per_gpu", "num_worker_per_gpu", "progressive"}
"""Keys of a training set's section that are the loader's."""
EVALUATION_LOADER_KEYS = {"num_worker_per_gpu"}
"""The same of an evaluation set, which is read image by image."""


def parameters_of(model: type[Fixed]) -> dict[str, Parameter]:
    """Return the fields of a section in the form of a constructor's arguments."""
    parameters = {}
    for name, field in model.model_fields.items():
        default = Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
        annotated: Any = (field.annotation, *field.metadata)
        annotation = Annotated[annotated] if field.metadata else field.annotation
        parameters[name] = Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    return parameters


def freeze(value: Any) -> Any:
    """Return mappings as frozen ``addict.Dict``: attributes read, and a missing one raises."""
    if isinstance(value, Mapping):
        section = addict.Dict()
        for key, entry in value.items():
            dict.__setitem__(section, key, freeze(entry))
        section.freeze()
        return section
    if isinstance(value, list | tuple):
        return type(value)(freeze(entry) for entry in value)
    return value


def thaw(value: Any) -> Any:
    """Return a frozen tree as ordinary mappings, lists and scalars."""
    if isinstance(value, Mapping):
        return {key: thaw(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(entry) for entry in value]
    return value if value is None or type(value) in (bool, int, float, str) else str(value)
