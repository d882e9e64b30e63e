"""Every registered architecture is tested by a contract class."""

import importlib
import pkgutil

import tests.archs
from mcir import archs
from tests.archs.contract import ArchitectureContract


def subclasses(cls: type[ArchitectureContract]) -> list[type[ArchitectureContract]]:
    return [each for direct in cls.__subclasses__() for each in (direct, *subclasses(direct))]


def test_every_registered_architecture_has_a_contract() -> None:
    for module in pkgutil.iter_modules(tests.archs.__path__, "tests.archs."):
        importlib.import_module(module.name)
    assert {cls.section["type"] for cls in subclasses(ArchitectureContract)} == set(archs.__all__)
