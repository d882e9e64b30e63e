"""The command ``mcir``. Each command is a dataclass: its fields are the arguments. Slow imports are local."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import mcir
from mcir import registry, test, train
from mcir.arguments import OptionFileArguments, add_arguments, from_namespace, option, positional
from mcir.tables.commands import Proxy, reproduce_commands

if TYPE_CHECKING:
    from mcir.data.prepare import Prepared

Kind = Literal[
    "archs",
    "losses",
    "distances",
    "datasets",
    "degradations",
    "models",
    "metrics",
    "negatives",
    "optimizers",
    "schedulers",
]
_MAX_PROBLEMS = 10


class Group(NamedTuple):
    """Commands of a command, like those of ``mcir prepare``."""

    help: str
    metavar: str
    commands: Mapping[str, type]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; a user's mistake is printed in one line."""
    parser = argparse.ArgumentParser(prog="mcir", description=(mcir.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"mcir {mcir.__version__}")
    _add_commands(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"), _commands())
    arguments = parser.parse_args(argv)
    try:
        return int(from_namespace(arguments.cls, arguments).run())
    except BrokenPipeError:  # the reader, for example `head`, has closed the pipe
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        print(f"mcir {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _add_commands(parsers: Any, commands: Mapping[str, type | Group]) -> None:
    for name, command in commands.items():
        if isinstance(command, Group):
            steps = parsers.add_parser(name, help=command.help)
            _add_commands(steps.add_subparsers(required=True, metavar=command.metavar), command.commands)
            continue
        text = (command.__doc__ or "").partition("\n")[0].replace("%", "%%")
        parser = parsers.add_parser(name, help=text[0].lower() + text[1:].rstrip("."), description=text)
        add_arguments(parser, command)
        parser.set_defaults(cls=command)


# -- training and option files ----------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Check(OptionFileArguments):
    """Check an option file; print its resolved form, and what a training step costs."""

    def run(self) -> int:
        """Print the options and the cost."""
        from mcir.config import load
        from mcir.engine.dry_run import estimate
        from mcir.engine.loggers import log_to_console

        log_to_console()
        options = load(self.opt, self.set, self.force_yml)
        print(options.dump())
        print("\n".join(f"# {line}" for line in estimate(options)))
        return 0


@dataclass(kw_only=True)
class List:
    """List the components that option files can use."""

    what: Kind = positional("kind of component")
    pattern: str = positional("glob pattern, like '*SR*'", default="*")

    def run(self) -> int:
        """Print the components."""
        from mcir.config.listing import list_components

        print(list_components(getattr(registry, self.what.upper()), self.pattern))
        return 0


@dataclass(kw_only=True)
class Schema:
    """Write a JSON schema of option files, for completion in editors."""

    file: Path | None = positional("file to write; without it the schema is printed", default=None)

    def run(self) -> int:
        """Write the schema."""
        import json

        from mcir.config import json_schema

        text = json.dumps(json_schema(), indent=2)
        if self.file is None:
            print(text)
        else:
            self.file.write_text(text + "\n", encoding="utf-8")
        return 0


# -- weight files and runs --------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Inspect:
    """Print the architecture of a weight file."""

    file: Path = positional("a .pth or .safetensors file, of mcir or of an official release")
    key: str | None = option("entry of the file with the weights, like params (default: the moving average)")

    def run(self) -> int:
        """Print the description."""
        from mcir.inference.inspection import inspect_weights

        lines, is_complete = inspect_weights(self.file, self.key)
        print("\n".join(lines))
        return 0 if is_complete else 1


@dataclass(kw_only=True)
class Report:
    """Write an HTML page about one or several trainings: curves, images, options."""

    runs: list[str] = positional("folder of a training, or its name in experiments/", metavar="RUN")
    output: Path | None = option("page to write (default: report.html in the folder of a single run)", "-o", "--output")
    open: bool = option("open the page in the browser")

    def run(self) -> int:
        """Write the page."""
        import webbrowser

        from mcir.engine.run_lock import is_locked
        from mcir.report.records import find_run
        from mcir.report.run import PAGE, write_report

        folders = [find_run(run) for run in self.runs]
        file = self.output or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE))
        write_report(folders, file, is_locked)
        print(file)
        if self.open:
            webbrowser.open(file.resolve().as_uri())
        return 0


def _tile(text: str) -> int | str | None:
    if text.isdecimal():
        return int(text)
    if text not in ("auto", "none"):
        raise argparse.ArgumentTypeError(f"expected a number of pixels, auto or none, got '{text}'")
    return None if text == "none" else text


_TILE = "side of the tiles in pixels, auto (as memory requires) or none"
_NETWORK_FILE = "option file whose network_g is built instead of the network of the checkpoint"
_DEVICE = "cpu, cuda, cuda:N or mps (default: a GPU if there is one)"


@dataclass(kw_only=True)
class Restore:
    """Restore images with a trained network."""

    inputs: list[str] = positional("files, folders (with subfolders) and patterns like 'a/**/*.jpg'", metavar="INPUT")
    weights: Path = option(".pth or .safetensors file", "-w", "--weights", required=True, metavar="CHECKPOINT")
    out: Path = option("folder, or a file for a single input file", "-o", "--out", default=Path("restored"))
    opt: Path | None = option(_NETWORK_FILE, "-opt", metavar="FILE")
    key: str | None = option("entry of the file with the weights, like params (default: the moving average)")
    tile: Any = option(_TILE, default="auto", parse=_tile)
    overlap: int | None = option("pixels that neighbouring tiles share, at most half a tile (default: 64)")
    ensemble: bool = option("average over the eight flipped and rotated images")
    half: bool = option("compute in fp16, which is faster on a GPU", group="precision")
    bf16: bool = option("compute in bf16, which is faster on a GPU", group="precision")
    device: str | None = option(_DEVICE)
    batch: int = option("images of one size that are restored together", default=1)
    format: str | None = option("format of the results: png, jpg, tif, webp … (default: that of the input)")
    bits: Literal[8, 16] | None = option("bit depth of the results (default: that of the input)")
    quality: int | None = option("quality of JPEG and WebP, 1 to 100 (default: 95)")
    suffix: str = option("text to append to each name", default="", metavar="TEXT")
    skip_existing: bool = option("keep results that exist already, for example to resume")
    compare: bool = option("also write side-by-side images to OUT/comparisons")
    gt: Path | None = option("ground truths: write PSNR and SSIM to OUT/metrics.json and .csv", metavar="DIR")
    crop_border: int | None = option("unmeasured pixels at each side (default: the scale, 0 for ×1)", metavar="N")

    def run(self) -> int:
        """Restore the images."""
        from mcir.engine.loggers import log_to_console
        from mcir.inference.batch import FolderSettings, restore_folder

        log_to_console()
        settings = {key: value for key, value in vars(self).items() if key not in ("half", "bf16")}
        precision: Literal["fp16", "bf16", "fp32"] = "fp16" if self.half else "bf16" if self.bf16 else "fp32"
        return restore_folder(FolderSettings(**settings, precision=precision))


@dataclass(kw_only=True)
class Export:
    """Write a checkpoint as ONNX, TorchScript, safetensors or an archive of torch.export."""

    checkpoint: Path = positional(".pth or .safetensors file, of mcir or of an official release")
    onnx: bool = option("write ONNX, for images of any size")
    safetensors: bool = option("write the weights with the name and arguments of the network")
    torchscript: bool = option("write TorchScript (.pt), for C++ and older programs")
    torch_export: bool = option("write an archive of torch.export (.pt2)")
    output: Path | None = option("file or folder (default: the folder of the checkpoint)", "-o", "--output")
    opt: Path | None = option(_NETWORK_FILE, "-opt", metavar="FILE")
    key: str | None = option("entry of the file with the weights, like params (default: the moving average)")
    opset: int | None = option("version of ONNX's operators (default: 18, which most runtimes support)")
    check: bool = option("do not compare the exported network with the original", "--no-check", default=True)
    overwrite: bool = option("replace existing files")

    def run(self) -> int:
        """Write the files."""
        from mcir.inference.export import export

        settings = dict(vars(self))
        formats = ("onnx", "safetensors", "torchscript", "torch_export")
        chosen = [name.replace("_", "-") for name in formats if settings.pop(name)]
        for written in export(**settings, formats=chosen):
            error = "" if written.difference is None else f", at most {written.difference:.1e} from the network"
            print(f"{written.file}: {written.file.stat().st_size / 2**20:.1f} MiB{error}")
        return 0


@dataclass(kw_only=True)
class Demo:
    """Start a web page that restores images with trained networks."""

    checkpoints: list[str] = positional(".pth or .safetensors file; NAME=FILE to set its name", metavar="CHECKPOINT")
    host: str | None = option("address to listen on, like 0.0.0.0 for all (default: this machine only)")
    port: int | None = option("port to listen on (default: 7860, or the next free port)")
    max_megapixels: float = option("size of the largest restored image, in megapixels", default=8.0)
    max_size: float = option("size of the largest uploaded file, in megabytes", default=20.0)
    queue: int = option("number of visitors that may wait", default=16)
    device: str | None = option(_DEVICE)
    tile: Any = option(_TILE, default="auto", parse=_tile)

    def run(self) -> int:
        """Serve the page until it is stopped."""
        from mcir.engine.loggers import log_to_console
        from mcir.inference.demo import DemoSettings, demo

        log_to_console()
        return demo(DemoSettings(**vars(self)))


# -- preparing data sets ----------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Prepare:
    """Write images or a database. The arguments of a subclass are those of a function of ``mcir.data.prepare``."""

    function: ClassVar[str]

    source: Path = positional("folder of images")
    target: Path = positional("folder or file to write; an interrupted one is completed")
    workers: int | None = option("number of threads (default: one per core)")

    def run(self) -> int:
        """Write, with a progress bar, and print how many images were written."""
        from mcir.data import prepare

        settings = dict(vars(self))
        source, target = settings.pop("source"), settings.pop("target")
        with _progress(f"{self.function} {source}") as progress:
            made = getattr(prepare, self.function)(source, target, progress=progress, **settings)
        return _print_prepared(target, made)


@dataclass(kw_only=True)
class Lmdb(Prepare):
    """Put the images of a folder into an LMDB database."""

    function = "create_lmdb"
    codec: Literal["encoded", "raw"] = option("raw: larger, but much faster to read", default="encoded")


@dataclass(kw_only=True)
class Subimages(Prepare):
    """Cut large images into overlapping squares."""

    function = "extract_subimages"
    size: int = option("side of a square", default=480)
    step: int = option("distance between neighbours", default=240)
    threshold: int = option("number of pixels that may be left over at a side", default=0)
    strip: str = option("ending to remove from the names, like x4", default="")


@dataclass(kw_only=True)
class Lr(Prepare):
    """Downscale images with MATLAB's bicubic interpolation."""

    function = "create_lr"
    scale: int = option("downscaling factor", required=True)


@dataclass(kw_only=True)
class Split:
    """Write disjoint lists of images for training, validation and testing, by their names alone."""

    source: Path = positional("folder of images, or database")
    target: Path = positional("folder to write; an interrupted one is completed")
    train: float | None = option("a number, or a fraction like 0.8 (default: all that remain)")
    val: float = option("a number, or a fraction", default=0)
    test: float = option("a number, or a fraction", default=0)
    seed: int = option("seed of the order", default=0)
    folders: bool = option("keep folders together; numbers then count folders")

    def run(self) -> int:
        """Write the lists and print how many."""
        from mcir.data.split import create_split

        made = create_split(self.source, self.target, self.train, self.val, self.test, self.seed, self.folders)
        return _print_prepared(self.target, made)


@dataclass(kw_only=True)
class Verify:
    """Decode every image of a folder or database, and check pairs; or check a data set against its manifest."""

    source: str = positional("folder of images or database; or, before ROOT, the name of a data set")
    root: str | None = positional("folder of that data set", default=None)
    against: Path | None = option("degraded images of the same pairs")
    filename_tmpl: str = option("name of a degraded image, like '{}x4' or '{}_*'", "--filename_tmpl", default="{}")
    workers: int | None = option("number of threads (default: one per core)")

    def run(self) -> int:
        """Check the images and print what is wrong."""
        from mcir.data.manifest import known_manifests
        from mcir.data.verify import verify

        if self.root is not None:
            return self._compare(self.root)
        if not Path(self.source).exists() and self.source.lower() in known_manifests():
            raise ValueError(f"{self.source} is a data set; add its folder: mcir prepare verify {self.source} ROOT")
        with _progress(f"verify {self.source}") as progress:
            found = verify(self.source, self.against, self.filename_tmpl, progress=progress, workers=self.workers)
        print(f"{found.images} images, {found.bytes / 2**20:.1f} MiB, {found.checksum}")
        _print_problems(found.problems)
        count = len(found.problems)
        print("no problems" if found.ok else f"{count} problem{'s' * (count > 1)}")
        return 0 if found.ok else 1

    def _compare(self, root: str) -> int:
        from mcir.data.compare import compare
        from mcir.data.manifest import read_manifest

        if self.against is not None or self.filename_tmpl != "{}":
            raise ValueError("--against and --filename_tmpl need a folder; a manifest describes the pairs itself.")
        manifest = read_manifest(self.source)
        with _progress(f"verify {manifest.title}") as progress:
            found = compare(manifest, root, progress=progress, workers=self.workers)
        for line in found.fits:
            print(f"  {line}")
        _print_problems(found.differences)
        count = len(found.differences)
        end = f"{count} difference{'s' * (count > 1)} from" if count else "matches"
        print(f"{root}: {end} {manifest.title}")
        return 1 if count else 0


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_prepared(target: Path, made: "Prepared") -> int:
    print(f"{target}: {made.written} written, {made.skipped} existed, from {made.images} images")
    return 0


def _print_problems(problems: Sequence[str]) -> None:
    for problem in problems[:_MAX_PROBLEMS]:
        print(f"  {problem}", file=sys.stderr)
    if len(problems) > _MAX_PROBLEMS:
        print(f"  and {len(problems) - _MAX_PROBLEMS} more", file=sys.stderr)


def _commands() -> dict[str, type | Group]:
    steps = {"lmdb": Lmdb, "subimages": Subimages, "lr": Lr, "split": Split, "verify": Verify}
    return {
        "train": train.Train,
        "test": test.Test,
        "restore": Restore,
        "export": Export,
        "check": Check,
        "list": List,
        "inspect": Inspect,
        "report": Report,
        "schema": Schema,
        "reproduce": Group("reproduce a table of the papers, or a small study", "TABLE", reproduce_commands()),
        "proxy": Proxy,
        "demo": Demo,
        "prepare": Group("prepare data sets", "STEP", steps),
    }


if __name__ == "__main__":
    sys.exit(main())
