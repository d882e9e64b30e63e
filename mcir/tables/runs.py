"""A training of a row of a table: its options, its progress, and what it needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcir.config import DatasetOptions, OptionError, Options, load
from mcir.config.files import shipped
from mcir.features.base import imagenet_source
from mcir.launch import TrainingJob
from mcir.registry import LOSSES
from mcir.report.records import Collapse
from mcir.tables.config_diff import have_equal_training, training_differences
from mcir.tables.datasets import missing_paths, sets_to_evaluate
from mcir.tables.formatting import counted
from mcir.tables.published import Row, Which


@dataclass(eq=False)
class TableRun:
    """A training of a row.

    Attributes:
        row: row of the table.
        file: option file.
        overrides: overrides of the option file.
        options: checked options; None if they are not valid.
        problem: error message if the options are not valid.
        published: options for the published weights of the network.
        which: checkpoint to evaluate.
        variant: name of the run, if the option file has a sweep.
        ignored: overrides of sections that this training does not have.
        untrained: in a proxy table, description of a row without a pre-training; only its data sets are used.
        labelled: whether the evaluation also reads the training images.
        images: folders of further images that the evaluation reads.
    """

    row: Row
    file: Path
    overrides: list[str]
    options: Options | None = None
    problem: str = ""
    published: Options | None = None
    which: Which = "last"
    variant: str | None = None
    ignored: Sequence[str] = ()
    untrained: str = ""
    labelled: bool = False
    images: Sequence[Path] = ()

    @classmethod
    def load(cls, row: Row, file: Path, overrides: Sequence[str], **others: Any) -> TableRun:
        """Return a training with its checked options or the problem with them."""
        run = cls(row, file, list(overrides), **others)
        try:
            run.options = load(file, run.overrides)
            if run.options.train is None:
                run.options, run.problem = None, f"{file} has no section 'train'."
        except OptionError as error:
            run.problem = str(error)
        return run

    @property
    def origin(self) -> str:
        """The option file and its run."""
        return f"{self.file}, sweep={self.variant}" if self.variant else str(self.file)

    @property
    def job(self) -> TrainingJob:
        """The training as a job for the launcher."""
        assert self.options is not None
        return TrainingJob(self.row.name, self.arguments(), self.options)

    def arguments(self) -> list[str]:
        """Return the arguments of ``mcir train`` that start or resume it.

        After a collapse, it starts from the beginning, because the last checkpoint may be close to the collapse.
        """
        assert self.options is not None
        has_collapsed = TrainingJob(self.row.name, [], self.options).collapse is not None
        resume = [] if has_collapsed else ["--auto_resume"]
        return ["-opt", str(self.file), *resume, "--set", *self.overrides]

    def checkpoint(self) -> Path | None:
        """Return the checkpoint of the training; None if the training is not complete."""
        if self.options is None or self.untrained or not (last := self.job.checkpoint).is_file():
            return None
        best = last.with_name("net_g_best.pth")
        return best if self.which == "best" and best.is_file() else last

    def collapse(self) -> Collapse | None:
        """Return the collapse of the training; None if it did not diverge, or has been trained with other options."""
        if self.options is None or self.untrained or self.checkpoint() is not None:
            return None
        found = self.job.collapse
        return found if found and have_equal_training(found.options, self.options) else None

    def differences(self) -> list[str] | None:
        """Return the options that differ between the training of the checkpoint and the row; None: unknown."""
        assert self.options is not None
        return training_differences(self.job.folder / "training_states" / f"{self.job.total}.state", self.options)

    def to_evaluate(self) -> tuple[Options, Path] | None:
        """Return options and weights to evaluate: of the training or, without a checkpoint, the published ones.

        After a collapse, there is nothing to evaluate.
        """
        if self.collapse() is not None:
            return None
        own = self.checkpoint()
        if own is not None:
            assert self.options is not None
            return self.options, own
        file = Path(self.published.path.pretrain_network_g or "") if self.published else None
        return (self.published, file) if self.published and file and file.is_file() else None

    def state(self) -> str:
        """Describe the progress of the training."""
        if self.options is None:
            return "its option file is not valid"
        if self.untrained:
            return self.untrained
        if collapse := self.collapse():
            return f"{collapse}; {self.job.next_start()}"
        found = self.to_evaluate()
        if found is None:
            return self.job.progress()
        if found[0] is not self.options:
            return f"published weights: {found[1]}"
        differences = self.differences()
        if differences is None:
            return f"trained: {found[1]}; options unknown, because the training state cannot be read"
        if not differences:
            return f"trained: {found[1]}"
        more = f" and {counted(len(differences) - 4, 'more option')}" if len(differences) > 4 else ""
        return f"trained with other options: {found[1]}; {', '.join(differences[:4])}{more}"

    def missing_for_evaluation(self) -> list[str]:
        """Return lines about what is missing for an evaluation and how to get it."""
        if self.options is None:
            return [self.problem]
        if self.untrained or self.collapse() or self.to_evaluate() is not None:
            return []
        command = shlex.join(["mcir", "train", *self.arguments()])
        lines = [f"no checkpoint {self.job.checkpoint}: train with --train or `{command}`"]
        if self.published is not None:
            file = self.published.path.pretrain_network_g
            lines.append(f"or save the published weights as {file}; {shipped()}/README.md lists their sources")
        lines += [f"the training needs {file}, which is missing" for file in self.missing_weights()]
        lines += [
            f"the training needs {file}, which it downloads from {url}; without a network, copy the file there yourself"
            for file, url in map(imagenet_source, self.feature_networks())
            if not file.is_file()
        ]
        return lines

    def missing_paths(self) -> list[str]:
        """Return the missing images and lists that the evaluation and, without a checkpoint, the training read."""
        if self.options is None:
            return []
        training = self.training_sets() if self.labelled or self.checkpoint() is None else []
        paths = missing_paths([*training, *sets_to_evaluate(self.options).values()])
        return [*paths, *(str(folder) for folder in self.images if not folder.exists())]

    def missing_weights(self) -> list[str]:
        """Return the missing weight files that the training reads."""
        if self.options is None or self.options.train is None or self.checkpoint() is not None:
            return []
        values = (value for value in _nested(self.options.train.model) if isinstance(value, str))
        files = [value for value in values if value.endswith((".pth", ".pt", ".safetensors"))]
        files = [self.options.path.pretrain_network_g or "", *files]
        return [file for file in dict.fromkeys(files) if file and not Path(file).is_file()]

    def feature_networks(self) -> list[str]:
        """Return the feature networks whose ImageNet weights the losses need."""
        if self.options is None or self.options.train is None:
            return []
        return list(dict.fromkeys(filter(None, map(_feature_network, _nested(self.options.train.model)))))

    def training_sets(self) -> list[DatasetOptions]:
        """Return the training set and the validation sets."""
        assert self.options is not None
        train = self.options.datasets.train
        return [*([train] if train else []), *self.options.datasets.val.values()]


def _nested(tree: Any) -> Iterator[Any]:
    """Yield a tree of options and all values in it."""
    yield tree
    for value in tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list | tuple) else ():
        yield from _nested(value)


def _feature_network(loss: Any) -> str | None:
    """Return the name of the feature network of a loss section if it has ImageNet weights."""
    kind = loss.get("type") if isinstance(loss, Mapping) else None
    if not isinstance(kind, str) or kind not in LOSSES or "weights" not in (parameters := LOSSES.parameters(kind)):
        return None
    values = {key: loss.get(key, parameter.default) for key, parameter in parameters.items()}
    return (values.get("network") or values["vgg_type"]) if values["weights"] == "imagenet" else None
