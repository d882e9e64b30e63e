"""Domains of arguments: the numbers and the lengths of lists that a constructor accepts, declared in its annotations.

    def __init__(self, rate: Probability = 0.0, depths: Annotated[Sequence[Count], MaxLen(8)] = (2, 2)) -> None: ...

The constraints are those of ``annotated_types``, or pydantic's ``Field(gt=0)``. Without any, a number has to be finite
and an integer has to fit in 64 bits; ``AllowInfNan`` of pydantic accepts infinity and NaN. The declaration is used by
option files, by the JSON schema, by the lists of ``mcir list``, and by the constructors of registered classes.
"""

from __future__ import annotations

import math
import operator
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen

from mcir.errors import KeyPath

SEQUENCES = (list, tuple, Sequence, Iterable, Collection)
MAPPINGS = (dict, Mapping)
UNIONS = (Union, types.UnionType)

_COMPARISONS = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}
_BOUNDS = {Gt: "gt", Ge: "ge", Lt: "lt", Le: "le"}
_MAX_INT = 2**63 - 1
_LIMIT = 1000
"""Upper bounds from this number on only prevent mistakes. Only a message about a larger value mentions them."""


@dataclass(frozen=True)
class Increasing:
    """Constraint: each number of a list is larger than the number before it.

    Attributes:
        or_equal: whether a number may also be equal to the number before it.
    """

    or_equal: bool = False


# -- frequent domains -------------------------------------------------------------------------------------------------

Positive: TypeAlias = Annotated[float, Interval(gt=0, le=1e9)]
"""Factor, weight or distance above 0."""
NonNegative: TypeAlias = Annotated[float, Interval(ge=0, le=1e9)]
"""Factor, weight or distance that may be 0."""
Fraction: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
"""Number in [0, 1]."""
Probability: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]
"""Number in [0, 1): probability of dropping something, or decay of an average."""
Epsilon: TypeAlias = Annotated[float, Interval(gt=0, le=1)]
"""Small number that is added to a divisor or to the argument of a root."""
Temperature: TypeAlias = Annotated[float, Interval(gt=0, le=1000)]
"""Divisor of the logits of a softmax."""
Rate: TypeAlias = Annotated[float, Interval(gt=0, le=1000)]
"""Learning rate."""

Count: TypeAlias = Annotated[int, Interval(ge=1, le=1024)]
"""Number of blocks, heads, channels of images, networks or processes."""
CountOrZero: TypeAlias = Annotated[int, Interval(ge=0, le=1024)]
"""Number of blocks or processes that may be 0."""
Width: TypeAlias = Annotated[int, Interval(ge=1, le=4096)]
"""Number of features of a network."""
Scale: TypeAlias = Annotated[int, Interval(ge=1, le=64)]
"""Output size divided by input size."""
Side: TypeAlias = Annotated[int, Interval(ge=1, le=2**16)]
"""Side of an image in pixels."""
Images: TypeAlias = Annotated[int, Interval(ge=1, le=10**9)]
"""Number of images of a data set."""
BatchSize: TypeAlias = Annotated[int, Interval(ge=1, le=2**16)]
"""Number of images in a batch."""
Iterations: TypeAlias = Annotated[int, Interval(ge=1, le=10**12)]
"""Number of iterations, or an interval in iterations."""
IterationsOrZero: TypeAlias = Annotated[int, Interval(ge=0, le=10**12)]
"""Number of iterations that may be 0."""
Seed: TypeAlias = Annotated[int, Interval(ge=0, le=_MAX_INT)]
"""Seed of random numbers."""

LayerWeights: TypeAlias = Mapping[str, NonNegative]
"""Weights of layers by name."""

T = TypeVar("T")
Range: TypeAlias = T | Annotated[Sequence[T], Len(2, 2), Increasing(or_equal=True)]
"""A number, or the [low, high] of a uniform distribution."""
Pair: TypeAlias = Annotated[tuple[T, T], Increasing(or_equal=True)]
"""[low, high]."""


# -- checks -----------------------------------------------------------------------------------------------------------


def parts(annotation: Any) -> tuple[Any, Any, list[Any]]:
    """Return an annotation without metadata, its class or special form, and its metadata."""
    bare, *extras = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    return bare, get_origin(bare) or bare, extras


def find_problem(annotation: Any, value: object) -> tuple[KeyPath, str, object] | None:
    """Return the first number or list inside a value that is outside its domain; types are not checked.

    Returns:
        The key path, the accepted values in words, and the number or list; None if there is none.
    """
    bare, kind, _ = parts(annotation)
    if kind in UNIONS:
        members = [member for member in get_args(bare) if _may_contain(member, value)]
        problems = [find_problem(member, value) for member in members]
        return problems[0] if problems and all(problems) else None
    if expected := outside(annotation, value):
        return (), expected, value
    for key, item, entry in _items(bare, kind, value):
        if problem := find_problem(item, entry):
            return (key, *problem[0]), *problem[1:]
    expected = unordered(annotation, value)
    return ((), expected, value) if expected else None


def outside(annotation: Any, value: object) -> str | None:
    """Return the accepted values in words if a number, or the length of a list, is outside its domain."""
    bare, kind, extras = parts(annotation)
    if kind in (int, float) and _is_number(value):
        return _outside_bounds(kind, list(_constraints(extras)), value)
    if kind in SEQUENCES and isinstance(value, list | tuple):
        return _wrong_length([*_constraints(extras), *Len(*_fixed_length(bare))], value)
    return None


def unordered(annotation: Any, value: object) -> str | None:
    """Return the accepted order in words if the numbers of a list have another one."""
    order = next((extra for extra in parts(annotation)[2] if isinstance(extra, Increasing)), None)
    if order is None or not isinstance(value, list | tuple) or not all(map(_is_number, value)):
        return None
    if all(first < second or (order.or_equal and first == second) for first, second in pairwise(value)):
        return None
    return "numbers in ascending order" if order.or_equal else "increasing numbers"


def describe_number(kind: type, bounds: Mapping[str, float], value: float = 0) -> str:
    """Return the numbers inside bounds in words, like ``an integer from 1 to 9`` or ``a finite number above 0``.

    Args:
        kind: int or float.
        bounds: bounds by the names of ``annotated_types``: ``gt``, ``ge``, ``lt``, ``le``.
        value: number that the message is about.
    """
    low, high = bounds.get("gt", bounds.get("ge")), bounds.get("lt", bounds.get("le"))
    if high is not None and high >= _LIMIT and not high < value < math.inf:
        high = None
    if kind is int:
        first = None if low is None else _in_words(low + ("gt" in bounds))
        last = None if high is None else _in_words(high - ("lt" in bounds))
        if first and last:
            return f"an integer from {first} to {last}"
        return f"an integer ≥ {first}" if first else f"an integer ≤ {last}" if last else "an integer"
    if low is not None and high is not None:
        return f"a number in {'(' if 'gt' in bounds else '['}{low:g}, {high:g}{')' if 'lt' in bounds else ']'}"
    if low is not None:
        return f"a finite number {'above' if 'gt' in bounds else '≥'} {low:g}"
    return "a number" if high is None else f"a finite number {'below' if 'lt' in bounds else '≤'} {high:g}"


def describe_length(least: int | None, most: int | None) -> str:
    """Return the accepted lengths of a list in words: ``2``, ``1 to 8``, ``at least 1``; empty without limits."""
    if most is None or most == sys.maxsize:
        return f"at least {least}" if least else ""
    return str(least) if least == most else f"{least} to {most}" if least else f"at most {most}"


def _constraints(extras: Iterable[Any]) -> Iterator[Any]:
    """Yield the constraints in the metadata of an annotation, also those in groups and in pydantic's ``Field``."""
    for extra in extras:
        group = extra if isinstance(extra, Interval | Len) else getattr(extra, "metadata", None)
        if group is None:
            yield extra
        else:
            yield from _constraints(group)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _may_contain(annotation: Any, value: object) -> bool:
    """Return whether an annotation is that of a value, for numbers, lists and mappings."""
    bare, kind, _ = parts(annotation)
    if kind is Literal:
        return value in get_args(bare)
    return (
        (kind in (int, float) and _is_number(value))
        or (kind in SEQUENCES and isinstance(value, list | tuple))
        or (kind in MAPPINGS and isinstance(value, Mapping))
    )


def _fixed_length(bare: Any) -> tuple[int, int | None]:
    """Return the smallest and the largest length of ``tuple[X, Y]``, or of a list of any length: 0 and None."""
    arguments = get_args(bare)
    is_fixed = get_origin(bare) is tuple and bool(arguments) and arguments[-1] is not Ellipsis
    return (len(arguments), len(arguments)) if is_fixed else (0, None)


def _items(bare: Any, kind: Any, value: object) -> Iterator[tuple[str | int, Any, object]]:
    """Yield key, annotation and value of each item of a list or mapping."""
    arguments = get_args(bare)
    if kind in MAPPINGS and isinstance(value, Mapping) and len(arguments) == 2:
        yield from ((str(key), arguments[1], entry) for key, entry in value.items())
    elif kind in SEQUENCES and isinstance(value, list | tuple) and arguments:
        annotations = arguments if _fixed_length(bare)[1] else [arguments[0]] * len(value)
        yield from zip(range(len(value)), annotations, value)  # noqa: B905  # the length is another check


def _outside_bounds(kind: type, found: Sequence[Any], value: Any) -> str | None:
    bounds = {_BOUNDS[type(extra)]: getattr(extra, _BOUNDS[type(extra)]) for extra in found if type(extra) in _BOUNDS}
    expected = describe_number(kind, bounds, value)
    if not all(_COMPARISONS[name](value, bound) for name, bound in bounds.items()):
        return expected
    if kind is int:
        return None if -_MAX_INT <= value <= _MAX_INT else f"{expected} of at most 64 bits"
    is_finite = abs(value) <= sys.float_info.max
    return None if is_finite or any(getattr(extra, "allow_inf_nan", False) for extra in found) else "a finite number"


def _wrong_length(found: Sequence[Any], value: Sequence[Any]) -> str | None:
    least = next((extra.min_length for extra in found if isinstance(extra, MinLen)), 0)
    most = next((extra.max_length for extra in found if isinstance(extra, MaxLen)), sys.maxsize)
    return None if least <= len(value) <= most else f"a list of {describe_length(least, most)} values"


def _in_words(number: float) -> str:
    return "2^63 − 1" if number == _MAX_INT else f"{number:,}"
