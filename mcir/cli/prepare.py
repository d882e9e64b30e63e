"""The commands of ``mcir prepare``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mcir.arguments import option, positional
from mcir.paths import UserPath
from mcir.terminal import show, show_error

if TYPE_CHECKING:
    from mcir.data.prepare import Prepared

_MAX_PROBLEMS = 10


@dataclass(kw_only=True)
class Prepare:
    """Base class of the commands that call a function of ``mcir.data.prepare`` with their fields as arguments."""

    function: ClassVar[str]

    source: Path = positional("folder of images")
    target: Path = positional("output folder or database; an interrupted one is completed")
    workers: int | None = option("number of threads (default: one per core)")

    def run(self) -> int:
        """Call the function with a progress bar, and print the number of images."""
        from mcir.atomic import check_writable
        from mcir.data import prepare

        settings = dict(vars(self))
        source, target = settings.pop("source"), settings.pop("target")
        check_writable(target)
        with _progress(f"{self.function} {source}") as progress:
            prepared = getattr(prepare, self.function)(source, target, progress=progress, **settings)
        return _print_counts(target, prepared)


@dataclass(kw_only=True)
class Lmdb(Prepare):
    """Write the images of a folder to an LMDB database."""

    function = "create_lmdb"
    codec: Literal["encoded", "raw"] = option("raw: larger, but much faster to read", default="encoded")


@dataclass(kw_only=True)
class Subimages(Prepare):
    """Cut large images into overlapping squares."""

    function = "extract_subimages"
    size: int = option("side of a square", default=480)
    step: int = option("distance between neighbouring squares", default=240)
    threshold: int = option("number of pixels at the end of a side that may remain unused", default=0)
    strip: str = option("suffix to remove from the names, like x4", default="")


@dataclass(kw_only=True)
class Lr(Prepare):
    """Downscale images with MATLAB's bicubic interpolation."""

    function = "create_lr"
    scale: int = option("downscaling factor", required=True)


@dataclass(kw_only=True)
class Split:
    """Split images into disjoint lists for training, validation and testing."""

    source: Path = positional("folder of images, or database")
    target: Path = positional("output folder; an interrupted one is completed")
    train: float | None = option("number or fraction of training images, like 800 or 0.8 (default: all that remain)")
    val: float = option("number or fraction of validation images", default=0)
    test: float = option("number or fraction of test images", default=0)
    seed: int = option("seed for the order of the images", default=0)
    folders: bool = option("keep the images of a folder together; numbers then count folders", default=False)

    def run(self) -> int:
        """Write the lists, and print the number of images."""
        from mcir.data.split import create_split

        prepared = create_split(self.source, self.target, self.train, self.val, self.test, self.seed, self.folders)
        return _print_counts(self.target, prepared)


@dataclass(kw_only=True)
class Verify:
    """Check the images of a folder or database, pairs of images, or a data set against its manifest."""

    source: UserPath = positional("folder of images or database; with ROOT, name of a data set")
    root: UserPath | None = positional("folder of the data set", default=None)
    against: Path | None = option("folder or database of degraded images, to check pairs")
    filename_tmpl: str = option("name of a degraded image, like '{}x4' or '{}_*'", "--filename_tmpl", default="{}")
    workers: int | None = option("number of threads (default: one per core)")

    def run(self) -> int:
        """Check the images, and print the problems."""
        from mcir.data.manifest import known_manifests
        from mcir.data.verify import verify

        if self.root is not None:
            return self._compare(self.root)
        if not Path(self.source).exists() and self.source.lower() in known_manifests():
            raise ValueError(f"{self.source} is a data set. Add its folder: mcir prepare verify {self.source} ROOT")
        with _progress(f"verify {self.source}") as progress:
            found = verify(self.source, self.against, self.filename_tmpl, progress=progress, workers=self.workers)
        show(f"{found.images} images, {found.bytes / 2**20:.1f} MiB, {found.checksum}")
        _print_problems(found.problems)
        count = len(found.problems)
        show("no problems" if found.ok else f"{count} problem{'s' * (count > 1)}")
        return 0 if found.ok else 1

    def _compare(self, root: str) -> int:
        from mcir.data.compare import compare
        from mcir.data.manifest import read_manifest

        if self.against is not None or self.filename_tmpl != "{}":
            raise ValueError("--against and --filename_tmpl cannot be used with a manifest, which defines the pairs.")
        manifest = read_manifest(self.source)
        with _progress(f"verify {manifest.title}") as progress:
            found = compare(manifest, root, progress=progress, workers=self.workers)
        for line in found.matches:
            show(f"  {line}")
        _print_problems(found.differences)
        count = len(found.differences)
        end = f"{count} difference{'s' * (count > 1)} from" if count else "matches"
        show(f"{root}: {end} {manifest.title}")
        return 1 if count else 0


@dataclass(kw_only=True)
class Photographs:
    """Write the ten photographs of scikit-image as PNG files, to try the commands without own images."""

    folder: Path = positional("folder of the photographs")
    haze: Path | None = option("folder of versions with synthetic haze, to try dehazing", metavar="DIR")
    rain: Path | None = option("folder of versions with synthetic rain", metavar="DIR")
    noise: Path | None = option("folder of versions with noise", metavar="DIR")
    blur: Path | None = option("folder of versions with motion blur", metavar="DIR")
    jpeg: Path | None = option("folder of versions with JPEG artefacts", metavar="DIR")

    def run(self) -> int:
        """Write the files, and print their number."""
        from mcir.new.photographs import write_photographs
        from mcir.new.tasks import TaskName

        folders: dict[TaskName, Path | None] = {
            "dehaze": self.haze,
            "derain": self.rain,
            "denoise": self.noise,
            "deblur": self.blur,
            "jpeg": self.jpeg,
        }
        degraded = {task: folder for task, folder in folders.items() if folder is not None}
        return _print_counts(self.folder, write_photographs(self.folder, degraded))


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    from mcir.console import Console, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_counts(target: Path, prepared: "Prepared") -> int:
    show(f"{target}: {prepared.written} written, {prepared.skipped} existed, from {prepared.images} images")
    return 0


def _print_problems(problems: Sequence[str]) -> None:
    for problem in problems[:_MAX_PROBLEMS]:
        show_error(f"  {problem}")
    if len(problems) > _MAX_PROBLEMS:
        show_error(f"  and {len(problems) - _MAX_PROBLEMS} more")
