"""Values of an option file against Python annotations: what fits, what it becomes, and how to say that it does not fit.

The conversions are few. A whole number may be written ``5e3``; a number is never a boolean and never quoted text; the
words ``no``, ``off``, ``yes`` and ``on`` mean a boolean where one is wanted; a list becomes a tuple where a tuple or any
sequence is wanted.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import pydantic

from mcir.config.tree import Path
from mcir.registry import Registry, suggestion

Report: TypeAlias = Callable[[Path, str], None]
"""Takes the path and the message of a problem."""
SectionCheck: TypeAlias = Callable[[Registry, Any, Path, Report], Any]
"""Checks the section of a component and returns it with its values converted."""

_WORDS = {"no": False, "off": False, "yes": True, "on": True}
_SEQUENCES = (list, tuple, Sequence, Iterable, Collection)
_MAPPINGS = (dict, Mapping)
_PATHS = (FilePath, os.PathLike)
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_PLURALS = {"an integer": "integers", "a number": "numbers", "text": "texts", "true or false": "booleans"}


def convert(annotation: Any, value: Any, path: Path, report: Report, section: SectionCheck) -> Any:
    """Return ``value`` as the annotation wants it, and report what does not fit.

    Args:
        annotation: a resolved type annotation; a registry among the extras of ``Annotated`` marks a component's section.
        value: plain mappings, lists and scalars.
        path: where the value stands, for the reports.
        report: is called for each problem.
        section: checks the section of a component.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:], value, path, report, section)
    if is_union(annotation):
        return _union(annotation, value, path, report, section)
    kind = origin or annotation
    if kind in _SEQUENCES and isinstance(value, list | tuple):
        return _sequence(annotation, kind, arguments, value, path, report, section)
    if kind in _MAPPINGS and isinstance(value, Mapping):
        of = arguments[1] if len(arguments) == 2 else Any
        return {key: convert(of, entry, (*path, key), report, section) for key, entry in value.items()}
    converted, fits = _leaf(annotation, kind, arguments, value)
    if not fits:
        near = suggestion(value, map(str, arguments)) if kind is Literal and isinstance(value, str) else ""
        report(path, f"Expected {describe(annotation)}, not {describe_value(value)}.{near}")
    return converted


def describe(annotation: Any) -> str:
    """Return what an annotation asks for, in words: ``a list of integers or null``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    kind = origin or annotation
    if origin is Annotated:
        registry = registry_of(annotation)
        return f"a section {{type: …}} of a {registry.kind}" if registry else describe(arguments[0])
    if is_union(annotation):
        return " or ".join(dict.fromkeys(describe(member) for member in _writable(arguments)))
    if kind is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(repr, arguments))
    if kind in _SEQUENCES:
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}: {', '.join(map(describe, arguments))}"
        of = describe(arguments[0]) if arguments else ""
        return f"a list of {_PLURALS.get(of, of)}" if of else "a list"
    if kind in _MAPPINGS:
        return "a mapping"
    if kind in _PATHS:
        return "a path"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def describe_value(value: Any) -> str:
    """Return a value as a message shows it."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        return f"the text '{value}'"
    return {None: "null", True: "true", False: "false"}.get(value, value) if not isinstance(value, int | float) or isinstance(value, bool) else str(value)


def registry_of(annotation: Any) -> Registry | None:
    """Return the registry that an ``Annotated`` section type names, if it names one."""
    extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Registry)), None)


def is_union(annotation: Any) -> bool:
    """Return whether an annotation is ``A | B`` or ``Union[A, B]``."""
    return get_origin(annotation) in (Union, types.UnionType)


def without_default(parameter: Parameter) -> bool:
    """Return whether a constructor argument must be given."""
    return parameter.default is Parameter.empty


def annotation_of(parameter: Parameter) -> Any:
    """Return the annotation of a constructor argument; anything goes where there is none."""
    return Any if parameter.annotation is Parameter.empty else parameter.annotation


def _annotated(
    inner: Any, extras: tuple[Any, ...], value: Any, path: Path, report: Report, section: SectionCheck
) -> Any:
    for extra in extras:
        if isinstance(extra, Registry):
            return section(extra, value, path, report)
    failures: list[str] = []
    converted = convert(inner, value, path, lambda at, message: (failures.append(message), report(at, message))[1], section)
    if not failures:
        try:
            pydantic.TypeAdapter(Annotated[(inner, *extras)]).validate_python(converted)
        except pydantic.ValidationError as error:
            for detail in error.errors():
                expected = detail["msg"].replace("Input should be ", "").replace("Value error, ", "")
                report(path, f"Expected {describe(inner)} {expected}, not {describe_value(value)}.")
    return converted


def _union(annotation: Any, value: Any, path: Path, report: Report, section: SectionCheck) -> Any:
    members = _writable(get_args(annotation))
    exact = [member for member in members if type(value) is member]
    attempts = []
    for member in exact or members:
        failures: list[tuple[Path, str]] = []
        converted = convert(member, value, path, lambda *failure, to=failures: to.append(failure), section)
        if not failures:
            return converted
        attempts.append((member, failures))
    # of the members that hold other values, the one that fits on the outside explains best what is wrong inside
    inside = [failures for member, failures in attempts if _holds(member, value)]
    if len(inside) == 1:
        for at, message in inside[0]:
            report(at, message)
    else:
        report(path, f"Expected {describe(annotation)}, not {describe_value(value)}.")
    return value


def _sequence(
    annotation: Any,
    kind: Any,
    arguments: tuple[Any, ...],
    value: Sequence[Any],
    path: Path,
    report: Report,
    section: SectionCheck,
) -> list[Any] | tuple[Any, ...]:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            report(path, f"Expected {describe(annotation)}, not {describe_value(value)}.")
            return tuple(value)
        of: Sequence[Any] = arguments
    else:
        of = [arguments[0] if arguments else Any] * len(value)
    converted = [
        convert(of_entry, entry, (*path, index), report, section)
        for index, (of_entry, entry) in enumerate(zip(of, value, strict=True))
    ]
    return converted if kind is list else tuple(converted)


def _leaf(annotation: Any, kind: Any, arguments: tuple[Any, ...], value: Any) -> tuple[Any, bool]:
    """Return a scalar as the annotation wants it, and whether it fits."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation in (Any, object):
        return value, True
    if annotation in (None, type(None)):
        return None, value is None
    if kind is Literal:
        return value, any(value == choice and type(value) is type(choice) for choice in arguments)
    if kind is bool:
        word = value.lower() if isinstance(value, str) else value
        return (_WORDS[word], True) if isinstance(word, str) and word in _WORDS else (value, isinstance(value, bool))
    if kind is int:
        whole = number and float(value).is_integer()
        return (int(value), True) if whole else (value, False)
    if kind is float:
        return (float(value), True) if number else (value, False)
    if kind in _PATHS:
        return (FilePath(value), True) if isinstance(value, str) else (value, False)
    return value, isinstance(kind, type) and isinstance(value, kind)


def _writable(members: Iterable[Any]) -> list[Any]:
    """Return the members of a union that an option file can hold: a tensor is none of them."""
    scalars = (*_NAMES, *_SEQUENCES, *_MAPPINGS, *_PATHS, Literal, Annotated, Any, object, None)
    members = list(members)
    return [member for member in members if is_union(member) or (get_origin(member) or member) in scalars] or members


def _holds(member: Any, value: Any) -> bool:
    kind = get_origin(member) or member
    if kind is Annotated:
        return registry_of(member) is not None and isinstance(value, Mapping | str)
    return (kind in _SEQUENCES and isinstance(value, list)) or (kind in _MAPPINGS and isinstance(value, Mapping))
