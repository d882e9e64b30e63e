"""The sections of an option file with fixed keys, and the validated options as a whole.

Every other section (a network, a loss, a data set, …) is a *component*: ``type`` is the name of a registered class, and
the other keys are the arguments of its constructor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import addict
from annotated_types import Interval, Len
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from mcir.config.components import Arguments, annotation_of, field_type, validate_value
from mcir.config.names import FolderName, NameEnd
from mcir.config.tree import Node
from mcir.config.wording import problem, unexpected
from mcir.config.yaml_loader import write
from mcir.domains import BatchSize, CountOrZero, Iterations, Positive, Scale, Seed, Side
from mcir.errors import KeyPath, Location, Where, suggestion
from mcir.paths import OutputPath, UserPath
from mcir.registry import MODELS, MetricSection


class Fixed(Arguments):
    """A section with fixed keys."""

    unknown = "{owner} has no option '{key}'."

    @field_validator("*", mode="wrap")
    @classmethod
    def _convert(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return validate_value(annotation_of(cls.model_fields[info.field_name]), value, handler)


def _to_int(value: Any) -> Any:
    """Convert a float without a fraction to an integer, as for options that accept only integers."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


def freeze(value: Any) -> Any:
    """Convert mappings to frozen ``addict.Dict``, whose entries are attributes. A missing entry raises ``KeyError``."""
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
    """Convert frozen or validated sections to ordinary mappings, lists and scalars."""
    if isinstance(value, Fixed):
        value = dict(value)
    if isinstance(value, Mapping):
        return {key: thaw(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(entry) for entry in value]
    return value if value is None or type(value) in (bool, int, float, str) else str(value)


def _in_order(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    starts = [stage.start for stage in stages]
    if starts != sorted(set(starts)):
        raise problem(f"expected stages in the order of their starts, got {starts}.")
    return stages


def _known_metrics(names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    metrics = info.data.get("metrics", names)  # missing if it is not valid
    for name in names:
        if name not in metrics:
            raise unexpected(
                f"names of 'val.metrics' ({', '.join(metrics) or 'none'})", name, suggestion(name, metrics)
            )
    return names


Frozen = Annotated[Any, AfterValidator(freeze)]
"""Frozen arguments of components."""

if TYPE_CHECKING:
    Metrics = Mapping[str, Any]
else:
    Metrics = Annotated[
        field_type(Mapping[str, MetricSection]),
        BeforeValidator(lambda value: {} if value is None else value),
        AfterValidator(freeze),
    ]


class PathOptions(Fixed):
    """Files that a run starts from, and folders that it writes to."""

    owner = "'path'"
    pretrain_network_g: UserPath | None = Field(
        default=None, description="Weight file with the initial weights of the network."
    )
    strict_load_g: bool = Field(default=True, description="Require the file and the network to have the same weights.")
    param_key_g: str | None = Field(
        default=None,
        description="Entry of the file that contains the weights; null: params_ema, else params, else the whole file.",
    )
    resume_state: UserPath | None = Field(default=None, description="Training state from which the run resumes.")
    experiments_root: OutputPath = Field(default="experiments", description="Parent folder of the training runs.")
    results_root: OutputPath = Field(default="results", description="Parent folder of the test results.")


class ValOptions(Fixed):
    """Evaluation during and after training."""

    owner = "'val'"
    val_freq: Iterations = Field(default=5000, description="Evaluation interval in iterations.")
    save_img: bool = Field(default=False, description="Save every restored image as a file.")
    suffix: NameEnd = Field(default=None, description="Suffix of the saved images' names, after a '_'.")
    pictures: CountOrZero = Field(default=4, description="Number of images per data set that are shown side by side.")
    metrics: Metrics = Field(default=freeze({}), description="Metrics, by the name of their results.")
    best_by: Annotated[tuple[str, ...], AfterValidator(_known_metrics)] = Field(
        default=(),
        description="Metrics that must all improve on the first set for a new best network; default: the first one.",
    )


class LoggerOptions(Fixed):
    """Logs and checkpoints of a run."""

    owner = "'logger'"
    print_freq: Iterations = Field(default=100, description="Logging interval in iterations.")
    save_checkpoint_freq: Iterations = Field(default=5000, description="Checkpoint interval in iterations.")
    keep_checkpoints: Annotated[int, Interval(ge=1, le=10**9)] = Field(
        default=5, description="Number of latest checkpoints that are kept."
    )
    use_tb_logger: bool = Field(default=True, description="Write a TensorBoard log.")
    report: bool = Field(default=True, description="Write the page report.html at the end of the training.")


class DistOptions(Fixed):
    """Distributed training."""

    owner = "'dist_params'"
    backend: Literal["auto", "nccl", "gloo"] = Field(default="auto", description="auto: nccl on GPUs, gloo on CPUs.")
    find_unused_parameters: bool = Field(
        default=False, description="Allow parameters without gradient, which is slower."
    )
    timeout_minutes: Annotated[float, Interval(gt=0, le=525_600)] = Field(
        default=30.0, description="Time after which a process that waits for others fails."
    )


class Stage(Fixed):
    """A stage of progressive training, which changes the crop size and the batch size."""

    owner = "A stage"
    start: Iterations = Field(description="Number of iterations before the stage.")
    gt_size: Side = Field(description="Side of the square crops of the ground truth.")
    batch_size_per_gpu: BatchSize = Field(description="Batch size of each process.")


class EvaluationKeys(Fixed):
    """Keys of an evaluation set that are not arguments of its class."""

    unknown = Arguments.unknown
    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("batch_size_per_gpu", "progressive"), "Evaluation loads one image at a time. Remove this key."
        ),
        "weights": "Evaluation uses each image once. Remove this key.",
    }
    name: FolderName = Field(description="Name of the data set in results; default: its key in the option file.")
    num_worker_per_gpu: CountOrZero = Field(
        default=0, description="Number of processes that load data; 0: the training process loads them itself."
    )


class TrainingKeys(EvaluationKeys):
    """Keys of a training set that are not arguments of its class."""

    elsewhere = Arguments.elsewhere
    batch_size_per_gpu: BatchSize = Field(description="Batch size of each process.")
    progressive: Annotated[tuple[Stage, ...], AfterValidator(_in_order)] = Field(
        default=(), description="Later stages of the training, in order, usually with larger crops in smaller batches."
    )
    weights: Annotated[tuple[Positive, ...], Len(0, 1024)] = Field(
        default=(),
        description="Relative probabilities with which a sample is drawn from each folder of the data set; default: "
        "each image is drawn equally often.",
    )


class DatasetOptions(TrainingKeys):
    """A data set and how it is loaded."""

    section: Frozen = Field(description="Type and arguments of the data set's class.")
    batch_size_per_gpu: BatchSize = Field(default=1, description="Batch size of each process.")


class Datasets(Fixed):
    """The data sets of a run."""

    train: DatasetOptions | None = None
    val: dict[str, DatasetOptions] = Field(default_factory=dict)
    test: dict[str, DatasetOptions] = Field(default_factory=dict)


class TrainKeys(Fixed):
    """Keys of the section 'train' that are not arguments of the model's class."""

    unknown = Arguments.unknown
    total_iter: Iterations = Field(description="Number of iterations.")


class TrainOptions(TrainKeys):
    """The length of a training, and the arguments of the model's constructor."""

    model: Frozen = Field(description="Arguments of the model's class.")


class General(Fixed):
    """The keys at the top of an option file, without the networks."""

    owner = "An option file"
    unknown = "There is no option '{key}'."
    name: FolderName = Field(description="Name of the run and of its folder.")
    model_type: str = Field(description="Class of the model, which defines a training step.")
    scale: Scale = Field(default=1, description="Output size divided by input size.")
    num_gpu: Literal["auto", "cpu", "cuda", "mps"] | Annotated[CountOrZero, BeforeValidator(_to_int)] = Field(
        default="auto",
        description="Device: cpu, cuda, mps, auto (a GPU per process if there are GPUs), or a number of GPUs (0: CPU).",
    )
    manual_seed: Seed = Field(default=0, description="Seed of all random numbers.")
    imports: tuple[str, ...] = Field(default=(), description="Modules that register components of your own.")
    datasets: Any
    path: PathOptions = Field(default_factory=PathOptions)
    train: Any = None
    val: ValOptions = Field(default_factory=ValOptions)
    logger: LoggerOptions = Field(default_factory=LoggerOptions)
    dist_params: DistOptions = Field(default_factory=DistOptions)


class Options(General):
    """A validated option file."""

    datasets: Datasets
    networks: Frozen = Field(description="Sections of the networks: network_g and others.")
    train: TrainOptions | None = None

    _root: Node = PrivateAttr(default_factory=lambda: Node({}, Location("options")))

    def __eq__(self, other: object) -> bool:
        """Compare the values, not the locations."""
        return isinstance(other, Options) and self.model_dump() == other.model_dump()

    def where(self, *section: str) -> Where:
        """Return a function that locates the values of a section, for ``Registry.build``."""
        return lambda path: self._locate((*section, *path))

    def where_in_model(self, path: KeyPath) -> Location:
        """Return the location of a value in ``model_section()``."""
        at_top = bool(path) and str(path[0]).startswith("network_")
        return self._locate(path if at_top else ("train", *path))

    def _locate(self, path: KeyPath) -> Location:
        """Return the location of a value.

        That of a section also lists its arguments from the command line. That of a section or a list has the notes of
        its values.
        """
        location, node = self._root.locate(path), self._root.at(path)
        value = node.value if node else None
        entries = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        notes = dict.fromkeys(entry.location.note for entry in entries if entry.location.note)
        location = location._replace(note="\n".join(notes) or location.note)
        overrides = [entry.location.source for entry in entries if entry.location.line is None]
        if overrides and location.line and isinstance(value, dict):
            location = location._replace(key=f"{location.key} ({', '.join(overrides)})")
        return location

    @property
    def network_g(self) -> Any:
        """The section of the network that restores images."""
        return self.networks["network_g"]

    def model_section(self) -> Any:
        """Return the section for ``MODELS.build``. Without a section 'train', it contains only the networks."""
        section = {"type": self.model_type, **self.networks}
        if "seed" in MODELS.parameters(self.model_type):
            section["seed"] = self.manual_seed
        return freeze(section | (self.train.model if self.train else {}))

    def dump(self) -> str:
        """Return the text of an equivalent option file with current names, without bases and with all defaults."""
        training_keys, datasets = ["batch_size_per_gpu", "num_worker_per_gpu", "progressive"], {}
        for key, options in {"train": self.datasets.train, **self.datasets.val, **self.datasets.test}.items():
            if options:
                keys = training_keys if key == "train" else ["num_worker_per_gpu"]
                keys = [*keys, "weights"] if options.weights else keys
                loader = {name: getattr(options, name) for name in keys}
                datasets[key] = {"name": options.name, **options.section, **loader}
        train = self.train and {"total_iter": self.train.total_iter, **self.train.model}
        tree: dict[str, Any] = {}
        for key in General.model_fields:
            tree |= {key: getattr(self, key)} | (self.networks if key == "datasets" else {})
        tree |= {"datasets": datasets, "train": train}
        return write(thaw({key: value for key, value in tree.items() if key != "train" or value}))
