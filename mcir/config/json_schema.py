"""JSON schema of option files, for completion and checks in editors.

The schema requires no option: a base, or the file that uses a base, may contain what is missing in a file. `mcir check`
reads the bases, and reports missing options.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mcir import registry as registries
from mcir.config.components import Arguments, arguments_model
from mcir.config.options import EvaluationKeys, TrainingKeys
from mcir.config.validation import OptionFile, train_section_model
from mcir.config.wording import JsonSchema
from mcir.registry import ARCHS, DATASETS, MODELS, Registry

Schema = dict[str, Any]

_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


def json_schema() -> Schema:
    """Return the schema of the sections, with one variant of a section for each registered component."""
    definitions: Schema = {}
    for registry in vars(registries).values():
        if isinstance(registry, Registry) and registry not in (DATASETS, MODELS):
            definitions[_name(registry.kind)] = _variants(registry, definitions)
    for name in MODELS.names():
        definitions[_name(f"train {name}")] = _schema_of(train_section_model(name), definitions)
    definitions["training_set"] = _variants(DATASETS, definitions, TrainingKeys)
    definitions["evaluation_set"] = _variants(DATASETS, definitions, EvaluationKeys)
    options = _schema_of(OptionFile, definitions)
    properties = options["properties"]
    properties["model_type"]["enum"] = MODELS.names()
    properties["imports"] = _TEXTS | {"description": properties["imports"]["description"]}
    properties |= {
        "_base_": _TEXTS | {"description": "Option files that this one overrides: paths relative to it, or names."},
        "sweep": {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": "array"}, {"type": "object"}]},
            "description": "Several runs in one file: options with lists of values, or named runs with their changes.",
        },
        "datasets": {
            "type": "object",
            "properties": {"train": _or_null("training set")},
            "patternProperties": {"^(val|test)": _or_null("evaluation set")},
            "additionalProperties": False,
        },
        "train": _or_null(*(f"train {name}" for name in MODELS.names())),
    }
    return options | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mcir option file",
        "description": "Options of a training or a test of mcir.",
        "patternProperties": {"^network_": _reference(ARCHS.kind)},
        "allOf": [
            {
                "if": {"properties": {"model_type": {"const": name}}, "required": ["model_type"]},
                "then": {"properties": {"train": _or_null(f"train {name}")}},
            }
            for name in MODELS.names()
        ],
        "$defs": definitions,
    }


def _variants(registry: Registry, definitions: Schema, keys: type[Arguments] = Arguments) -> Schema:
    """Return one variant for each registered class."""
    variants = []
    for name in registry.names():
        schema = _schema_of(arguments_model(registry, name, keys), definitions)
        schema["properties"] = {"type": {"enum": [name, *registry.aliases(name)]}, **schema["properties"]}
        variants.append(schema)
    return {"type": "object", "anyOf": variants}


def _schema_of(model: type[BaseModel], definitions: Schema) -> Schema:
    """Return the schema of a pydantic model, and add the definitions that it refers to to ``definitions``."""
    schema: Schema = _link(model.model_json_schema(schema_generator=JsonSchema))
    definitions |= schema.pop("$defs", {})
    return schema


def _link(schema: Any) -> Any:
    """Replace the sections of components by references to their variants, and leave out the lists of required keys."""
    if isinstance(schema, dict):
        if "component" in schema and isinstance(schema["component"], str):
            return _reference(schema["component"])
        return {
            key: _link(value) for key, value in schema.items() if not (key == "required" and isinstance(value, list))
        }
    return [_link(value) for value in schema] if isinstance(schema, list) else schema


def _reference(kind: str) -> Schema:
    return {"$ref": f"#/$defs/{_name(kind)}"}


def _or_null(*kinds: str) -> Schema:
    """Return the schema of a section that a file may remove from its base with ``null``."""
    return {"anyOf": [*map(_reference, kinds), {"type": "null"}]}


def _name(kind: str) -> str:
    return kind.replace(" ", "_")
