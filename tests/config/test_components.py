"""Models made from constructors' signatures: conversions, and one message for each mistake."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeAlias

import pytest
import torch
from pydantic import Field, ValidationError

from mcir.config.components import adapter_of, describe
from mcir.config.wording import describe_value
from mcir.registry import DATASETS, DEGRADATIONS, ArchSection, OptimizerSection, Registry

GADGETS = Registry("gadget", "json")
GadgetSection: TypeAlias = Annotated[Mapping[str, Any], GADGETS]


@GADGETS.register(aliases=["OldWheel"])
class Wheel:
    def __init__(self, size: int, spokes: float = 8.0, kind: Literal["wood", "steel"] = "steel", firm: bool = True):
        pass


@GADGETS.register()
class Cart:
    def __init__(
        self,
        wheel: GadgetSection,
        spare: GadgetSection | None = None,
        more: Sequence[GadgetSection] = (),
        named: Mapping[str, GadgetSection] | None = None,
        weights: float | Sequence[float] = 1.0,
        span: tuple[float, float] = (0.0, 1.0),
        numbers: list[int] = [],  # noqa: B006
        limited: Annotated[int, Field(ge=1, le=9)] = 1,
        anything=None,
    ):
        pass


WHEEL = {"type": "Wheel", "size": 3}


def validate(annotation, value, scale=None):
    """Return the converted value, and key path and message of every problem."""
    try:
        return adapter_of(annotation).validate_python(value, context={"scale": scale}), []
    except ValidationError as error:
        return None, [(".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()]


def check(value, scale=None, registry=GADGETS):
    return validate(Annotated[Mapping[str, Any], registry], value, scale)


def test_values_are_converted_at_every_depth():
    section, problems = check(
        {
            "type": "Cart",
            "wheel": {"type": "OldWheel", "size": 5e3, "spokes": 2, "firm": "off"},
            "spare": None,
            "more": [WHEEL, {"type": "Cart", "wheel": WHEEL}],
            "named": {"left": {**WHEEL, "kind": "wood"}},
            "weights": [1, 2],
            "span": [0, 1e3],
            "numbers": [1.0, 2],
            "limited": 9,
            "anything": {"goes": [True]},
        }
    )
    assert problems == []
    assert section["wheel"] == {"type": "OldWheel", "size": 5000, "spokes": 2.0, "firm": False}
    assert isinstance(section["wheel"]["size"], int)
    assert section["spare"] is None
    assert section["more"][1]["wheel"] == WHEEL
    assert section["weights"] == (1.0, 2.0)
    assert section["span"] == (0.0, 1000.0)
    assert section["numbers"] == [1, 2]
    assert section["anything"] == {"goes": [True]}


def test_arguments_keep_the_order_of_the_file():
    assert list(check({"type": "Wheel", "firm": True, "size": 3})[0]) == ["type", "firm", "size"]


def test_the_input_is_not_changed():
    section = {"type": "Cart", "wheel": {"type": "Wheel", "size": 1e1}}
    check(section)
    assert section == {"type": "Cart", "wheel": {"type": "Wheel", "size": 1e1}}
    assert isinstance(section["wheel"]["size"], float)


def test_arguments_may_have_the_names_of_pydantic_methods():
    registry = Registry("thing", "json")

    @registry.register()
    class Thing:
        def __init__(self, copy: int, schema: str = "", model_config: int = 0, _hidden: int = 0) -> None:
            pass

    section = {"type": "Thing", "copy": 1, "schema": "x", "model_config": 2, "_hidden": 3}
    assert check(section, registry=registry) == (section, [])


@pytest.mark.parametrize(
    ("section", "path", "message"),
    [
        (WHEEL | {"spoke": 3}, "spoke", "Wheel has no argument 'spoke'. Did you mean 'spokes'?"),
        (WHEEL | {"colour": 3}, "colour", "Wheel has no argument 'colour'."),
        ({"type": "Wheel"}, "", "Wheel requires 'size', an integer."),
        ({"type": "Wheel", "sise": 3}, "sise", "Wheel has no argument 'sise'. Did you mean 'size'?"),
        (WHEEL | {"size": True}, "size", "expected an integer, got true."),
        (WHEEL | {"size": "3"}, "size", "expected an integer, got '3'."),
        (WHEEL | {"size": 2.5}, "size", "expected an integer, got 2.5."),
        (WHEEL | {"kind": "steal"}, "kind", "expected one of 'wood', 'steel', got 'steal'. Did you mean "
         "'steel'?"),
        ({"type": "Cart", "wheel": "Wheel"}, "wheel", "expected the section of a gadget, {type: …}, got "
         "'Wheel'. Write {type: Wheel}."),
        ({"type": "Cart", "wheel": 3}, "wheel", "expected the section of a gadget, {type: …}, got 3."),
        ({"type": "Cart", "wheel": WHEEL, "spare": {"type": "Wheel"}}, "spare", "Wheel requires 'size', an integer."),
        ({"type": "Cart", "wheel": WHEEL, "more": [WHEEL, {"type": "Wheel"}]}, "more.1",
         "Wheel requires 'size', an integer."),
        ({"type": "Cart", "wheel": WHEEL, "named": {"a": {"type": "Wheel"}}}, "named.a",
         "Wheel requires 'size', an integer."),
        ({"type": "Cart", "wheel": WHEEL, "weights": [1, "x"]}, "weights.1",
         "expected a number, got 'x'."),
        ({"type": "Cart", "wheel": WHEEL, "weights": "x"}, "weights",
         "expected a number or a list of numbers, got 'x'."),
        ({"type": "Cart", "wheel": WHEEL, "span": [1]}, "span",
         "expected a list of 2 values, got [1]."),
        ({"type": "Cart", "wheel": WHEEL, "limited": 0}, "limited",
         "expected an integer from 1 to 9, got 0."),
        ({"size": 3}, "", "A gadget requires 'type', the name of its class. Known names: Cart, Wheel."),
        ({"tpye": "Wheel"}, "", "A gadget requires 'type', the name of its class. Is it "
         "misspelt as 'tpye'? Known names: Cart, Wheel."),
    ],
)  # fmt: skip
def test_one_mistake_gives_one_problem(section, path, message):
    assert check(section)[1] == [(path, message)]


def test_an_unknown_class_comes_with_the_closest_one():
    _, [(path, message)] = check({"type": "Weel"})
    assert path == "type"
    assert message.startswith("There is no gadget 'Weel'. Did you mean 'Wheel'?")


def test_all_problems_are_collected():
    _, problems = check({"type": "Cart", "wheel": {"type": "Wheel", "x": 1, "spokes": None}, "weight": 3})
    assert sorted(path for path, _ in problems) == ["weight", "wheel", "wheel.spokes", "wheel.x"]


def test_the_scale_is_filled_in_for_data_sets_and_degradations():
    section = {"type": "PairedImageDataset", "dataroot_gt": "a", "degradation": {"type": "BicubicDown"}}
    filled, problems = check(section, 3, DATASETS)
    assert problems == []
    assert filled["scale"] == filled["degradation"]["scale"] == 3
    assert "scale" not in check({"type": "JPEG", "quality": 5}, 3, DEGRADATIONS)[0]


def test_another_scale_is_a_problem():
    section = {"type": "BicubicDown", "scale": 2}
    assert check(section, 2, DEGRADATIONS)[1] == []
    assert check(section, 3, DEGRADATIONS)[1] == [
        ("scale", "expected 3, the scale at the top of the file, got 2. Leave it out here.")
    ]


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "an integer"),
        (float | None, "a number or null"),
        (Optional[str], "text or null"),  # noqa: UP045
        (bool, "true or false"),
        (Sequence[int], "a list of integers"),
        (float | Sequence[float], "a number or a list of numbers"),
        (tuple[float, float], "a list of 2 values (a number, a number)"),
        (tuple[int, ...], "a list of integers"),
        (list, "a list of anything"),
        (Mapping[str, float], "a mapping"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (Literal["a"] | int, "'a' or an integer"),
        (float | torch.Tensor, "a number"),
        (ArchSection, "the section of an architecture, {type: …}"),
        (OptimizerSection | None, "the section of an optimizer, {type: …} or null"),
        (Annotated[int, Field(ge=1)], "an integer ≥ 1"),
    ],
)
def test_annotations_in_words(annotation, words):
    assert describe(annotation) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "null"), (True, "true"), (1, "1"), (1.5, "1.5"), ("a", "'a'"), ({}, "a mapping"), ([], "[]"),
     ([1, "a"], "[1, 'a']"), (list(range(99)), "a list of 99 values")],
)  # fmt: skip
def test_values_in_words(value, words):
    assert describe_value(value) == words


@pytest.mark.parametrize(
    ("annotation", "value", "converted"),
    [
        (int, 5e3, 5000),
        (int, 5, 5),
        (int | float, 5e3, 5e3),
        (float, 0, 0.0),
        (bool, "no", False),
        (bool, "Off", False),
        (bool, "yes", True),
        (bool, False, False),
        (str, "no", "no"),
        (Path, "a/b", Path("a/b")),
        (Literal["a", "b"], "a", "a"),
        (type(None), None, None),
        (Any, True, True),
        (object, "x", "x"),
        (Sequence[int], [1], (1,)),
        (list[int], [1e1], [10]),
    ],
)
def test_values_that_are_accepted(annotation, value, converted):
    result, problems = validate(annotation, value)
    assert problems == []
    assert result == converted
    assert type(result) is type(converted)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int, 5.5), (int, True), (int, "5"), (int, None), (float, True), (float, "1e-4"), (bool, 1), (bool, "true"),
     (bool, None), (str, 5), (str, None), (Path, 5), (Literal["a"], "b"), (Sequence[str], "abc"),
     (Mapping[str, int], "abc"), (torch.Tensor, 1.0), (int, float("inf")), (list[int], 1)],
)  # fmt: skip
def test_values_that_are_refused(annotation, value):
    assert validate(annotation, value)[1][0][1].startswith("expected ")


def test_a_number_where_text_is_expected_needs_quotes():
    assert validate(str | None, 7)[1] == [("", "expected text or null, got 7. Put it in quotes.")]
