"""Registering, looking up and building components, and the errors of each."""

import inspect
import pickle
from dataclasses import dataclass, field

import pytest
import torch

from mcir.registry import (
    ARCHS,
    ArgumentError,
    ComponentError,
    Location,
    Registry,
    RegistryError,
    closest,
    config_of,
    suggestion,
)


@pytest.fixture
def shapes():
    registry = Registry("shape", "mcir.registry", runtime_args=("canvas",))

    @registry.register(aliases=("Rectangle",))
    class Box:
        def __init__(self, canvas, width: int, height: int = 2) -> None:
            self.area = width * height

    return registry, Box


def test_build_does_not_change_the_section(shapes):
    registry, box = shapes
    section = {"type": "Rectangle", "width": 3}
    built = registry.build(section, "canvas")
    assert isinstance(built, box)
    assert built.area == 6
    assert section == {"type": "Rectangle", "width": 3}


def test_an_instance_records_its_name_and_arguments_with_defaults(shapes):
    registry, box = shapes
    assert config_of(registry.build({"type": "Rectangle", "width": 3}, "canvas")) == ("Box", {"width": 3, "height": 2})
    assert config_of(box("canvas", 5, height=1)).arguments == {"width": 5, "height": 1}


def test_a_subclass_records_its_own_arguments(shapes):
    registry, box = shapes

    @registry.register(name="Quadrat")
    class Square(box):
        def __init__(self, canvas, side: int) -> None:
            super().__init__(canvas, side, side)

    assert config_of(Square("canvas", 4)) == ("Quadrat", {"side": 4})


def test_objects_of_classes_that_are_not_registered_have_no_config(shapes):
    class Subclass(shapes[1]):
        pass

    registry = Registry("layer", "mcir.registry")
    registry.add(torch.nn.ReLU)
    assert config_of(Subclass("canvas", 3)) is None
    assert config_of(registry.build({"type": "ReLU"})) is None
    assert config_of(3) is None


def test_recorded_arguments_are_copies():
    registry = Registry("list", "mcir.registry")

    @registry.register()
    class Values:
        def __init__(self, values: list) -> None:
            pass

    values = [1]
    instance = Values(values)
    values.append(2)
    assert config_of(instance).arguments == {"values": [1]}


def test_names_are_sorted_and_matched_ignoring_case(shapes):
    registry, _ = shapes
    assert registry.names() == ["Box"]
    assert registry.names("b*") == ["Box"]
    assert registry.names("x*") == []
    assert registry.aliases("Box") == ["Rectangle"]
    assert "Rectangle" in registry
    assert "Circle" not in registry


def test_parameters_exclude_runtime_arguments(shapes):
    registry, _ = shapes
    assert list(registry.parameters("Box")) == ["width", "height"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "Bux", "width": 1}, r"no shape 'Bux'. Did you mean 'Box'\? Known names: Box. Defined in: tests"),
        ({"type": "Box", "widht": 1}, r"Box has no argument 'widht'. Did you mean 'width'"),
        ({"type": "Box"}, "Box requires the argument 'width'"),
        ({"width": 1}, "mapping with the key 'type'"),
        ("Box", "mapping with the key 'type'"),
        ({"type": 3}, "mapping with the key 'type'"),
    ],
)
def test_an_invalid_section_is_rejected(shapes, section, message):
    with pytest.raises(RegistryError, match=message):
        shapes[0].build(section, "canvas")


def test_a_taken_name_is_rejected(shapes):
    registry, box = shapes
    with pytest.raises(RegistryError, match=r"name 'Box' of .*Other is taken: shape .*Box is registered under it"):

        @registry.register(name="Box")
        class Other:
            def __init__(self, canvas) -> None:
                pass

    with pytest.raises(RegistryError, match=r"name 'Rectangle' of .* is taken"):
        registry.add(type("Third", (), {}), aliases=("Rectangle",))
    assert registry.get("Box") is box


def test_a_constructor_that_accepts_any_arguments_is_rejected(shapes):
    with pytest.raises(RegistryError, match=r"accepts '\*\*rest', so misspelt options would go unnoticed"):

        @shapes[0].register()
        class Loose:
            def __init__(self, canvas, **rest) -> None:
                pass


def test_a_module_without_a_constructor_takes_no_arguments():
    registry = Registry("layer", "mcir.registry")

    @registry.register()
    class Plain(torch.nn.Module):
        pass

    assert config_of(registry.build({"type": "Plain"})) == ("Plain", {})
    assert registry.parameters("Plain") == {}
    with pytest.raises(RegistryError, match="Plain has no argument 'width'"):
        registry.build({"type": "Plain", "width": 3})


def test_a_plain_class_without_a_constructor_takes_no_arguments():
    registry = Registry("thing", "mcir.registry")

    @registry.register(name="Thing")
    class Plain:
        pass

    assert config_of(registry.build({"type": "Thing"})) == ("Thing", {})
    with pytest.raises(RegistryError, match="Thing has no argument 'width'"):
        registry.build({"type": "Thing", "width": 3})


def test_a_registry_imports_the_package_of_its_components():
    assert "EDSR" in ARCHS.names()


def test_the_closest_name_is_suggested():
    assert suggestion("num_feats", ["num_feat", "num_block"]) == " Did you mean 'num_feat'?"
    assert suggestion("edsr", ["EDSR"]) == " Did you mean 'EDSR'?"
    assert suggestion("zzz", ["num_feat"]) == ""
    assert closest("EDRS", ["edsr", "RCAN"]) == "edsr"
    assert closest("zzz", ["num_feat"]) is None


@pytest.fixture
def boxes():
    """A registry with a class that builds nested sections and rejects some values."""
    registry = Registry("box", "mcir.registry")

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


def test_has_argument(shapes):
    registry, _ = shapes
    assert registry.has_argument("height")
    assert not registry.has_argument("canvas")
    assert not registry.has_argument("heigth")


def test_the_signature_of_a_dataclass_shows_the_values_of_default_factories():
    boxes = Registry("box", "mcir.archs")

    @boxes.register()
    @dataclass(kw_only=True)
    class Box:
        sides: list[int] = field(default_factory=lambda: [1, 2])

    assert boxes.parameters("Box")["sides"].default == inspect.signature(Box).parameters["sides"].default == [1, 2]
    one, other = boxes.build({"type": "Box"}), boxes.build({"type": "Box"})
    assert config_of(one).arguments == {"sides": [1, 2]} and one.sides is not other.sides
