"""Validation of an option file's tree: one pass finds every problem."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)

from mcir.config.components import (
    Arguments,
    fields_of,
    validate_arguments,
    validate_component,
)
from mcir.config.options import (
    DatasetOptions,
    Datasets,
    DistOptions,
    EvaluationKeys,
    Fixed,
    General,
    LoggerOptions,
    Options,
    PathOptions,
    TrainingKeys,
    TrainOptions,
    ValOptions,
    freeze,
)
from mcir.config.tree import Node, OptionError, Problem
from mcir.config.wording import SECTION, problem, unexpected
from mcir.registry import DATASETS, MODELS, ArchSection, OptimizerSection, RegistryError, closest, suggestion

_DATASETS = ("train", "val", "test")
_NETWORK = {"network_g": Parameter("network_g", Parameter.KEYWORD_ONLY, annotation=ArchSection)}


def validate(root: Node) -> Options:
    """Return the options in a tree of current names.

    Raises:
        OptionError: something is not valid; the message lists all problems.
    """
    tree = root.plain()
    problems = list(_training_problems(root, tree))
    scale = tree.get("scale", 1)
    try:
        file = option_file(tree)
        parts = validate_arguments(file, tree, {"scale": scale if type(scale) is int else None})
    except ValidationError as error:
        raise OptionError([*problems, *_located(root, error)]) from None
    if problems:
        raise OptionError(problems)
    networks = {key: parts.pop(key) for key in list(parts) if key.startswith("network_")}
    options = Options(networks={key: section for key, section in networks.items() if section}, **parts)
    options._root = root
    return options


def validate_network(root: Node) -> Any:
    """Return the section of the network that restores images; the rest of the tree need not be valid.

    Raises:
        OptionError: there is no such section, or it does not match its class.
    """
    tree = root.plain()
    present = {key: tree[key] for key in tree if key == "network_g" or closest(key, _NETWORK)}
    model = create_model("The file", __base__=_NetworkFile, **fields_of(_NETWORK))
    try:
        return freeze(validate_arguments(model, present, None)["network_g"])
    except ValidationError as error:
        raise OptionError(_located(root, error)) from None


def _located(root: Node, error: ValidationError) -> list[Problem]:
    return [Problem(root.locate(detail["loc"]), detail["msg"]) for detail in error.errors(include_url=False)]


def _training_problems(root: Node, tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problem of a training section without training data, or the reverse."""
    datasets = tree.get("datasets")
    if not isinstance(datasets, Mapping) or any(
        closest(key, ["train"]) and key != "train" for key in (*tree, *datasets)
    ):
        return
    if datasets and tree.get("train") and not datasets.get("train"):
        message = "There is a section 'train', but no data set 'train' to train on."
        yield Problem(root.locate(("datasets",)), message)
    if datasets.get("train") and not tree.get("train"):
        yield Problem(root.locate(()), "There is a data set 'train', but no section 'train' with the training options.")


# -- sections that depend on the names in the file --------------------------------------------------------------------


def _registered_model(name: str) -> str:
    try:
        MODELS.get(name)
    except RegistryError as error:
        raise problem(str(error)) from None
    return name


def _validate_datasets(value: Any, info: ValidationInfo) -> Datasets:
    if not isinstance(value, Mapping):
        raise unexpected(SECTION, value)
    known = [key for key in value if key == "train" or key.startswith(_DATASETS[1:])]
    fields: dict[str, Any] = {}
    for key in dict.fromkeys([*_DATASETS, *known]):
        validate = functools.partial(_validate_dataset, key, TrainingKeys if key == "train" else EvaluationKeys)
        fields[f"set_{key}"] = (Annotated[Any, PlainValidator(validate)], Field(alias=key, default=None))
    validated = create_model("datasets", __base__=_DatasetKeys, **fields).model_validate(value, context=info.context)
    sets = {key: options for key in known if (options := getattr(validated, f"set_{key}")) is not None}
    val, test = ({key: sets[key] for key in sets if key.startswith(kind)} for kind in _DATASETS[1:])
    return Datasets(train=sets.get("train"), val=val, test=test)


def _validate_dataset(key: str, keys: type[EvaluationKeys], value: Any, info: ValidationInfo) -> DatasetOptions | None:
    if value is None:
        return None
    section = {"name": key, **value} if isinstance(value, Mapping) else value
    section = validate_component(DATASETS, section, info, keys)
    loader = {name: section.pop(name) for name in keys.model_fields if name in section}
    return DatasetOptions(section=section, **loader)


def _validate_train(model: type[Arguments], value: Any, info: ValidationInfo) -> TrainOptions | None:
    if not value:
        return None
    if not isinstance(value, Mapping):
        raise unexpected(SECTION, value)
    arguments = validate_arguments(model, value, info.context, MODELS)
    return TrainOptions(total_iter=arguments.pop("total_iter"), model=arguments)


class _NetworkFile(Arguments):
    owner = "The file"
    unknown = General.unknown


class _DatasetKeys(Arguments):
    unknown = "There is no data set '{key}'. The keys are 'train' and names that start with 'val' or 'test'."


class TrainKeys(Fixed):
    """Keys of the section 'train' that are not arguments of the model's class."""

    unknown = Arguments.unknown
    total_iter: int = Field(ge=1, description="Number of iterations.")


class OptionFile(General):
    """Keys of an option file, without the networks and the training, which depend on the class of the model."""

    model_type: Annotated[str, AfterValidator(_registered_model)]
    datasets: Annotated[
        Any, PlainValidator(_validate_datasets), WithJsonSchema({"title": "a section with 'train', 'val' or 'test'"})
    ]
    path: PathOptions = Field(default_factory=PathOptions)
    val: ValOptions = Field(default_factory=ValOptions)
    logger: LoggerOptions = Field(default_factory=LoggerOptions)
    dist_params: DistOptions = Field(default_factory=DistOptions)


def option_file(tree: Mapping[str, Any]) -> type[OptionFile]:
    """Return the model of an option file with the class of model that the tree names."""
    name = tree.get("model_type")
    written = {key: value for key, value in tree.items() if key.startswith("network_")}
    networks = {key: _NETWORK["network_g"].replace(default=None) for key in written} | _NETWORK
    train: Any = Any
    if isinstance(name, str) and name in MODELS:
        networks = {key: value for key, value in MODELS.parameters(name).items() if key.startswith("network_")}
        train = Annotated[Any, PlainValidator(functools.partial(_validate_train, train_model(name)))]
    fields: dict[str, Any] = fields_of(networks) | {"train": (train, None)}
    model: type[OptionFile] = create_model("OptionFile", __base__=OptionFile, **fields)
    model.elsewhere = {
        key: f"{name} has no argument '{key}'.{suggestion(key, networks)}" for key in written if key not in networks
    }
    return model


@functools.cache
def train_model(name: str) -> type[TrainKeys]:
    """Return the model of the section 'train' for a class of model."""
    parameters = MODELS.parameters(name)
    elsewhere = {key for key in parameters if key == "seed" or key.startswith("network_")}
    arguments = {key: value for key, value in parameters.items() if key not in elsewhere}
    if "optim_g" in arguments:
        arguments["optim_g"] = arguments["optim_g"].replace(annotation=OptimizerSection, default=Parameter.empty)
    model: type[TrainKeys] = create_model(
        name, __base__=TrainKeys, __doc__=f"Training of a {name}.", **fields_of(arguments)
    )
    model.owner = name
    model.elsewhere = {
        key: f"This is '{'manual_seed' if key == 'seed' else key}' at the top of the options, not here."
        for key in elsewhere
    }
    return model
