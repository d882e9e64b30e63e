"""Pydantic models of registered classes, made from the signatures of their constructors.

Validation is strict with few conversions: an integer may be written as ``5e3``; ``no``, ``off``, ``yes`` and ``on``
are booleans if a boolean is expected; a list becomes a tuple unless the constructor expects a list. Numbers and lists
must be inside their domains, see :mod:`mcir.domains`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
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

from mcir.config.wording import (
    COMPLETE,
    OURS,
    SECTION,
    UNKNOWN_CLASS,
    JsonSchema,
    in_words,
    problem,
    unexpected,
    with_article,
)
from mcir.domains import MAPPINGS, SEQUENCES, UNIONS, find_problem, outside, parts, unordered
from mcir.errors import RegistryError, closest, suggestion
from mcir.paths import path_kind, path_problem
from mcir.registry import DATASETS, DEGRADATIONS, Registry

_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=())
_BOOLEANS = {"no": False, "off": False, "yes": True, "on": True}
TAKE_SCALE = (DATASETS, DEGRADATIONS)
"""Registries whose classes get the option file's ``scale``."""


class Arguments(BaseModel):
    """Base of the models that validate a section.

    Attributes:
        owner: name of the section in messages.
        unknown: message for an unknown key.
        elsewhere: messages for keys that belong to another section.
    """

    model_config = _STRICT
    owner: ClassVar[str] = ""
    unknown: ClassVar[str] = "{owner} has no argument '{key}'."
    elsewhere: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="wrap")
    @classmethod
    def _validate(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if value is not None and not isinstance(value, Mapping | cls):
            raise unexpected(SECTION, value)
        try:
            return handler({} if value is None else value)
        except ValidationError as error:
            raise ValidationError.from_exception_data(cls.owner, list(cls._with_messages(error))) from None

    @classmethod
    def _with_messages(cls, error: ValidationError) -> Iterator[InitErrorDetails]:
        """Yield the errors with our messages for unknown and missing keys; other messages are already complete."""
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
            kind = UNKNOWN_CLASS if detail["type"] == UNKNOWN_CLASS else COMPLETE
            yield InitErrorDetails(type=problem(message, kind), loc=path, input=None)


# -- types ------------------------------------------------------------------------------------------------------------


def annotation_of(field: FieldInfo) -> Any:
    """Return the annotation of a model's field with its metadata."""
    annotated: Any = (field.annotation, *field.metadata)
    return Annotated[annotated] if field.metadata else field.annotation


def _is_registry(extra: Any) -> bool:
    return isinstance(extra, Registry)


def field_type(annotation: Any) -> Any:
    """Return the type with which pydantic converts and validates values of an annotation."""
    bare, kind, extras = parts(annotation)
    arguments, inner = get_args(bare), bare
    for registry in filter(_is_registry, extras):
        section = PlainValidator(functools.partial(validate_component, registry))
        return Annotated[Any, section, WithJsonSchema({"component": registry.kind})]
    if kind in UNIONS:
        members = {member: adapter_of(member) for member in arguments if _is_writable(member)}
        validate = functools.partial(_validate_union, annotation, members)
        schema_type: Any = Union[tuple(map(field_type, members))]  # noqa: UP007
        return Annotated[Any, PlainValidator(validate, json_schema_input_type=schema_type)]
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        inner = tuple[tuple(map(field_type, arguments))]  # type: ignore[misc]
    elif kind in SEQUENCES:
        item = field_type(arguments[0]) if arguments else Any
        inner = list[item] if kind is list else tuple[item, ...]  # type: ignore[valid-type]
    elif kind in MAPPINGS:
        inner = dict[str, field_type(arguments[1]) if arguments else Any]  # type: ignore[misc]
    validated: Any = (inner, *extras, WrapValidator(functools.partial(validate_value, annotation)))
    return Annotated[validated]


def describe(annotation: Any) -> str:
    """Return the values that an annotation accepts, in words: ``a list of integers or null``."""
    return in_words(adapter_of(annotation).json_schema(schema_generator=JsonSchema))


def adapter_of(annotation: Any) -> TypeAdapter[Any]:
    """Return the adapter that validates values of an annotation."""
    return TypeAdapter(field_type(annotation), config=_STRICT)


def _is_writable(member: Any) -> bool:
    """Return whether an option file can contain values of this type, which is not the case for tensors."""
    scalars = (int, float, bool, str, type(None), Path, Any)
    return get_origin(member) is not None or member in (*scalars, *SEQUENCES, *MAPPINGS)


def validate_value(annotation: Any, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Return a converted value, or raise an error whose message describes the expected values."""
    bare, kind, _ = parts(annotation)
    if kind is int and isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        value = int(value)
    elif kind is bool and isinstance(value, str):
        value = _BOOLEANS.get(value.lower(), value)
    elif isinstance(value, str) and (kind is Path or path_kind(annotation)):
        if found := path_problem(value):
            raise unexpected("a path", value, f" It {found}.")
        value = Path(value) if kind is Path else value
    elif kind in SEQUENCES and isinstance(value, list | tuple):
        value = list(value) if kind is list else tuple(value)
    if expected := outside(annotation, value):
        raise unexpected(expected, value)
    try:
        validated = handler(value)
    except ValidationError as error:
        if of_items := [
            InitErrorDetails(type=problem(detail["msg"], detail["type"]), loc=detail["loc"], input=None)
            for detail in error.errors(include_url=False)
            if detail["type"] in OURS
        ]:
            raise ValidationError.from_exception_data("", of_items) from None  # without the number of valid items
        choices = get_args(bare) if kind is Literal and isinstance(value, str) else ()
        outlier = find_problem(annotation, value)
        words = outlier[1] if outlier and not outlier[0] else describe(annotation)
        raise unexpected(words, value, suggestion(value, choices) or _hint([kind], value)) from None
    if expected := unordered(annotation, validated):
        raise unexpected(expected, value)
    return validated


def _validate_union(annotation: Any, members: Mapping[Any, TypeAdapter[Any]], value: Any, info: ValidationInfo) -> Any:
    """Return the value, converted by the first member of a union that accepts it.

    If the type of the value is itself a member, no other member is tried. If the value is rejected and exactly one
    member accepts lists, mappings or sections like it, or numbers of another domain, the errors are those of this
    member, with their key paths.
    """
    nested = []
    exact = [member for member in members if type(value) is parts(member)[0]]
    for member in exact or members:
        try:
            return members[member].validate_python(value, context=info.context)
        except ValidationError as error:
            _, kind, extras = parts(member)
            expected = SEQUENCES if isinstance(value, list) else MAPPINGS if isinstance(value, Mapping) else ()
            if (
                kind in expected
                or outside(member, value)
                or (isinstance(value, str) and any(map(_is_registry, extras)))
            ):
                nested.append(error)
    if len(nested) == 1:
        raise nested[0]
    raise unexpected(describe(annotation), value, _hint(members, value))


def _hint(kinds: Collection[Any], value: Any) -> str:
    return " Put it in quotes." if str in kinds and isinstance(value, bool | int | float) else ""


# -- sections ---------------------------------------------------------------------------------------------------------


def validate_component(
    registry: Registry, value: Any, info: ValidationInfo, base: type[Arguments] = Arguments
) -> dict[str, Any]:
    """Return a section with converted values, validated against the constructor of the class that it names.

    The option file's ``scale`` is filled in if a data set or a degradation has such an argument.

    Args:
        registry: registry of the class.
        value: the section.
        info: information about the current validation, whose context contains the option file's ``scale``.
        base: pydantic model of additional keys, which are not arguments of the class.
    """
    if not isinstance(value, Mapping):
        hint = f" Write {{type: {value}}}." if isinstance(value, str) and value in registry else ""
        raise unexpected(in_words({"component": registry.kind}), value, hint)
    name = value.get("type")
    if not isinstance(name, str):
        misspelt = closest("type", [key for key in value if key != "type"])
        hint = f" Is it misspelt as '{misspelt}'?" if misspelt else ""
        component, known = with_article(registry.kind).capitalize(), ", ".join(registry.names()) or "none"
        error = problem(f"{component} requires 'type', the name of its class.{hint} Known names: {known}.")
        if name is None:
            raise error
        raise ValidationError.from_exception_data("", [InitErrorDetails(type=error, loc=("type",), input=name)])
    try:
        model = arguments_model(registry, name, base)
    except RegistryError as error:
        details = InitErrorDetails(type=problem(str(error), UNKNOWN_CLASS), loc=("type",), input=name)
        raise ValidationError.from_exception_data(name, [details]) from None
    arguments = {key: entry for key, entry in value.items() if key != "type"}
    scale = (info.context or {}).get("scale")
    if registry in TAKE_SCALE and "argument_scale" in model.model_fields and scale:
        arguments.setdefault("scale", scale)
    return {"type": name, **validate_arguments(model, arguments, info.context, registry)}


def validate_arguments(
    model: type[Arguments], arguments: Mapping[str, Any], context: Any = None, registry: Registry | None = None
) -> dict[str, Any]:
    """Return converted arguments, in the order of the file.

    With a registry, an unknown argument that is null is ignored if another class of the registry has it.
    """
    names = {field.alias or name: name for name, field in model.model_fields.items()}
    nulls = {key for key, value in arguments.items() if value is None} - names.keys()
    if registry and nulls:
        nulls &= {key for known in registry.names() for key in registry.parameters(known)}
        arguments = {key: value for key, value in arguments.items() if key not in nulls}
    validated = model.model_validate(arguments, context=context)
    return {key: getattr(validated, names[key]) for key in arguments}


@functools.cache
def arguments_model(registry: Registry, name: str, base: type[Arguments] = Arguments) -> type[Arguments]:
    """Return the pydantic model of the constructor arguments of a class, with the additional keys of ``base``.

    Raises:
        RegistryError: the class is unknown.
    """
    parameters = registry.parameters(name)
    if registry in TAKE_SCALE and "scale" in parameters:
        annotation: Any = (parameters["scale"].annotation, AfterValidator(_require_same_scale))
        parameters["scale"] = parameters["scale"].replace(annotation=Annotated[annotation])
    return create_arguments(name, base, parameters, (getdoc(registry.get(name)) or "").partition("\n")[0])


def create_arguments(
    name: str, base: type[Arguments], parameters: Mapping[str, Parameter], summary: str = ""
) -> type[Arguments]:
    """Return a pydantic model with a field for each parameter. Names have a prefix, so that none hides a method."""
    fields: dict[str, Any] = {}
    for key, parameter in parameters.items():
        kind = Any if parameter.annotation is Parameter.empty else field_type(parameter.annotation)
        default = {} if parameter.default is Parameter.empty else {"default": parameter.default}
        fields[f"argument_{key}"] = (kind, Field(alias=key, **default))
    model: type[Arguments] = create_model(name, __base__=base, __doc__=summary, **fields)
    model.owner = name
    return model


def _require_same_scale(scale: int, info: ValidationInfo) -> int:
    expected = (info.context or {}).get("scale")
    if expected and scale != expected:
        raise problem(f"expected {expected}, the scale at the top of the file, got {scale}. Leave it out here.")
    return scale
