"""A JSON schema of option files, with which an editor completes and checks them while they are written."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, getdoc
from typing import Annotated, Any, Literal, get_args

from mcir.config.annotations import (
    MAPPINGS,
    SEQUENCES,
    annotation_of,
    is_fixed_tuple,
    is_union,
    kind_of,
    members,
    registry_of,
)
from mcir.config.schema import (
    EVALUATION_LOADER_KEYS,
    LOADER_KEYS,
    DatasetOptions,
    DistOptions,
    Fixed,
    General,
    LoggerOptions,
    PathOptions,
    Stage,
    TrainOptions,
    ValOptions,
    parameters_of,
    thaw,
)
from mcir.registry import (
    ARCHS,
    DATASETS,
    DEGRADATIONS,
    DISTANCES,
    LOSSES,
    METRICS,
    MODELS,
    NEGATIVES,
    OPTIMIZERS,
    SCHEDULERS,
    Registry,
)

Schema = dict[str, Any]

_COMPONENTS = (ARCHS, LOSSES, DISTANCES, DEGRADATIONS, METRICS, OPTIMIZERS, SCHEDULERS, NEGATIVES)
_SCALARS = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null", None: "null"}
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema() -> Schema:
    """Return the schema: fixed sections, and one variant per registered component."""
    definitions = {_name(registry): _variants(registry) for registry in _COMPONENTS}
    definitions["training_set"] = _variants(DATASETS, LOADER_KEYS, required={"batch_size_per_gpu"})
    definitions["evaluation_set"] = _variants(DATASETS, EVALUATION_LOADER_KEYS)
    texts = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    general = _section(General)
    properties = {
        "_base_": texts | {"description": "Option files that this one is laid over, relative to it."},
        "sweep": {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": "array"}, {"type": "object"}]},
            "description": "Several runs in one file: options with lists of values, or names with what each changes.",
        },
        **general["properties"],
        "imports": texts | {"description": general["properties"]["imports"]["description"]},
        "datasets": {
            "type": "object",
            "properties": {"train": {"$ref": "#/$defs/training_set"}},
            "patternProperties": {"^(val|test)": {"$ref": "#/$defs/evaluation_set"}},
            "additionalProperties": False,
        },
        "path": _section(PathOptions),
        "train": {"type": "object"},
        "val": _section(ValOptions),
        "logger": _section(LoggerOptions),
        "dist_params": _section(DistOptions),
    }
    properties["model_type"] |= {"enum": MODELS.names()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "mcir option file",
        "type": "object",
        "properties": properties,
        "patternProperties": {"^network_": {"$ref": f"#/$defs/{_name(ARCHS)}"}},
        "additionalProperties": False,
        "allOf": [_if_model(name) for name in MODELS.names()],
        "$defs": definitions,
    }


def _name(registry: Registry) -> str:
    return registry.kind.replace(" ", "_")


def _variants(registry: Registry, loader: set[str] | None = None, required: set[str] | None = None) -> Schema:
    """Return one variant per registered class; a data set's holds its loader's keys, too."""
    extra = {}
    if loader is not None:
        own = _section(DatasetOptions)["properties"]
        own["progressive"] |= {"items": _section(Stage)}
        extra = {key: own[key] for key in ("name", *sorted(loader))}
    variants = []
    for name in registry.names():
        variant = _object(registry.parameters(name), _summary(registry.get(name)))
        variant["properties"] = {"type": {"enum": [name, *registry.aliases(name)]}, **variant["properties"], **extra}
        filled = {"scale"} if registry in (DATASETS, DEGRADATIONS) else set()
        variant["required"] = ["type", *sorted({*variant["required"], *(required or ())} - filled)]
        variants.append({"title": name, **variant})
    return {"type": "object", "required": ["type"], "anyOf": variants}


def _if_model(name: str) -> Schema:
    """Return what ``train`` holds if the model is of that class."""
    elsewhere = {key for key in MODELS.parameters(name) if key == "seed" or key.startswith("network_")}
    arguments = {key: value for key, value in MODELS.parameters(name).items() if key not in elsewhere}
    total = {"total_iter": parameters_of(TrainOptions)["total_iter"]}
    train = _object(total | arguments, f"How a {name} is trained.")
    train["properties"]["total_iter"]["description"] = TrainOptions.model_fields["total_iter"].description
    return {
        "if": {"properties": {"model_type": {"const": name}}, "required": ["model_type"]},
        "then": {"properties": {"train": train}},
    }


def _section(model: type[Fixed]) -> Schema:
    """Return a fixed section with the descriptions of its fields."""
    section = _object(parameters_of(model), _summary(model))
    for key, field in model.model_fields.items():
        section["properties"][key]["description"] = field.description
    return section


def _object(parameters: Mapping[str, Parameter], description: str) -> Schema:
    properties = {}
    for key, parameter in parameters.items():
        properties[key] = _type(annotation_of(parameter))
        if parameter.default is not Parameter.empty and isinstance(
            parameter.default, bool | int | float | str | list | tuple | Mapping | None
        ):
            properties[key]["default"] = thaw(parameter.default)
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [key for key, parameter in parameters.items() if parameter.default is Parameter.empty],
        "additionalProperties": False,
    }


def _type(annotation: Any) -> Schema:
    """Return the schema of an annotation; what JSON cannot say is left open."""
    kind, arguments = kind_of(annotation), get_args(annotation)
    registry = registry_of(annotation)
    if registry is not None:
        return {"$ref": f"#/$defs/{_name(registry)}"}
    if kind is Annotated:
        limits = {
            word: getattr(extra, name)
            for extra in arguments[1:]
            for name, word in _LIMITS.items()
            if hasattr(extra, name) and getattr(extra, name) is not None
        }
        return _type(arguments[0]) | limits
    if is_union(annotation):
        return {"anyOf": [_type(member) for member in members(annotation)]}
    if kind is Literal:
        return {"enum": list(arguments)}
    if is_fixed_tuple(annotation):
        return {"type": "array", "items": [_type(entry) for entry in arguments], "minItems": len(arguments)}
    if kind in SEQUENCES:
        return {"type": "array", "items": _type(arguments[0])} if arguments else {"type": "array"}
    if kind in MAPPINGS:
        return {"type": "object", "additionalProperties": _type(arguments[1])} if arguments else {"type": "object"}
    return {"type": _SCALARS[kind]} if kind in _SCALARS else {}


def _summary(cls: type) -> str:
    return (getdoc(cls) or "").partition("\n")[0]
