"""Pydantic models of the registered classes, made from their constructors' signatures, and the wording of errors.

Validation is strict, with few conversions: an integer may be written ``5e3``; a number is never a boolean or quoted
text; ``no``, ``off``, ``yes`` and ``on`` are booleans where a boolean is expected; a list becomes a tuple unless the
constructor asks for a list.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from inspect import Parameter, getdoc
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails

from mcir.config.wording import COMPLETE, SECTION, JsonSchema, in_words, problem, unexpected, with_article
from mcir.registry import DATASETS, DEGRADATIONS, Registry, RegistryError, closest, suggestion

_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=())
_SEQUENCES = (list, tuple, Sequence, Iterable, Collection)
_MAPPINGS = (dict, Mapping)
_BOOLEANS = {"no": False, "off": False, "yes": True, "on": True}
TAKE_SCALE = (DATASETS, DEGRADATIONS)
"""Registries whose classes get the option file's ``scale``."""


class Arguments(BaseModel):
    """Base of the models that validate the keys of a section.

    Attributes:
        owner: owner of the keys in messages.
        unknown: message for an unknown key.
        elsewhere: messages for keys that belong elsewhere.
    """

    model_config = _STRICT
    owner: ClassVar[str] = ""
    unknown: ClassVar[str] = "{owner} has no argument '{key}'."
    elsewhere: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="wrap")
    @classmethod
    def _word_errors(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if value is not None and not isinstance(value, Mapping | cls):
            raise unexpected(SECTION, value)
        try:
            return handler({} if value is None else value)
        except ValidationError as error:
            raise ValidationError.from_exception_data(cls.owner, list(cls._worded(error))) from None

    @classmethod
    def _worded(cls, error: ValidationError) -> Iterator[InitErrorDetails]:
        """Word the errors about keys; the messages about values are complete."""
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        details = error.errors(include_url=False, include_context=False)
        unknown = [str(detail["loc"][0]) for detail in details if detail["type"] == "extra_forbidden"]
        misspelt = {closest(key, fields) for key in unknown}
        for detail in details:
            path, message = detail["loc"], detail["msg"]
            key = str(path[0]) if path else ""
            if detail["type"] == "extra_forbidden":
                message = cls.unknown.format(owner=cls.owner, key=key) + suggestion(key, fields)
                message = cls.elsewhere.get(key, message)
            elif detail["type"] == "missing":
                if key in misspelt:
                    continue
                path, message = (), f"{cls.owner} requires '{key}', {describe(annotation_of(fields[key]))}."
            yield InitErrorDetails(type=problem(message), loc=path, input=None)


# -- types ------------------------------------------------------------------------------------------------------------


def annotation_of(field: FieldInfo) -> Any:
    """Return the annotation of a model's field with its metadata."""
    parts: Any = (field.annotation, *field.metadata)
    return Annotated[parts] if field.metadata else field.annotation


def registry_of(annotation: Any) -> Registry | None:
    """Return the registry of a section type like ``ArchSection``, or None for any other annotation."""
    extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Registry)), None)


def field_type(annotation: Any) -> Any:
    """Return the type with which pydantic validates and converts values of an annotation."""
    registry = registry_of(annotation)
    if registry is not None:
        section = PlainValidator(functools.partial(validate_component, registry))
        return Annotated[Any, section, WithJsonSchema({"component": registry.kind})]
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if _is_writable(member)]
        validate = functools.partial(_validate_union, annotation, {member: adapter_of(member) for member in members})
        schema_type: Any = Union[tuple(map(field_type, members))]  # noqa: UP007
        return Annotated[Any, PlainValidator(validate, json_schema_input_type=schema_type)]
    bare, *limits = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    kind, arguments, inner = get_origin(bare) or bare, get_args(bare), bare
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        inner = tuple[tuple(map(field_type, arguments))]  # type: ignore[misc]
    elif kind in _SEQUENCES:
        item = field_type(arguments[0]) if arguments else Any
        inner = list[item] if kind is list else tuple[item, ...]  # type: ignore[valid-type]
    elif kind in _MAPPINGS:
        inner = dict[str, field_type(arguments[1]) if arguments else Any]  # type: ignore[misc]
    parts: Any = (inner, *limits, WrapValidator(functools.partial(validate_value, annotation)))
    return Annotated[parts]


def describe(annotation: Any) -> str:
    """Return the values that an annotation accepts, in words: ``a list of integers or null``."""
    return in_words(adapter_of(annotation).json_schema(schema_generator=JsonSchema))


def adapter_of(annotation: Any) -> TypeAdapter[Any]:
    """Return the adapter that validates values of an annotation."""
    return TypeAdapter(field_type(annotation), config=_STRICT)


def _is_writable(member: Any) -> bool:
    """Return whether an option file can contain values of a union's member: a tensor, for example, is not written."""
    scalars = (int, float, bool, str, type(None), Path, Any)
    return get_origin(member) is not None or member in (*scalars, *_SEQUENCES, *_MAPPINGS)


def validate_value(annotation: Any, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Return a converted value.

    Raises:
        PydanticCustomError: the value does not match the annotation.
        ValidationError: the same, for items of the value.
    """
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    kind = get_origin(bare) or bare
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    elif kind is bool and isinstance(value, str):
        value = _BOOLEANS.get(value.lower(), value)
    elif kind is Path and isinstance(value, str):
        value = Path(value)
    elif kind in _SEQUENCES and isinstance(value, list | tuple):
        value = list(value) if kind is list else tuple(value)
    try:
        return handler(value)
    except ValidationError as error:
        if all(detail["type"] == COMPLETE for detail in error.errors()):
            raise
        choices = get_args(bare) if kind is Literal and isinstance(value, str) else ()
        raise unexpected(describe(annotation), value, suggestion(value, choices) or _hint([kind], value)) from None


def _validate_union(annotation: Any, adapters: Mapping[Any, TypeAdapter[Any]], value: Any, info: ValidationInfo) -> Any:
    """Return the value as the first member that accepts it; a member of exactly its type goes first.

    Raises:
        PydanticCustomError: no member accepts the value.
        ValidationError: only one member accepts values of this kind, and items of the value do not match it.
    """
    nested = []
    exact = [member for member in adapters if type(value) is member]
    for member in exact or adapters:
        try:
            return adapters[member].validate_python(value, context=info.context)
        except ValidationError as error:
            kind = get_origin(member) or member
            expects = _SEQUENCES if isinstance(value, list) else _MAPPINGS if isinstance(value, Mapping) else ()
            if kind in expects or (registry_of(member) and isinstance(value, Mapping | str)):
                nested.append(error)
    if len(nested) == 1:
        raise nested[0]
    raise unexpected(describe(annotation), value, _hint(adapters, value))


def _hint(kinds: Collection[Any], value: Any) -> str:
    return " Put it in quotes." if str in kinds and isinstance(value, bool | int | float) else ""


# -- sections ---------------------------------------------------------------------------------------------------------


def validate_component(
    registry: Registry, value: Any, info: ValidationInfo, base: type[Arguments] = Arguments
) -> dict[str, Any]:
    """Validate a section against the constructor of the class that it names; return it with values converted.

    The option file's ``scale`` is filled in where a data set or a degradation takes one.

    Args:
        registry: registry of the class.
        value: the section.
        info: validation in progress, whose context contains the option file's ``scale``.
        base: model of further keys in the section.

    Raises:
        PydanticCustomError: the value is not a section.
        ValidationError: the class is unknown, or arguments are unknown, missing or do not match their annotations.
    """
    if not isinstance(value, Mapping):
        hint = f" Write {{type: {value}}}." if isinstance(value, str) and value in registry else ""
        raise unexpected(in_words({"component": registry.kind}), value, hint)
    name = value.get("type")
    if not isinstance(name, str):
        misspelt = closest("type", value)
        hint = f" Is it misspelt as '{misspelt}'?" if misspelt else ""
        component, known = with_article(registry.kind).capitalize(), ", ".join(registry.names()) or "none"
        raise problem(f"{component} requires 'type', the name of its class.{hint} Known names: {known}.")
    try:
        model = arguments_model(registry, name, base)
    except RegistryError as error:
        details = InitErrorDetails(type=problem(str(error)), loc=("type",), input=name)
        raise ValidationError.from_exception_data(name, [details]) from None
    arguments = {key: entry for key, entry in value.items() if key != "type"}
    scale = (info.context or {}).get("scale")
    if registry in TAKE_SCALE and "argument_scale" in model.model_fields and scale:
        arguments.setdefault("scale", scale)
    return {"type": name, **validate_arguments(model, arguments, info.context, registry)}


def validate_arguments(
    model: type[Arguments], arguments: Mapping[str, Any], context: Any, registry: Registry | None = None
) -> dict[str, Any]:
    """Return converted arguments, in the order in which they were written.

    With a registry, an unknown argument of null is ignored if any class of the registry has such an argument.
    """
    names = {field.alias or name: name for name, field in model.model_fields.items()}
    present = {
        key: value
        for key, value in arguments.items()
        if key in names or value is not None or registry is None or not registry.has_argument(key)
    }
    validated = model.model_validate(present, context=context)
    return {key: getattr(validated, names[key]) for key in present}


def arguments_model(registry: Registry, name: str, base: type[Arguments] = Arguments) -> type[Arguments]:
    """Return the model of a class's constructor arguments and of the keys in ``base``.

    Raises:
        RegistryError: the class is unknown.
    """
    cls: Any = registry.get(name)
    return _arguments_model(registry, cls, name, base)


@functools.cache
def _arguments_model(registry: Registry, cls: Any, name: str, base: type[Arguments]) -> type[Arguments]:
    parameters = registry.parameters(name)
    scale = parameters.get("scale")
    if registry in TAKE_SCALE and scale is not None:
        annotation: Any = (scale.annotation, AfterValidator(_require_same_scale))
        parameters["scale"] = scale.replace(annotation=Annotated[annotation])
    summary = (getdoc(cls) or "").partition("\n")[0]
    model: type[Arguments] = create_model(name, __base__=base, __doc__=summary, **fields_of(parameters))
    model.owner = name
    return model


def fields_of(parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the fields of a model for constructor arguments; a prefix keeps them apart from pydantic's methods."""
    fields = {}
    for key, parameter in parameters.items():
        kind = Any if parameter.annotation is Parameter.empty else field_type(parameter.annotation)
        default = {} if parameter.default is Parameter.empty else {"default": parameter.default}
        fields[f"argument_{key}"] = (kind, Field(alias=key, **default))
    return fields


def _require_same_scale(scale: int, info: ValidationInfo) -> int:
    expected = (info.context or {}).get("scale")
    if expected and scale != expected:
        raise problem(f"The scale is {expected} at the top of the options: leave it out here.")
    return scale
