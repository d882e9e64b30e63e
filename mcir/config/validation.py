"""From the tree of an option file to checked options, with every problem found on the way."""

from __future__ import annotations

from inspect import Parameter
from typing import Any, TypeVar

from mcir.config.checker import Checker, meant_by
from mcir.config.schema import (
    EVALUATION_LOADER_KEYS,
    LOADER_KEYS,
    DatasetOptions,
    Datasets,
    DistOptions,
    Fixed,
    General,
    LoggerOptions,
    Options,
    PathOptions,
    Stage,
    TrainOptions,
    ValOptions,
    freeze,
    parameters_of,
)
from mcir.config.tree import Node, OptionError, Problem
from mcir.registry import ARCHS, DATASETS, MODELS, KeyPath, RegistryError, closest, suggestion

F = TypeVar("F", bound=Fixed)

_SECTIONS: dict[str, type[Fixed]] = {
    "path": PathOptions,
    "val": ValOptions,
    "logger": LoggerOptions,
    "dist_params": DistOptions,
}
_TOP = (*General.model_fields, "datasets", "network_g", "train", *_SECTIONS)


def validate(root: Node) -> Options:
    """Return the options that a tree of today's names holds.

    Raises:
        OptionError: anything does not fit; the message lists all of it.
    """
    validation = _Validation(root)
    options = validation.run()
    if options is None:
        raise validation.error()
    return options


def validate_network(root: Node) -> Any:
    """Return the section of the network that restores, whatever else the tree holds.

    Raises:
        OptionError: there is none, or it does not fit its class.
    """
    validation = _Validation(root)
    section = validation.network()
    if validation.problems:
        raise validation.error()
    return section


class _Validation:
    def __init__(self, root: Node) -> None:
        self.root = root
        self.tree: dict[str, Any] = root.plain()
        scale = self.tree.get("scale", General.model_fields["scale"].default)
        self.checker = Checker(scale if isinstance(scale, int) else None)
        self.problems = self.checker.problems

    def run(self) -> Options | None:
        """Check everything; return None if there were problems."""
        self.unknown_sections()
        general = self.general()
        model = self.model()
        parts = {
            "networks": self.networks(model),
            "datasets": self.datasets(),
            "train": self.train(model),
            **{key: self.fixed(key, of) for key, of in _SECTIONS.items()},
        }
        if self.problems:
            return None
        options = Options(**general, **parts)
        options._root = self.root
        return options

    def error(self) -> OptionError:
        """Return all problems, each with its place."""
        return OptionError(Problem(self.root.locate(path), message) for path, message in self.problems)

    def network(self) -> Any:
        """Check the network that restores alone."""
        given = self.tree.get("network_g")
        if given is None:
            misspelt = closest("network_g", self.tree)
            hint = f" Is it misspelt as '{misspelt}'?" if misspelt else ""
            self.checker.report((), f"The file needs 'network_g', the section of a network.{hint}")
            return None
        return freeze(self.checker.section(ARCHS, given, ("network_g",)))

    def unknown_sections(self) -> None:
        for key in self.tree:
            if key not in _TOP and not key.startswith("network_"):
                self.checker.report((key,), f"There is no option '{key}'.{suggestion(key, _TOP)}")

    def mapping(self, path: KeyPath, value: Any) -> dict[str, Any]:
        """Return a section's value; null is an empty section, and anything else than a mapping a problem."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.checker.report(path, "Expected a section, lines 'key: value' indented below this one.")
            return {}
        return value

    def general(self) -> dict[str, Any]:
        given = {key: value for key, value in self.tree.items() if key in General.model_fields}
        meant = meant_by(self.tree, _TOP)
        wanted = {
            key: parameter for key, parameter in parameters_of(General).items() if key not in meant or key in given
        }
        return self.checker.arguments("An option file", wanted, given, ())

    def model(self) -> dict[str, Parameter] | None:
        """Return the arguments of the model's class, or None if it is not known."""
        name = self.tree.get("model_type")
        if not isinstance(name, str):
            return None
        try:
            return MODELS.parameters(name)
        except RegistryError as error:
            self.checker.report(("model_type",), str(error))
            return None

    def networks(self, model: dict[str, Parameter] | None) -> Any:
        given = {
            key: value
            for key, value in self.tree.items()
            if key.startswith("network_") and not (value is None and MODELS.takes(key))
        }
        takes = {key for key in model if key.startswith("network_")} if model else {"network_g", *given}
        networks = {}
        for key, value in given.items():
            if key in takes:
                networks[key] = self.checker.section(ARCHS, value, (key,))
            else:
                self.checker.report((key,), f"{self.tree['model_type']} takes no '{key}'.{suggestion(key, takes)}")
        for key in takes - given.keys() - meant_by(self.tree, _TOP):
            if model is None or model[key].default is Parameter.empty:
                self.checker.report((), f"An option file needs '{key}', the section of a network.")
        return freeze(networks)

    def datasets(self) -> Datasets:
        section = self.mapping(("datasets",), self.tree.get("datasets"))
        kinds: dict[str, dict[str, DatasetOptions]] = {"train": {}, "val": {}, "test": {}}
        for key, value in section.items():
            kind = next((kind for kind in kinds if key == kind or (kind != "train" and key.startswith(kind))), None)
            if kind is None:
                hint = suggestion(key, kinds) or " Keys are 'train' and whatever begins with 'val' or 'test'."
                self.checker.report(("datasets", key), f"There is no data set '{key}'.{hint}")
            elif value is not None:
                kinds[kind][key] = self.dataset(key, value, training=kind == "train")
        named = {key for key, value in section.items() if value is not None} | meant_by(section, kinds)
        if not section and "datasets" not in meant_by(self.tree, _TOP):
            self.checker.report((), "An option file needs 'datasets', with 'train', 'val' or 'test' below.")
        elif section and self.tree.get("train") and "train" not in named:
            self.checker.report(("datasets",), "There is a section 'train', but no data set 'train' to train on.")
        elif section.get("train") and not self.tree.get("train") and "train" not in meant_by(self.tree, _TOP):
            self.checker.report((), "There is a data set 'train', but no section 'train' that says how to train on it.")
        return Datasets(train=kinds["train"].get("train"), val=kinds["val"], test=kinds["test"])

    def dataset(self, key: str, value: Any, training: bool) -> DatasetOptions:
        path: KeyPath = ("datasets", key)
        given = self.mapping(path, value)
        keys = LOADER_KEYS if training else EVALUATION_LOADER_KEYS
        known = {key: parameter for key, parameter in parameters_of(DatasetOptions).items() if key in keys | {"name"}}
        own = {key: entry for key, entry in given.items() if key in known and key != "progressive"}
        arguments = {key: entry for key, entry in given.items() if key not in LOADER_KEYS | {"name"}}
        if training and "batch_size_per_gpu" not in given.keys() | meant_by(given, LOADER_KEYS):
            self.checker.report(path, "A training set needs 'batch_size_per_gpu', an integer.")
        if not training and "batch_size_per_gpu" in given:
            self.checker.report((*path, "batch_size_per_gpu"), "Evaluation reads image by image: leave this out here.")
        section = self.checker.section(DATASETS, arguments, path, beside=known)
        options = self.checker.arguments("A data set", {key: known[key] for key in own}, own, path)
        options["progressive"] = self.stages((*path, "progressive"), given.get("progressive") if training else None)
        return DatasetOptions.model_construct(**{"name": key, "section": freeze(section), **options})

    def stages(self, path: KeyPath, given: Any) -> tuple[Stage, ...]:
        if given is None:
            return ()
        if not isinstance(given, list):
            self.checker.report(path, "Expected a list of stages, like [{start: 1000, gt_size: 128, …}].")
            return ()
        stages = []
        for index, entry in enumerate(given):
            section = self.mapping((*path, index), entry)
            stages.append(self.checker.arguments("A stage", parameters_of(Stage), section, (*path, index)))
        starts = [stage["start"] for stage in stages if isinstance(stage.get("start"), int)]
        if starts != sorted(set(starts)):
            self.checker.report(path, f"Stages stand in the order of their beginnings, not {starts}.")
        return tuple(Stage.model_construct(**stage) for stage in stages)

    def train(self, model: dict[str, Parameter] | None) -> TrainOptions | None:
        path: KeyPath = ("train",)
        given = self.mapping(path, self.tree.get("train"))
        if not given:
            return None
        total = {"total_iter": parameters_of(TrainOptions)["total_iter"]}
        if model is None:  # without the class, only the trainer's own key can be checked
            self.checker.arguments("", total, {key: given[key] for key in total if key in given}, path)
            return None
        fixed_elsewhere = {key for key in model if key == "seed" or key.startswith("network_")}
        for key in given.keys() & fixed_elsewhere:
            home = "manual_seed" if key == "seed" else key
            self.checker.report((*path, key), f"This is '{home}' at the top of the options, not here.")
        takes = total | {key: parameter for key, parameter in model.items() if key not in fixed_elsewhere}
        own = {key: value for key, value in given.items() if key not in fixed_elsewhere}
        arguments = self.checker.arguments(str(self.tree["model_type"]), takes, own, path, registry=MODELS)
        if "optim_g" in takes and not own.get("optim_g") and "optim_g" not in meant_by(own, takes):
            self.checker.report(path, "Training needs 'optim_g', an optimizer, like {type: Adam, lr: 1e-4}.")
        total_iter = arguments.pop("total_iter", None)
        return TrainOptions.model_construct(total_iter=total_iter, model=freeze(arguments))

    def fixed(self, key: str, of: type[F]) -> F:
        given = self.mapping((key,), self.tree.get(key))
        if key == "val" and given.get("metrics", {}) is None:
            given = {**given, "metrics": {}}
        arguments = self.checker.arguments(f"'{key}'", parameters_of(of), given, (key,))
        return of.model_construct(**{name: freeze(value) for name, value in arguments.items()})
