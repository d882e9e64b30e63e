"""Validation of an option file's tree: one pass finds every problem."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator, ValidationError, ValidationInfo, WithJsonSchema

from mcir.config.components import Arguments, create_arguments, validate_arguments, validate_component
from mcir.config.options import (
    DatasetOptions,
    Datasets,
    EvaluationKeys,
    General,
    Options,
    TrainingKeys,
    TrainKeys,
    TrainOptions,
    freeze,
)
from mcir.config.tree import Node, OptionError, Problem
from mcir.config.wording import SECTION, UNKNOWN_CLASS, problem, unexpected
from mcir.errors import RegistryError, closest, suggestion
from mcir.registry import DATASETS, MODELS, ArchSection, OptimizerSection


def _parameter(annotation: Any, default: Any = None) -> Parameter:
    return Parameter("_", Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_NETWORK = {"network_g": _parameter(ArchSection, Parameter.empty)}


def validate(root: Node) -> Options:
    """Validate the tree of an option file, in which old names are already translated, and return its options.

    Raises:
        OptionError: something is not valid; the message lists all problems.
    """
    tree = root.plain()
    problems = [*_training_problems(root, tree), *_equal_names(root, tree)]
    scale = tree.get("scale", 1)
    try:
        model = option_file_model(tree)
        parts = validate_arguments(model, tree, {"scale": scale if type(scale) is int else None})
    except ValidationError as error:
        raise OptionError([*problems, *_located(root, error)]) from None
    if problems:
        raise OptionError(problems)
    networks = {key: parts.pop(key) for key in list(parts) if key.startswith("network_")}
    options = Options(networks={key: section for key, section in networks.items() if section}, **parts)
    options._root = root
    return options


def validate_network(root: Node) -> Any:
    """Validate only the section ``network_g`` of a tree, and return it.

    Raises:
        OptionError: there is no such section, or it does not match its class.
    """
    tree = root.plain()
    present = {key: tree[key] for key in tree if key == "network_g" or closest(key, _NETWORK)}
    try:
        return freeze(validate_arguments(create_arguments("The file", _TopKeys, _NETWORK), present)["network_g"])
    except ValidationError as error:
        raise OptionError(_located(root, error)) from None


def _located(root: Node, error: ValidationError) -> list[Problem]:
    return [
        Problem(root.locate(detail["loc"]), detail["msg"], detail["type"] == UNKNOWN_CLASS)
        for detail in error.errors(include_url=False)
    ]


def _training_problems(root: Node, tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem if only one of the section 'train' and the training set is present."""
    datasets = tree.get("datasets")
    if not isinstance(datasets, Mapping) or any(
        closest(key, ["train"]) and key != "train" for key in (*tree, *datasets)
    ):
        return
    if datasets and tree.get("train") and not datasets.get("train"):
        message = "There is a section 'train', but no training set (datasets.train)."
        yield Problem(root.locate(("datasets",)), message)
    if datasets.get("train") and not tree.get("train"):
        yield Problem(root.locate(()), "There is a training set (datasets.train), but no section 'train'.")


def _equal_names(root: Node, tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each validation or test set with the name of another one, whose results it would replace."""
    datasets = tree.get("datasets")
    first: dict[tuple[str, str], str] = {}
    for key, section in datasets.items() if isinstance(datasets, Mapping) else ():
        if not isinstance(section, Mapping) or not str(key).startswith(("val", "test")):
            continue
        name = str(section.get("name", key))
        other = first.setdefault((str(key)[:3], name), key)
        if other != key:
            where = root.locate(("datasets", key, *(("name",) if "name" in section else ())))
            yield Problem(where, f"Expected a name that no other data set has, got '{name}', as in datasets.{other}.")


# -- sections whose keys depend on the file ---------------------------------------------------------------------------


def _registered_model(name: str) -> str:
    try:
        MODELS.get(name)
    except RegistryError as error:
        raise problem(str(error), UNKNOWN_CLASS) from None
    return name


def _validate_datasets(value: Any, info: ValidationInfo) -> Datasets:
    if not isinstance(value, Mapping):
        raise unexpected(SECTION, value)
    known = [key for key in value if key == "train" or key.startswith(("val", "test"))]
    parameters = {}
    for key in ("train", "val", "test", *known):
        validate = functools.partial(_validate_dataset, key, TrainingKeys if key == "train" else EvaluationKeys)
        parameters[key] = _parameter(Annotated[Any, PlainValidator(validate)])
    model = create_arguments("datasets", _DatasetKeys, parameters)
    sets = {key: options for key, options in validate_arguments(model, value, info.context).items() if options}
    val, test = ({key: sets[key] for key in sets if key.startswith(kind)} for kind in ("val", "test"))
    return Datasets(train=sets.get("train"), val=val, test=test)


def _validate_dataset(key: str, keys: type[EvaluationKeys], value: Any, info: ValidationInfo) -> DatasetOptions | None:
    if value is None:
        return None
    section = {"name": key, **value} if isinstance(value, Mapping) else value
    section = validate_component(DATASETS, section, info, keys)
    loader = {name: section.pop(name) for name in keys.model_fields if name in section}
    return DatasetOptions(section=section, **loader)


def _validate_train(model: type[Arguments], value: Any, info: ValidationInfo) -> TrainOptions | None:
    if value is None or value == {}:
        return None
    if not isinstance(value, Mapping):
        raise unexpected(SECTION, value)
    arguments = validate_arguments(model, value, info.context, MODELS)
    return TrainOptions(total_iter=arguments.pop("total_iter"), model=arguments)


class _TopKeys(Arguments):
    unknown = General.unknown


class _DatasetKeys(Arguments):
    unknown = "There is no data set '{key}'. The keys are 'train' and names that start with 'val' or 'test'."


class OptionFile(General):
    """Keys of an option file that do not depend on the class of the model."""

    model_type: Annotated[str, AfterValidator(_registered_model)]
    datasets: Annotated[
        Any, PlainValidator(_validate_datasets), WithJsonSchema({"title": "a section with 'train', 'val' or 'test'"})
    ]


def option_file_model(tree: Mapping[str, Any]) -> type[Arguments]:
    """Return the pydantic model of an option file, whose networks and section 'train' depend on its ``model_type``."""
    name = tree.get("model_type")
    written = {key: value for key, value in tree.items() if key.startswith("network_")}
    networks = {key: _NETWORK["network_g"].replace(default=None) for key in written} | _NETWORK
    train: Any = Any
    if isinstance(name, str) and name in MODELS:
        networks = {key: value for key, value in MODELS.parameters(name).items() if key.startswith("network_")}
        train = Annotated[Any, PlainValidator(functools.partial(_validate_train, train_section_model(name)))]
    model = create_arguments(OptionFile.owner, OptionFile, networks | {"train": _parameter(train)})
    model.elsewhere = {
        key: f"{name} has no argument '{key}'.{suggestion(key, networks)}" for key in written if key not in networks
    }
    return model


@functools.cache
def train_section_model(name: str) -> type[Arguments]:
    """Return the pydantic model of the section 'train' for a ``model_type``."""
    parameters = MODELS.parameters(name)
    elsewhere = {key for key in parameters if key == "seed" or key.startswith("network_")}
    arguments = {key: value for key, value in parameters.items() if key not in elsewhere}
    if "optim_g" in arguments:
        arguments["optim_g"] = arguments["optim_g"].replace(annotation=OptimizerSection, default=Parameter.empty)
    model = create_arguments(name, TrainKeys, arguments, f"Training of a {name}.")
    model.elsewhere = {
        key: f"Set '{'manual_seed' if key == 'seed' else key}' at the top of the file instead." for key in elsewhere
    }
    return model
