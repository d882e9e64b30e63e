"""What a table needs: its trainings, their checkpoints, the data they read; what is missing and where to get it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from mcir.config import DatasetOptions, OptionError, Options, load
from mcir.data.manifest import Manifest, known_manifests, read_manifest
from mcir.features.base import imagenet_source
from mcir.registry import LOSSES
from mcir.tables.formatting import counted
from mcir.tables.paper import Row, Run, Table
from mcir.tables.recipes import trained_otherwise

Which = Literal["last", "best"]
Launcher = Literal["torchrun", "slurm"]


@dataclass(frozen=True)
class Settings:
    """How a table is made.

    Attributes:
        options: the folder of the option files.
        results: where the results go.
        rows: globs of the rows to make.
        overrides: ``a.b=c``, laid over every option file.
        train: whether what has no checkpoint is trained.
        processes: of a training.
        launcher: what starts trainings: ``torchrun`` here, one after another, or ``slurm``, each as a job of a cluster.
        slurm: what is asked of Slurm; see ``mcir.tables.slurm.PARAMETERS``.
        wait: whether jobs of a cluster are waited for.
        checkpoint: which one is evaluated; None: as the table says.
        again: evaluate, too, what was evaluated already.
    """

    options: Path = Path("options")
    results: Path = Path("results")
    rows: Sequence[str] = ("*",)
    overrides: Sequence[str] = ()
    train: bool = False
    processes: int = 1
    launcher: Launcher = "torchrun"
    slurm: Mapping[str, int | str] = field(default_factory=dict)
    wait: bool = True
    checkpoint: Which | None = None
    again: bool = False

    def __post_init__(self) -> None:
        """Check what they say of each other.

        Raises:
            ValueError: they do not fit together.
        """
        if self.processes < 1:
            raise ValueError(f"--nproc is at least 1, not {self.processes}.")
        if self.launcher == "slurm" and not self.train:
            raise ValueError("--launcher slurm starts trainings: give --train, too.")
        if self.launcher != "slurm" and (self.slurm or not self.wait):
            raise ValueError("--slurm and --no-wait are about the jobs of a cluster: give --launcher slurm, too.")


@dataclass
class Job:
    """A training of a row, and how far it is.

    Attributes:
        row: the row that it belongs to.
        file: its option file.
        overrides: what is laid over it.
        options: checked; None when ``problem`` says why not.
        published: the options that name published weights of the network.
        which: the checkpoint that is wanted.
        problem: why the option file cannot be used.
        variant: the run of an option file with a sweep.
        left_out: overrides of the person that are about sections that this training does not have.
    """

    row: Row
    file: Path
    overrides: list[str]
    options: Options | None = None
    published: Options | None = None
    which: Which = "last"
    problem: str = ""
    variant: str | None = None
    left_out: Sequence[str] = ()

    @property
    def origin(self) -> str:
        """Its option file, and which of its runs."""
        return f"{self.file}, sweep={self.variant}" if self.variant else str(self.file)

    @property
    def folder(self) -> Path:
        """The folder of the training."""
        assert self.options is not None
        return Path(self.options.path.experiments_root) / self.options.name

    @property
    def total(self) -> int:
        """The iterations of the whole training."""
        assert self.options is not None and self.options.train is not None
        return self.options.train.total_iter

    @property
    def reached(self) -> int:
        """The iterations that are done, as far as checkpoints tell."""
        files = (self.folder / "models").glob("net_g_*.pth")
        return max((int(match[1]) for file in files if (match := re.fullmatch(r"net_g_(\d+)", file.stem))), default=0)

    def trained(self) -> Path | None:
        """Return the checkpoint of the whole training, or None while it is not at its end."""
        last = self.folder / "models" / f"net_g_{self.total}.pth"
        best = self.folder / "models" / "net_g_best.pth"
        if not last.is_file():
            return None
        return best if self.which == "best" and best.is_file() else last

    def otherwise(self) -> list[str] | None:
        """Return how the training of the checkpoint differs from what the row says; None where nobody knows."""
        assert self.options is not None
        return trained_otherwise(self.folder / "training_states" / f"{self.total}.state", self.options)

    def to_evaluate(self) -> tuple[Options, Path] | None:
        """Return the weights to evaluate, and the options to do it with: its own, or else the published ones."""
        if self.options is None:
            return None
        own = self.trained()
        if own is not None:
            return self.options, own
        if self.published is not None:
            file = Path(self.published.path.pretrain_network_g or "")
            if file.is_file():
                return self.published, file
        return None

    def state(self) -> str:
        """Return in a few words how far it is."""
        if self.options is None:
            return "its option file cannot be used"
        found = self.to_evaluate()
        if found is not None:
            return self._state_of(found[1]) if found[0] is self.options else f"published weights: {found[1]}"
        if self.reached:
            return f"trained to iteration {self.reached:,} of {self.total:,}"
        return "not trained"

    def _state_of(self, checkpoint: Path) -> str:
        otherwise = self.otherwise()
        if otherwise is None:
            return f"trained: {checkpoint}; by which options is not known, as its training state cannot be read"
        if not otherwise:
            return f"trained: {checkpoint}"
        more = f" and {counted(len(otherwise) - 4, 'more value')}" if len(otherwise) > 4 else ""
        return f"trained otherwise: {checkpoint}; {', '.join(otherwise[:4])}{more}"

    def to_go_on(self) -> str:
        """Return what the command does next time with a training that ended early."""
        if self.reached:
            return f"the same command goes on from its checkpoint of iteration {self.reached:,}"
        return "it has no checkpoint yet: the same command begins anew"

    def to_get(self) -> list[str]:
        """Return what is missing for an evaluation, each with what to do about it."""
        if self.options is None:
            return [self.problem]
        lines = []
        if self.to_evaluate() is None:
            command = shlex.join(["mcir", "train", *self.arguments()])
            lines.append(f"no checkpoint {self.folder}/models/net_g_{self.total}.pth: --train makes it, or `{command}`")
            if self.published is not None:
                file = self.published.path.pretrain_network_g
                lines.append(f"or put the published weights at {file}; where from: options/README.md")
            lines += [f"{file} is missing, which the training reads" for file in self.missing_weights()]
            lines += [
                f"{file} is not here, which the training reads: it fetches {url}; without a network, put it there"
                for file, url in map(imagenet_source, self.feature_networks())
                if not file.is_file()
            ]
        return lines

    def arguments(self) -> list[str]:
        """Return the arguments of ``mcir train`` that train it, or go on with it."""
        return ["-opt", str(self.file), "--auto_resume", "--set", *self.overrides]

    def missing_to_train(self) -> list[str]:
        """Return the files and folders that its training reads and that are not there."""
        return [*missing_paths(self.training_sections()), *self.missing_weights()]

    def missing_weights(self) -> list[str]:
        """Return the weight files that its training reads and that are not there."""
        if self.options is None or self.options.train is None or self.trained() is not None:
            return []
        features = [weights for _, weights in _features_in(self.options.train.model) if not _has_name(weights)]
        named = [self.options.path.pretrain_network_g, *_files_in(self.options.train.model), *features]
        return [file for file in dict.fromkeys(named) if file and not Path(file).is_file()]

    def feature_networks(self) -> list[str]:
        """Return the feature networks of its losses whose weights are ImageNet's, to be fetched where they are not."""
        if self.options is None or self.options.train is None:
            return []
        found = _features_in(self.options.train.model)
        return list(dict.fromkeys(network for network, weights in found if weights == "imagenet"))

    def evaluation_sections(self) -> list[DatasetOptions]:
        """Return the data sets that it is evaluated on."""
        assert self.options is not None
        return list(evaluation_parts(self.options).values())

    def training_sections(self) -> list[DatasetOptions]:
        """Return the data sets that its training reads."""
        assert self.options is not None
        train = self.options.datasets.train
        return [*([train] if train else []), *self.options.datasets.val.values()]


def plan(table: Table, settings: Settings) -> list[Job]:
    """Return the trainings of the chosen rows; the rows that they are compared with come along.

    Raises:
        ValueError: no row fits a pattern, or the folder of the option files is not there.
    """
    chosen = chosen_rows(table.name, table.rows, settings)
    for row in reversed(table.rows):
        if row.name in chosen and row.against:
            chosen.add(row.against)
    sections = _sections(table, settings)
    return [
        _job(row, run, settings.checkpoint or row.checkpoint or table.checkpoint, settings, sections)
        for row in table.rows
        if row.name in chosen
        for run in row.runs
    ]


def evaluation_parts(options: Options) -> dict[str, DatasetOptions]:
    """Return the data sets that options evaluate on, by their keys."""
    return options.datasets.test or options.datasets.val


def chosen_rows(table: str, rows: Sequence[Row], settings: Settings) -> set[str]:
    """Return the names of the rows that settings ask for.

    Raises:
        ValueError: no row fits a pattern, or the folder of the option files is not there.
    """
    if not settings.options.is_dir():
        raise ValueError(
            f"There is no folder {settings.options} with the option files: start in a clone of mcir, or give --options."
        )
    chosen = set()
    for pattern in settings.rows:
        fitting = {row.name for row in rows if fnmatchcase(row.name.lower(), pattern.lower())}
        if not fitting:
            names = ", ".join(f"'{row.name}'" for row in rows)
            raise ValueError(f"No row of {table} fits '{pattern}'. Its rows are {names}.")
        chosen |= fitting
    return chosen


_Sections = Mapping[tuple[str, str | None], set[str]]


def _sections(table: Table, settings: Settings) -> _Sections:
    """Return the sections of ``train`` that each run of a table has; nothing where no override is about one."""
    if not any(_section_of(text) for text in settings.overrides):
        return {}
    found: dict[tuple[str, str | None], set[str]] = {}
    for run in (run for row in table.rows for run in row.runs):
        try:
            options = load(settings.options / run.option, _chosen(run))
        except OptionError:  # told of where the run is planned
            continue
        model = options.train.model if options.train is not None else {}
        found[run.option, run.variant] = {key for key, value in model.items() if isinstance(value, Mapping)}
    return found


def _section_of(override: str) -> str | None:
    """Return the section of ``train`` that an override sets a value in: of ``train.negatives.weight=0``, negatives."""
    keys = override.partition("=")[0].strip().split(".")
    return keys[1] if keys[0] == "train" and len(keys) > 2 else None


def _chosen(run: Run) -> list[str]:
    return [f"sweep={run.variant}"] if run.variant else []


def _left_out(run: Run, overrides: Sequence[str], sections: _Sections) -> list[str]:
    """Return the overrides about sections that a run does not have and does not get, but other runs have."""
    anywhere = {name for names in sections.values() for name in names}
    own = sections.get((run.option, run.variant), anywhere)
    made = {text.partition("=")[0].strip().removesuffix(".type") for text in overrides}
    return [
        text
        for text in overrides
        if (name := _section_of(text)) in anywhere and name not in own and f"train.{name}" not in made
    ]


def _job(row: Row, run: Run, which: Which, settings: Settings, sections: _Sections) -> Job:
    left_out = _left_out(run, settings.overrides, sections)
    given = [text for text in settings.overrides if text not in left_out]
    overrides = [f"path.results_root={settings.results}", *given]
    file = settings.options / run.option
    job = Job(row, file, [*_chosen(run), *overrides], which=which, variant=run.variant, left_out=left_out)
    try:
        job.options = load(job.file, job.overrides)
        if job.options.train is None:
            job.options, job.problem = None, f"{job.file} has no section 'train'."
        if run.published:
            of_test = [text for text in overrides if not text.startswith(("train.", "datasets.train."))]
            job.published = load(settings.options / run.published, of_test)
    except OptionError as error:
        job.options, job.problem = None, str(error)
    return job


def _features_in(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield the feature network and its weights of every loss in a tree of options."""
    if isinstance(tree, Mapping):
        kind = tree.get("type")
        if isinstance(kind, str) and kind in LOSSES and "weights" in (parameters := LOSSES.parameters(kind)):
            given = {key: tree.get(key, parameter.default) for key, parameter in parameters.items()}
            yield given.get("network") or given["vgg_type"], given["weights"]
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for entry in tree:
            yield from _features_in(entry)


def _has_name(weights: str) -> bool:
    return weights in ("imagenet", "random") or weights.startswith("IMAGENET1K_")


def _files_in(tree: Any) -> Iterator[str]:
    """Yield every name of a weight file in a tree of options."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for entry in tree:
            yield from _files_in(entry)
    elif isinstance(tree, str) and tree.endswith((".pth", ".pt", ".safetensors")):
        yield tree


# -- data -------------------------------------------------------------------------------------------------------------


def missing_paths(sections: Iterable[DatasetOptions]) -> list[str]:
    """Return the folders, data bases and lists that the data sets read and that are not there, each once."""
    wanted = [path for section in sections for path in _roots(section.section)]
    return [path for path in dict.fromkeys(wanted) if not Path(path).exists()]


def _roots(section: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for key, value in section.items():
        if key.startswith("dataroot") or key == "meta_info_file":
            found += [value] if isinstance(value, str) else list(value or ())
    return found


def how_to_get(paths: Iterable[str], rows: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Return lines that say what the missing folders are, where to get them and where to put them.

    Args:
        paths: the folders, data bases and lists.
        rows: by path, who needs them.
    """
    rows = rows or {}
    manifests = [read_manifest(name) for name in known_manifests()]
    missing: dict[str, list[str]] = {}
    lines = []
    for path in paths:
        manifest = _manifest_of(path, manifests)
        if manifest is None:
            of_row = f" For: {', '.join(rows[path])}." if path in rows else ""
            lines.append(f"{path} is missing; no manifest tells of it.{of_row}")
        else:
            missing.setdefault(manifest.name, []).append(path)
    for name, of_it in missing.items():
        manifest = read_manifest(name)
        home = f"datasets/{manifest.root}"
        lines.append(f"{manifest.title} belongs in {home}. Missing there:")
        if needing := dict.fromkeys(row for path in of_it for row in rows.get(path, ())):
            lines.append(f"    for: {', '.join(needing)}")
        for path in of_it:
            rule = next((rule for rule in manifest.folders if f"{home}/{rule.path}" == path), None)
            if rule is None:
                lines.append(f"    {path}: not part of the set as it is given out; the option file says what it is")
            else:
                lines.append(f"    {path}: {rule.holds}" + (f", {rule.images:,} images" if rule.images else ""))
        lines.append(f"    from: {manifest.source.strip()} (Terms: {manifest.terms.strip()})")
        if manifest.prepare:
            lines.append("    then, in the folder datasets:")
            lines += [f"        {line}" for line in manifest.prepare.strip().splitlines()]
        lines.append(f"    check: mcir prepare verify {manifest.name} {home}")
    return lines


def _manifest_of(path: str, manifests: Sequence[Manifest]) -> Manifest | None:
    exact = (m for m in manifests for rule in m.folders if f"datasets/{m.root}/{rule.path}" == path)
    below = (m for m in manifests if path.startswith(f"datasets/{m.root}/"))
    return next(exact, None) or next(below, None)
