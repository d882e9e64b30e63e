from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
import torch

from mcir.config.annotations import describe, describe_value, fit_scalar
from mcir.registry import ArchSection, OptimizerSection


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "an integer"),
        (float | None, "a number or null"),
        (Optional[str], "text or null"),  # noqa: UP045
        (bool, "true or false"),
        (Sequence[int], "a list of integers"),
        (float | Sequence[float], "a number or a list of numbers"),
        (tuple[float, float], "a list of 2 (a number, a number)"),
        (tuple[int, ...], "a list of integers"),
        (list, "a list of anything"),
        (Mapping[str, float], "a mapping"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (Literal["a"] | int, "'a' or an integer"),
        (str | Path, "text or a path"),
        (float | torch.Tensor, "a number"),
        (ArchSection, "the section of an architecture, {type: …}"),
        (OptimizerSection | None, "the section of an optimizer, {type: …} or null"),
        (Annotated[int, "a remark"], "an integer"),
    ],
)
def test_annotations_in_words(annotation, words):
    assert describe(annotation) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "null"), (True, "true"), (1, "1"), (1.5, "1.5"), ("a", "the text 'a'"), ({}, "a mapping"),
     ([], "an empty list"), ([1], "a list of 1")],
)  # fmt: skip
def test_values_in_words(value, words):
    assert describe_value(value) == words


@pytest.mark.parametrize(
    ("annotation", "value", "fitted"),
    [
        (int, 5e3, 5000),
        (int, 5, 5),
        (float, 0, 0.0),
        (bool, "no", False),
        (bool, "Off", False),
        (bool, "yes", True),
        (bool, False, False),
        (str, "no", "no"),
        (Path, "a/b", Path("a/b")),
        (Literal["a", 1], 1, 1),
        (type(None), None, None),
        (Any, True, True),
        (object, "x", "x"),
    ],
)
def test_scalars_that_fit(annotation, value, fitted):
    converted, fits = fit_scalar(annotation, value)
    assert fits
    assert converted == fitted
    assert type(converted) is type(fitted)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int, 5.5), (int, True), (int, "5"), (int, None), (float, True), (float, "1e-4"), (float, float), (bool, 1),
     (bool, "true"), (bool, None), (str, 5), (str, None), (Path, 5), (Literal["a", 1], True), (Literal["a"], "b"),
     (Sequence[str], "abc"), (Mapping[str, int], "abc"), (torch.Tensor, 1.0), (int, float("inf"))],
)  # fmt: skip
def test_scalars_that_do_not_fit(annotation, value):
    assert not fit_scalar(annotation, value)[1]
