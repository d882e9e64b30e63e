"""Type annotations of options: what they ask for in words, and which scalars fit them.

The conversions are few. A whole number may be written ``5e3``; a number is never a boolean and never quoted text; the
words ``no``, ``off``, ``yes`` and ``on`` mean a boolean where one is wanted.
"""

from __future__ import annotations

import os
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mcir.registry import Registry

SEQUENCES = (list, tuple, Sequence, Iterable, Collection)
MAPPINGS = (dict, Mapping)
_PATHS = (FilePath, os.PathLike)
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_PLURALS = {"an integer": "integers", "a number": "numbers", "text": "texts", "true or false": "booleans"}
_WORDS = {"no": False, "off": False, "yes": True, "on": True}


def annotation_of(parameter: Parameter) -> Any:
    """Return the annotation of a constructor argument; anything goes where there is none."""
    return Any if parameter.annotation is Parameter.empty else parameter.annotation


def kind_of(annotation: Any) -> Any:
    """Return the class or special form of an annotation without its arguments: ``list`` for ``list[int]``."""
    return get_origin(annotation) or annotation


def registry_of(annotation: Any) -> Registry | None:
    """Return the registry whose section an annotation asks for, if it asks for one."""
    extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Registry)), None)


def is_union(annotation: Any) -> bool:
    """Return whether an annotation is ``A | B`` or ``Union[A, B]``."""
    return get_origin(annotation) in (Union, types.UnionType)


def is_fixed_tuple(annotation: Any) -> bool:
    """Return whether an annotation is a tuple of given length, like ``tuple[float, float]``."""
    arguments = get_args(annotation)
    return get_origin(annotation) is tuple and bool(arguments) and arguments[-1] is not Ellipsis


def members(union: Any) -> list[Any]:
    """Return the members of a union that an option file can hold: a tensor, for example, is none of them."""
    writable = (*_NAMES, *SEQUENCES, *MAPPINGS, *_PATHS, Literal, Annotated, Any, object, None)
    every = list(get_args(union))
    return [member for member in every if is_union(member) or kind_of(member) in writable] or every


def with_article(noun: str) -> str:
    """Return ``a data set``, ``an optimizer``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def describe(annotation: Any) -> str:
    """Return what an annotation asks for, in words: ``a list of integers or null``."""
    kind, arguments = kind_of(annotation), get_args(annotation)
    if kind is Annotated:
        registry = registry_of(annotation)
        return f"the section of {with_article(registry.kind)}, {{type: …}}" if registry else describe(arguments[0])
    if is_union(annotation):
        return " or ".join(dict.fromkeys(map(describe, members(annotation))))
    if kind is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(f"'{choice}'" for choice in arguments)
    if is_fixed_tuple(annotation):
        return f"a list of {len(arguments)} ({', '.join(map(describe, arguments))})"
    if kind in SEQUENCES:
        of = describe(arguments[0]) if arguments else "anything"
        return f"a list of {_PLURALS.get(of, of)}"
    if kind in MAPPINGS:
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
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def fit_scalar(annotation: Any, value: Any) -> tuple[Any, bool]:
    """Return a scalar as the annotation wants it, and whether it fits."""
    kind = kind_of(annotation)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (Any, object):
        return value, True
    if kind in (None, type(None)):
        return value, value is None
    if kind is Literal:
        return value, any(value == choice and type(value) is type(choice) for choice in get_args(annotation))
    if kind is bool and isinstance(value, str):
        return _WORDS.get(value.lower(), value), value.lower() in _WORDS
    if kind is int:
        is_whole = is_number and float(value).is_integer()
        return int(value) if is_whole else value, is_whole
    if kind is float:
        return float(value) if is_number else value, is_number
    if kind in _PATHS:
        return FilePath(value) if isinstance(value, str) else value, isinstance(value, str)
    return value, isinstance(kind, type) and kind not in SEQUENCES and isinstance(value, kind)
