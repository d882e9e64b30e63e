from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import pytest
from pydantic import Field

from mcir.config.checker import Checker
from mcir.registry import DATASETS, DEGRADATIONS, Registry

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


def check(value, scale=None, registry=GADGETS):
    checker = Checker(scale)
    return checker.section(registry, value, ("cart",)), [
        (".".join(map(str, path)), message) for path, message in checker.problems
    ]


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


def test_nothing_given_is_changed():
    given = {"type": "Cart", "wheel": {"type": "Wheel", "size": 1e1}}
    check(given)
    assert given == {"type": "Cart", "wheel": {"type": "Wheel", "size": 1e1}}
    assert isinstance(given["wheel"]["size"], float)


@pytest.mark.parametrize(
    ("section", "path", "message"),
    [
        (WHEEL | {"spoke": 3}, "cart.spoke", "Wheel takes no 'spoke'. Did you mean 'spokes'?"),
        (WHEEL | {"colour": 3}, "cart.colour", "Wheel takes no 'colour'."),
        ({"type": "Wheel"}, "cart", "Wheel needs 'size', an integer."),
        ({"type": "Wheel", "sise": 3}, "cart.sise", "Wheel takes no 'sise'. Did you mean 'size'?"),
        (WHEEL | {"size": True}, "cart.size", "Expected an integer, not true."),
        (WHEEL | {"size": "3"}, "cart.size", "Expected an integer, not the text '3'."),
        (WHEEL | {"size": 2.5}, "cart.size", "Expected an integer, not 2.5."),
        (WHEEL | {"kind": "steal"}, "cart.kind", "Expected one of 'wood', 'steel', not the text 'steal'. Did you mean "
         "'steel'?"),
        ({"type": "Cart", "wheel": "Wheel"}, "cart.wheel", "Expected the section of a gadget, {type: …}, not the text "
         "'Wheel'. Write {type: Wheel}."),
        ({"type": "Cart", "wheel": 3}, "cart.wheel", "Expected the section of a gadget, {type: …}, not 3."),
        ({"type": "Cart", "wheel": WHEEL, "spare": {"type": "Wheel"}}, "cart.spare", "Wheel needs 'size', an integer."),
        ({"type": "Cart", "wheel": WHEEL, "more": [WHEEL, {"type": "Wheel"}]}, "cart.more.1",
         "Wheel needs 'size', an integer."),
        ({"type": "Cart", "wheel": WHEEL, "named": {"a": {"type": "Wheel"}}}, "cart.named.a",
         "Wheel needs 'size', an integer."),
        ({"type": "Cart", "wheel": WHEEL, "weights": [1, "x"]}, "cart.weights.1",
         "Expected a number, not the text 'x'."),
        ({"type": "Cart", "wheel": WHEEL, "weights": "x"}, "cart.weights",
         "Expected a number or a list of numbers, not the text 'x'."),
        ({"type": "Cart", "wheel": WHEEL, "span": [1]}, "cart.span",
         "Expected a list of 2 (a number, a number), not a list of 1."),
        ({"type": "Cart", "wheel": WHEEL, "limited": 0}, "cart.limited",
         "Expected an integer greater than or equal to 1, not 0."),
        ({"size": 3}, "cart", "A gadget needs a 'type', its class. Known are Cart, Wheel."),
        ({"tpye": "Wheel"}, "cart", "A gadget needs a 'type', its class. Is it misspelt as 'tpye'? Known are Cart, "
         "Wheel."),
    ],
)  # fmt: skip
def test_one_mistake_gives_one_problem(section, path, message):
    assert check(section)[1] == [(path, message)]


def test_an_unknown_class_is_named_with_the_nearest_one():
    _, [(path, message)] = check({"type": "Weel"})
    assert path == "cart.type"
    assert message.startswith("There is no gadget 'Weel'. Did you mean 'Wheel'?")


def test_all_problems_are_collected():
    _, problems = check({"type": "Cart", "wheel": {"type": "Wheel", "x": 1, "spokes": None}, "weight": 3})
    assert [path for path, _ in problems] == ["cart.weight", "cart.wheel.x", "cart.wheel", "cart.wheel.spokes"]


def test_a_quoted_text_is_asked_for_where_a_number_stands():
    checker = Checker()
    checker.convert(str | None, 7, ("name",))
    assert checker.problems == [(("name",), "Expected text or null, not 7. Put it in quotes.")]


def test_the_scale_is_filled_in_where_a_data_set_takes_it():
    section = {"type": "PairedImageDataset", "dataroot_gt": "a", "degradation": {"type": "BicubicDown"}}
    filled, problems = check(section, 3, DATASETS)
    assert problems == []
    assert filled["scale"] == filled["degradation"]["scale"] == 3
    assert "scale" not in check({"type": "JPEG", "quality": 5}, 3, DEGRADATIONS)[0]


def test_another_scale_is_a_problem():
    section = {"type": "BicubicDown", "scale": 2}
    assert check(section, 2, DEGRADATIONS)[1] == []
    assert check(section, 3, DEGRADATIONS)[1] == [
        ("cart.scale", "The scale is 3 at the top of the options: leave it out here.")
    ]
