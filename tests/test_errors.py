"""Tests of the errors of components and of their locations."""

import pickle

import pytest

from mcir.errors import ArgumentError, ComponentError, Location, closest, suggestion
from mcir.registry import Registry


def test_the_closest_name_is_suggested():
    assert suggestion("num_feats", ["num_feat", "num_block"]) == " Did you mean 'num_feat'?"
    assert suggestion("edsr", ["EDSR"]) == " Did you mean 'EDSR'?"
    assert suggestion("zzz", ["num_feat"]) == ""
    assert closest("EDRS", ["edsr", "RCAN"]) == "edsr"
    assert closest("zzz", ["num_feat"]) is None


@pytest.fixture
def boxes():
    """A registry with a class that builds nested sections and rejects some values."""
    registry = Registry("box", "mcir.errors")

    @registry.register()
    class Box:
        def __init__(self, width: int = 1, inner: object = None, rows: tuple = (), problem: str = "") -> None:
            if inner:
                registry.build(inner, key="inner")
            for index, row in enumerate(rows):
                registry.build(row, key=("rows", index))
            if width < 1:
                raise ArgumentError("width", f"expected a positive width, got {width}.")
            if problem:
                raise ValueError(problem)

    return registry


def where(path):
    """Return a location whose line number depends on the depth of the path."""
    return Location("x.yml", 1 + len(path), ".".join(map(str, ("box", *path))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "x.yml:2: box.width: expected a positive width, got 0."),
        ({"inner": {"type": "Box", "width": 0}}, "x.yml:3: box.inner.width: expected a positive width, got 0."),
        ({"rows": [{"type": "Box"}, {"type": "Box", "inner": {"type": "Box", "width": 0}}]},
         "x.yml:5: box.rows.1.inner.width: expected a positive width, got 0."),
        ({"problem": "width: too wide"}, "x.yml:1: box: width: too wide"),
        ({"inner": {"type": "Box", "problem": "too wide"}}, "x.yml:2: box.inner: too wide"),
        ({"widht": 0}, "x.yml:2: box.widht: Box has no argument 'widht'. Did you mean 'width'?"),
        ({"inner": {"type": "Bix"}}, "x.yml:3: box.inner.type: There is no box 'Bix'. Did you mean 'Box'? "),
    ],
)  # fmt: skip
def test_an_error_in_a_constructor_gets_the_location_of_the_argument(boxes, arguments, message):
    section = {"type": "Box", **arguments}
    with pytest.raises(ComponentError) as caught:
        boxes.build(section, where=where)
    assert str(caught.value).startswith(message)


def test_without_an_option_file_the_message_starts_with_the_key_path(boxes):
    with pytest.raises(ArgumentError, match=r"^inner.width: expected a positive width, got 0\.$") as caught:
        boxes.build({"type": "Box", "inner": {"type": "Box", "width": 0}})
    assert caught.value.path == ("inner", "width")
    with pytest.raises(ValueError, match=r"^too wide$"):
        boxes.build({"type": "Box", "problem": "too wide"})


def test_an_error_with_a_location_can_be_pickled(boxes):
    with pytest.raises(ArgumentError) as caught:
        boxes.build({"type": "Box", "width": 0}, where=where)
    received = pickle.loads(pickle.dumps(caught.value))
    assert (str(received), received.name) == ("x.yml:2: box.width: expected a positive width, got 0.", "width")
