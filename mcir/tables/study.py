"""The description of a small study (``study.yml`` in its folder)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from mcir.tables.commands import StudyCommand
from mcir.tables.published import HOME, Part


class Method(Part):
    """A method of a study.

    Attributes:
        title: name in tables (default: its key).
        short: name in figures (default: its title).
        optional: whether it is trained only with ``--method``.
    """

    title: str = ""
    short: str = ""
    optional: bool = False


class Study(Part):
    """A small study.

    Attributes:
        name: name for ``mcir reproduce``.
        title: title of the report.
        seeds: default number of seeds.
        reference: method that all others are compared with.
        reference_first: whether differences are the reference minus the other method; otherwise the reverse.
        flag: command-line flag for the weights of the feature network.
        tasks: titles of the tasks.
        methods: methods by name, in the order of the report.
        introduction: text about the trainings; a template for ``str.format``.
        difference: definition of the difference that is tested.
        random_features: text about random weights of the feature network.
        paper: by task, the order of methods in the paper: chains of groups, better ones first.
    """

    name: str
    title: str
    seeds: int
    reference: str
    reference_first: bool = False
    flag: str
    tasks: dict[str, str]
    methods: dict[str, Method]
    introduction: str
    difference: str
    random_features: str = ""
    paper: dict[str, list[list[list[str]]]] = Field(default={})

    @property
    def folder(self) -> Path:
        """Folder of the option files."""
        return HOME / self.name.replace("-", "_")

    @property
    def has_pretraining(self) -> bool:
        """Whether the methods are pre-trainings, which a proxy evaluation compares."""
        return (self.folder / "pretraining.yml").is_file()

    def title_of(self, method: str) -> str:
        """Return the name of a method in tables."""
        return self.methods[method].title or method

    def short_title_of(self, method: str) -> str:
        """Return the name of a method in figures."""
        return self.methods[method].short or self.title_of(method)


def read_study(name: str) -> Study:
    """Return the description of a study."""
    return Study.read(HOME / name.replace("-", "_") / "study.yml")


def complete(command: StudyCommand, study: Study) -> StudyCommand:
    """Return the command with the defaults of its study filled in.

    Raises:
        ValueError: a task or method is unknown, or ``--seeds`` is less than 1.
    """
    for kind, names, known in (("task", command.task, study.tasks), ("method", command.method, study.methods)):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{study.name} has no {kind} '{', '.join(unknown)}'. Known: {', '.join(known)}.")
    if command.seeds is not None and command.seeds < 1:
        raise ValueError(f"--seeds: expected at least 1, got {command.seeds}.")
    methods = command.method or [name for name, method in study.methods.items() if not method.optional]
    return replace(
        command,
        seeds=2 if command.quick else command.seeds or study.seeds,
        task=command.task or list(study.tasks),
        method=[name for name in study.methods if name in methods or name == study.reference],
    )
