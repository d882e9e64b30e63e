"""Tests of registering, looking up and building components."""

import inspect
from dataclasses import dataclass, field

import pytest
import torch

from mcir.errors import RegistryError
from mcir.registry import ARCHS, Registry, config_of


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


def test_the_signature_of_a_dataclass_shows_the_values_of_default_factories():
    boxes = Registry("box", "mcir.archs")

    @boxes.register()
    @dataclass(kw_only=True)
    class Box:
        sides: list[int] = field(default_factory=lambda: [1, 2])

    assert boxes.parameters("Box")["sides"].default == inspect.signature(Box).parameters["sides"].default == [1, 2]
    one, other = boxes.build({"type": "Box"}), boxes.build({"type": "Box"})
    assert config_of(one).arguments == {"sides": [1, 2]} and one.sides is not other.sides
