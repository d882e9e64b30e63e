"""The command ``mcir``: parse, then call one function. What takes seconds to import is imported where it is used."""

import argparse
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mcir
from mcir import registry, test, train
from mcir.config.arguments import add_option_arguments

if TYPE_CHECKING:
    from mcir.tables.plan import Settings

REGISTRIES = {
    "archs": registry.ARCHS,
    "losses": registry.LOSSES,
    "distances": registry.DISTANCES,
    "datasets": registry.DATASETS,
    "degradations": registry.DEGRADATIONS,
    "models": registry.MODELS,
    "metrics": registry.METRICS,
    "negatives": registry.NEGATIVES,
    "optimizers": registry.OPTIMIZERS,
    "schedulers": registry.SCHEDULERS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; a mistake of the person is told in plain words."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.call(arguments)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        print(f"mcir {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mcir", description=mcir.__doc__.partition("\n")[0] if mcir.__doc__ else None)
    parser.add_argument("--version", action="version", version=f"mcir {mcir.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train as an option file says")
    train.add_arguments(command)
    command.set_defaults(call=train.run)

    command = commands.add_parser("test", help="test trained networks on several sets")
    test.add_arguments(command)
    command.set_defaults(call=test.run)

    command = commands.add_parser("restore", help="restore pictures with a trained network")
    _add_restore(command)
    command.set_defaults(call=_restore)

    command = commands.add_parser("export", help="write a checkpoint as ONNX, TorchScript, a torch.export archive …")
    _add_export(command)
    command.set_defaults(call=_export)

    command = commands.add_parser("check", help="check an option file: its resolved form, and what a step will cost")
    add_option_arguments(command)
    command.set_defaults(call=_check)

    command = commands.add_parser("list", help="list what can be named in option files")
    command.add_argument("what", choices=REGISTRIES)
    command.add_argument("pattern", nargs="?", default="*", help="a glob, like '*SR*'")
    command.set_defaults(call=_list)

    command = commands.add_parser("inspect", help="say what network a weight file holds")
    command.add_argument("file", type=Path, help="a .pth or .safetensors file, of mcir or of an official release")
    command.add_argument("--key", help="which of the file's weights, like params (default: the moving average)")
    command.set_defaults(call=_inspect)

    command = commands.add_parser("report", help="make a page of a training, or of several: curves, pictures, options")
    command.add_argument("runs", nargs="+", metavar="RUN", help="folder of a training, or its name in experiments/")
    command.add_argument(
        "-o", "--output", type=Path, help="the page (default: report.html in the folder of the one run)"
    )
    command.add_argument("--open", action="store_true", help="show it in the browser")
    command.set_defaults(call=_report)

    command = commands.add_parser("schema", help="write a JSON schema of option files, for completion in editors")
    command.add_argument("file", nargs="?", type=Path, help="where to write it; without: to the terminal")
    command.set_defaults(call=_schema)

    command = commands.add_parser("reproduce", help="make a table of the paper again, or the small reproduction")
    _add_tables(command.add_subparsers(dest="table", required=True, metavar="TABLE"))

    command = commands.add_parser("proxy", help="evaluate pre-trained weights: train a new last layer on few labels")
    _add_proxy(command)
    command.set_defaults(call=_proxy)

    command = commands.add_parser("demo", help="a page to drop pictures on and see what networks make of them")
    _add_demo(command)
    command.set_defaults(call=_demo)

    command = commands.add_parser("prepare", help="prepare data sets")
    _add_steps(command.add_subparsers(dest="step", required=True, metavar="STEP"))
    return parser


# -- check, list, report, schema --------------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> int:
    import torch

    from mcir.config import load
    from mcir.data import sample_spec
    from mcir.engine.dry_run import check_consistency, step_cost
    from mcir.engine.loggers import log_to_console

    log_to_console()
    options = load(arguments.opt, arguments.set, arguments.force_yml)
    print(options.dump())
    training = options.datasets.train
    if options.train is None or training is None:
        print("# no training section: nothing to estimate")
        return 0
    sizes = [training.section, *({**training.section, "gt_size": stage.gt_size} for stage in training.progressive)]
    specs = [spec for spec in map(sample_spec, sizes) if spec is not None]
    if len(specs) < len(sizes):
        print(f"# {training.section['type']}: the sizes of samples are unknown, so the cost of a step is not estimated")
        return 0
    with torch.device("meta"):
        check_consistency(options, registry.MODELS.build(options.model_section(), where=options.where_in_model))
    stages = [(0, training.batch_size_per_gpu)]
    stages += [(stage.start, stage.batch_size_per_gpu) for stage in training.progressive]
    for spec, (start, batch_size) in zip(specs, stages, strict=True):
        cost = step_cost(options.model_section(), batch_size, spec.lq_size, spec.crop_size, spec.negatives)
        memory = (cost.state_bytes + cost.activation_bytes) / 2**20
        if start == 0:
            print(f"# parameters              {cost.parameters:,}")
        else:
            print(f"# from iteration {start + 1:,} on, crops of {spec.crop_size[0]}:")
        print(f"# FLOPs of a step         {cost.flops / 1e9:,.1f} G (batch of {batch_size}, one process)")
        print(f"# memory of a step, about {memory:,.0f} MiB: {cost.state_bytes / 2**20:,.0f} of weights, averages,")
        print(f"#                         gradients and moments, {cost.activation_bytes / 2**20:,.0f} of activations")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from mcir.config.annotations import describe

    chosen = REGISTRIES[arguments.what]
    names = chosen.names(arguments.pattern)
    if not names:
        near = registry.suggestion(arguments.pattern, chosen.names())
        print(f"mcir list: no {chosen.kind} matches '{arguments.pattern}'.{near}", file=sys.stderr)
        return 1
    for name in names:
        cls = chosen.get(name)
        others = f" (also {', '.join(chosen.aliases(name))})" if chosen.aliases(name) else ""
        print(f"{name}{others}  {cls.__module__}")
        for key, parameter in chosen.parameters(name).items():
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            print(f"    {key}: {describe(parameter.annotation)}{default}")
        summary = (inspect.getdoc(cls) or "").partition("\n")[0]
        print(f"    — {summary}\n" if summary else "")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from mcir.weights import detect_network, read_weights

    weights = read_weights(arguments.file, arguments.key)
    total = sum(value.numel() for value in weights.tensors.values())
    print(f"file          {arguments.file}{f', its {weights.found_under!r}' if weights.found_under else ''}")
    print(f"entries       {len(weights.tensors)}, {total:,} numbers")
    found = detect_network(weights)
    if found is None:
        print(f"architecture  none of {', '.join(registry.ARCHS.names())}; the first keys are:")
        for key, shape in list(weights.shapes.items())[:10]:
            print(f"              {key} {shape}")
        return 1
    known = registry.ARCHS.parameters(found.architecture)
    assumed = {key: found.arguments[key] for key in found.guessed}
    assumed |= {key: parameter.default for key, parameter in known.items() if key not in found.arguments}
    source = "from the keys" if weights.architecture is None else "the file says"
    print(f"architecture  {found.architecture}, ×{found.scale}")
    print(f"parameters    {found.parameters:,}")
    print(f"{source} {_in_line(found.arguments, found.guessed)}")
    print(f"assumed       {_in_line(assumed) or 'nothing'}")
    for line in found.mismatches[:10]:
        print(f"differs       {line}")
    if len(found.mismatches) > 10:
        print(f"              and {len(found.mismatches) - 10} more")
    print(f"option        network_g: {{type: {found.architecture}, {_in_line(found.arguments)}}}")
    return 1 if found.mismatches else 0


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was said to a command, for settings that are called as its options."""
    return {key: value for key, value in vars(arguments).items() if key not in ("command", "call")}


def _in_line(arguments: Mapping[str, object], without: Sequence[str] = ()) -> str:
    """Write arguments as an option file would, in one line."""
    import json

    shown = {key: value for key, value in arguments.items() if key not in without}
    return ", ".join(f"{key}: {json.dumps(value, default=str)}" for key, value in shown.items())


def _report(arguments: argparse.Namespace) -> int:
    import webbrowser

    from mcir.engine.run_lock import is_locked
    from mcir.report.records import find_run
    from mcir.report.run import PAGE, write_report

    folders = [find_run(run) for run in arguments.runs]
    file = arguments.output or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE))
    write_report(folders, file, is_locked)
    print(file)
    if arguments.open:
        webbrowser.open(file.resolve().as_uri())
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    import json

    from mcir.config import json_schema

    text = json.dumps(json_schema(), indent=2)
    if arguments.file is None:
        print(text)
    else:
        arguments.file.write_text(text + "\n", encoding="utf-8")
    return 0


# -- restore ----------------------------------------------------------------------------------------------------------


def _add_restore(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="files, folders (at any depth) and patterns like 'photos/**/*.jpg'")
    add("-w", "--weights", type=Path, required=True, metavar="CHECKPOINT", help="a .pth or .safetensors file")
    add("-o", "--out", type=Path, default=Path("restored"), help="folder, or a file for a file (default: restored)")
    add("-opt", type=Path, metavar="FILE", help="option file whose network_g is built, not the checkpoint's own")
    add("--key", help="which of the file's weights, like params (default: the moving average)")
    add("--tile", type=_tile, default="auto", help="side of the tiles, auto (as memory asks) or none (default: auto)")
    add("--overlap", type=int, help="pixels that neighbouring tiles share, at most half a tile (default: 64)")
    add("--ensemble", action="store_true", help="mean over eight turned and mirrored pictures")
    precision = command.add_mutually_exclusive_group()
    for name, kind in (("--half", "fp16"), ("--bf16", "bf16")):
        told = f"compute in {kind}, faster on a GPU"
        precision.add_argument(name, dest="precision", action="store_const", const=kind, default="fp32", help=told)
    add("--device", help="like cpu or cuda:1 (default: a GPU if there is one)")
    add("--batch", type=int, default=1, help="pictures of one size that are restored together (default: 1)")
    add("--format", help="of the results: png, jpg, tif, webp … (default: as the picture)")
    add("--bits", type=int, choices=[8, 16], help="of a sample of the results (default: as the picture)")
    add("--quality", type=int, help="of JPEG and WebP, 1 to 100 (default: 95)")
    add("--suffix", default="", metavar="TEXT", help="put at the end of each name")
    add("--skip-existing", action="store_true", help="go on where a run stopped: leave whole results as they are")
    add("--compare", action="store_true", help="also write pictures of before and after, to OUT/comparisons")
    add("--gt", type=Path, metavar="DIR", help="ground truths: PSNR and SSIM, to OUT/metrics.json and metrics.csv")
    add("--crop-border", type=int, metavar="N", help="pixels not measured at each side (default: the scale, 0 for ×1)")


def _tile(text: str) -> int | str | None:
    if text.isdecimal():
        return int(text)
    if text not in ("auto", "none"):
        raise argparse.ArgumentTypeError(f"it is a number of pixels, auto or none, not '{text}'")
    return None if text == "none" else text


def _restore(arguments: argparse.Namespace) -> int:
    from mcir.engine.loggers import log_to_console
    from mcir.inference.batch.run import FolderSettings, restore_folder

    log_to_console()
    return restore_folder(FolderSettings(**_given(arguments)))


# -- export -----------------------------------------------------------------------------------------------------------


def _add_export(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("checkpoint", type=Path, help="a .pth or .safetensors file, of mcir or of an official release")
    for name, told in {
        "onnx": "ONNX, for images of any size",
        "safetensors": "the weights alone, with the network's name and arguments",
        "torchscript": "TorchScript (.pt), for C++ and older programs",
        "torch-export": "an archive of torch.export (.pt2)",
    }.items():
        add(f"--{name}", dest="formats", action="append_const", const=name, default=[], help=f"write {told}")
    add("-o", "--output", type=Path, help="file, or folder of the files (default: the checkpoint's folder)")
    add("-opt", type=Path, metavar="FILE", help="option file whose network_g is built, not the checkpoint's own")
    add("--key", help="which of the file's weights, like params (default: the moving average)")
    add("--opset", type=int, help="version of ONNX's operators (default: 18, which most runtimes read)")
    add("--no-check", dest="check", action="store_false", help="do not run the files to compare them with the network")
    add("--overwrite", action="store_true", help="replace files that are there")


def _export(arguments: argparse.Namespace) -> int:
    from mcir.inference.export import ExportSettings, export

    for written in export(ExportSettings(**_given(arguments))):
        told = "" if written.difference is None else f", at most {written.difference:.1e} from the network"
        print(f"{written.file}: {written.file.stat().st_size / 2**20:.1f} MiB{told}")
    return 0


# -- reproduce --------------------------------------------------------------------------------------------------------


def _add_tables(tables: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    many: dict[str, object] = {"nargs": "+", "action": "extend", "default": []}
    launchers = "how trainings are started: here, one after another (torchrun), or each as a job of a cluster (slurm)"
    for path in sorted((Path(__file__).parent / "tables").glob("*table*.yml")):
        rcl = path.stem.startswith("rcl-")
        paper = "residual contrastive learning" if rcl else "the paper"
        title = re.findall('^title: "(.*)"$', path.read_text(encoding="utf-8"), re.MULTILINE)[0]
        told = f"Table {path.stem.partition('table')[2]} of {paper}: {title}".replace("%", "%%")
        table = tables.add_parser(path.stem, help=told, description=told)
        table.add_argument("--row", action="append", help="only the rows that fit, a glob like '*SPN'; may be repeated")
        table.add_argument("--train", action="store_true", help="train what has no checkpoint, or go on with it")
        table.add_argument("--launcher", choices=["torchrun", "slurm"], default="torchrun", help=launchers)
        table.add_argument("--nproc", type=int, default=1, help="processes of a training (default: 1)")
        table.add_argument("--slurm", metavar="KEY=VALUE", help="what to ask Slurm for, like partition=gpu", **many)  # type: ignore[arg-type]
        table.add_argument("--no-wait", action="store_true", help="submit the jobs, list them, and leave it at that")
        table.add_argument("--options", type=Path, default=Path("options"), help="folder of the option files")
        table.add_argument("--results", type=Path, default=Path("results"), help="where the results go")
        table.add_argument("--set", metavar="A.B=C", help="laid over every option file", **many)  # type: ignore[arg-type]
        if rcl:
            table.add_argument("--labels", type=int, nargs="+", default=[], help="labelled images, instead of its own")
            table.add_argument("--trials", type=int, default=5, help="trainings on them of each row (default: 5)")
            table.add_argument("--steps", type=int, help="of each of them (default: as the table says)")
            table.add_argument("--jobs", type=int, help="of them at a time (default: as many as cores; one on a GPU)")
            table.add_argument("--resnet", default="imagenet", help="of the consistency loss: imagenet, random, a file")
            table.add_argument("--proxy-set", metavar="A.B=C", help="laid over trainings on labelled images", **many)  # type: ignore[arg-type]
        else:
            table.add_argument("--checkpoint", choices=["last", "best"], help="to evaluate; else as the table says")
            table.add_argument("--again", action="store_true", help="evaluate, too, what was evaluated already")
        table.set_defaults(call=_reproduce_rcl if rcl else _reproduce)
    figure = tables.add_parser("rcl-fig2", help="Figure 2 of residual contrastive learning, of trained weights")
    figure.add_argument("--weights", type=Path, required=True, help="a checkpoint of a network that does not enlarge")
    figure.add_argument("--data", type=Path, help="folder of clean images, instead of the bundled photographs")
    figure.add_argument("--patch", type=int, default=128, help="side of a patch (default: 128)")
    figure.add_argument("--batch", type=int, default=64, help="images that are compared at once (default: 64)")
    figure.add_argument("--batches", type=int, default=4, help="how many times (default: 4)")
    figure.add_argument("--seed", type=int, default=0, help="of images, patches, noise and the untrained network")
    figure.add_argument("--results", type=Path, default=Path("results"), help="where the page goes")
    figure.set_defaults(call=_reproduce_fig2)
    mini = tables.add_parser("mini", help="small networks and many seeds: half an hour on two cores")
    mini.add_argument("--task", choices=["sr", "denoise", "dehaze"], action="append", help="only this; may be repeated")
    mini.add_argument("--method", action="append", help="only this and plain; may be repeated")
    mini.add_argument("--seeds", type=int, default=5, help="trainings of each method (default: 5)")
    mini.add_argument("--data", type=Path, help="folder of clean images, instead of the bundled photographs")
    mini.add_argument("--vgg", default="random", help="weights of the features: random, imagenet or a file")
    mini.add_argument("--jobs", type=int, help="trainings at a time (default: as many as cores; one on a GPU)")
    mini.add_argument("--quick", action="store_true", help="see that it works: two seeds, a few iterations")
    mini.add_argument("--results", type=Path, default=Path("results/mini"), help="where the results go")
    mini.add_argument("--set", metavar="A.B=C", help="laid over every training", **many)  # type: ignore[arg-type]
    mini.set_defaults(call=_reproduce_mini)
    small = tables.add_parser("rcl-mini", help="residual contrastive learning, small: half an hour on two cores")
    small.add_argument("--task", choices=["denoise", "sr"], action="append", help="only this; may be repeated")
    small.add_argument("--method", action="append", help="only this and RCL-EMD; may be repeated")
    small.add_argument("--seeds", type=int, default=3, help="trainings of each method (default: 3)")
    small.add_argument("--data", type=Path, help="folder of clean images, instead of the bundled photographs")
    small.add_argument("--resnet", default="random", help="weights of the consistency: random, imagenet or a file")
    small.add_argument("--jobs", type=int, help="trainings at a time (default: as many as cores; one on a GPU)")
    small.add_argument("--quick", action="store_true", help="see that it works: two seeds, a few steps")
    small.add_argument("--results", type=Path, default=Path("results/rcl-mini"), help="where the results go")
    small.add_argument("--set", metavar="A.B=C", help="laid over every pre-training", **many)  # type: ignore[arg-type]
    small.set_defaults(call=_reproduce_rcl_mini)


def _reproduce(arguments: argparse.Namespace) -> int:
    from mcir.engine.loggers import log_to_console
    from mcir.tables.reproduce import reproduce

    log_to_console()
    return reproduce(
        arguments.table, _table_settings(arguments, checkpoint=arguments.checkpoint, again=arguments.again)
    )


def _table_settings(arguments: argparse.Namespace, **others: Any) -> "Settings":
    from mcir.tables.plan import Settings
    from mcir.tables.slurm import read_parameters

    return Settings(
        options=arguments.options,
        results=arguments.results,
        rows=arguments.row or ("*",),
        overrides=arguments.set,
        train=arguments.train,
        processes=arguments.nproc,
        launcher=arguments.launcher,
        slurm=read_parameters(arguments.slurm),
        wait=not arguments.no_wait,
        **others,
    )


def _reproduce_rcl(arguments: argparse.Namespace) -> int:
    from mcir.tables.rcl import RclSettings, reproduce_rcl

    settings = RclSettings(
        tables=_table_settings(arguments),
        labels=arguments.labels,
        trials=arguments.trials,
        steps=arguments.steps,
        jobs=arguments.jobs,
        classifier=arguments.resnet,
        overrides=arguments.proxy_set,
    )
    return reproduce_rcl(arguments.table, settings)


def _reproduce_fig2(arguments: argparse.Namespace) -> int:
    from mcir.tables.rcl_fig2 import Fig2Settings, reproduce_fig2

    given = {key: value for key, value in vars(arguments).items() if key not in ("command", "call", "table")}
    return reproduce_fig2(Fig2Settings(**given))


def _reproduce_mini(arguments: argparse.Namespace) -> int:
    from mcir.tables.mini import MiniSettings, reproduce_mini
    from mcir.tables.mini_report import METHODS, TASKS

    settings = MiniSettings(
        results=arguments.results,
        seeds=arguments.seeds,
        tasks=arguments.task or tuple(TASKS),
        methods=arguments.method or tuple(METHODS),
        data=arguments.data,
        vgg=arguments.vgg,
        jobs=arguments.jobs,
        quick=arguments.quick,
        overrides=arguments.set,
    )
    return reproduce_mini(settings)


def _reproduce_rcl_mini(arguments: argparse.Namespace) -> int:
    from mcir.tables.rcl_mini import RclMiniSettings, reproduce_rcl_mini
    from mcir.tables.rcl_mini_report import METHODS, TASKS

    settings = RclMiniSettings(
        results=arguments.results,
        seeds=arguments.seeds,
        tasks=arguments.task or tuple(TASKS),
        methods=arguments.method or METHODS,
        data=arguments.data,
        resnet=arguments.resnet,
        jobs=arguments.jobs,
        quick=arguments.quick,
        overrides=arguments.set,
    )
    return reproduce_rcl_mini(settings)


# -- proxy ------------------------------------------------------------------------------------------------------------


def _add_proxy(command: argparse.ArgumentParser) -> None:
    rows = "weight files (NAME=FILE to name one), random, oracle (supervised for the task), sl-den (for denoising)"
    command.add_argument("weights", nargs="+", metavar="CHECKPOINT", help=rows)
    command.add_argument("--task", default="denoise", help="denoise, sr, jdensr or demosaic (default: denoise)")
    command.add_argument("--labels", type=int, nargs="+", default=[], help="labelled images, nested (default: all)")
    command.add_argument("--trials", type=int, default=5, help="trainings of each row (default: 5)")
    command.add_argument("--steps", type=int, default=2000, help="of each training (default: 2000)")
    command.add_argument("--patch", type=int, default=128, help="side of a crop of the degraded image (default: 128)")
    command.add_argument("--batch", type=int, default=64, help="images of a step (default: 64)")
    command.add_argument("--finetune", action="store_true", help="train all weights; 0 labels: take them as they are")
    command.add_argument("--pretrain-steps", type=int, default=10_000, help="of oracle and sl-den (default: 10000)")
    command.add_argument("--data", type=Path, help="clean images to train on, instead of the bundled photographs")
    command.add_argument("--test", type=Path, help="clean images to test on")
    command.add_argument("--jobs", type=int, help="trainings at a time (default: as many as cores; one on a GPU)")
    command.add_argument("--results", type=Path, default=Path("results/proxy"), help="where the results go")
    command.add_argument(
        "--set", metavar="A.B=C", nargs="+", action="extend", default=[], help="laid over every training"
    )


def _proxy(arguments: argparse.Namespace) -> int:
    from mcir.tables.proxy import proxy
    from mcir.tables.proxy_plan import ProxySettings

    given = {key: value for key, value in vars(arguments).items() if key not in ("command", "call", "set")}
    return proxy(ProxySettings(**given, overrides=arguments.set))


# -- demo -------------------------------------------------------------------------------------------------------------


def _add_demo(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("checkpoints", nargs="+", metavar="CHECKPOINT", help=".pth or .safetensors; NAME=FILE to call it NAME")
    add("--host", help="address to listen on, like 0.0.0.0 for everybody (default: this machine alone)")
    add("--port", type=int, help="where to listen (default: 7860, or the next that is free)")
    add("--max-megapixels", type=float, default=8.0, help="of the largest restored picture (default: 8)")
    add("--max-size", type=float, default=20.0, help="megabytes of a picture's file (default: 20)")
    add("--queue", type=int, default=16, help="visitors that may wait (default: 16)")
    add("--device", help="like cuda:1 (default: a GPU if there is one)")
    add("--tile", type=_tile, default="auto", help="side of the tiles, auto (as memory asks) or none (default: auto)")


def _demo(arguments: argparse.Namespace) -> int:
    from mcir.engine.loggers import log_to_console
    from mcir.inference.demo import DemoSettings, demo

    log_to_console()
    return demo(DemoSettings(**_given(arguments)))


# -- prepare ----------------------------------------------------------------------------------------------------------


def _add_steps(steps: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, text in {
        "lmdb": "put the images of a folder into an LMDB data base",
        "subimages": "cut large images into overlapping squares",
        "lr": "shrink images by MATLAB's bicubic",
        "split": "write disjoint lists of images for training, validation and testing, by their names alone",
        "verify": "decode every image of a folder or data base, and check pairs; or check a data set by its manifest",
    }.items():
        step = steps.add_parser(name, help=text)
        if name == "verify":
            step.add_argument("source", help="folder of images or data base; or, before ROOT, the name of a data set")
            step.add_argument("root", nargs="?", help="folder of that data set: is it as its manifest says?")
        else:
            step.add_argument("source", type=Path, help=f"folder of images{', or data base' * (name == 'split')}")
            step.add_argument("target", type=Path, help="where the result goes; an interrupted one is completed")
        if name == "lmdb":
            step.add_argument("--codec", choices=["encoded", "raw"], default="encoded", help="raw: larger, much faster")
        elif name == "subimages":
            step.add_argument("--size", type=int, default=480, help="side of a square (default: 480)")
            step.add_argument("--step", dest="stride", type=int, default=240, help="between neighbours (default: 240)")
            step.add_argument("--threshold", type=int, default=0, help="pixels that may be left over at a side")
            step.add_argument("--strip", default="", help="an ending to take off the names, like x4")
        elif name == "lr":
            step.add_argument("--scale", type=int, required=True, help="how many times smaller")
        elif name == "split":
            step.add_argument("--train", type=float, help="a number, or a share like 0.8 (default: all that are left)")
            step.add_argument("--val", type=float, default=0, help="a number, or a share (default: none)")
            step.add_argument("--test", type=float, default=0, help="a number, or a share (default: none)")
            step.add_argument("--seed", type=int, default=0, help="of the order (default: 0)")
            step.add_argument("--folders", action="store_true", help="keep folders whole; numbers are of folders then")
            step.set_defaults(call=_split)
            continue
        else:
            step.add_argument("--against", type=Path, help="the degraded images of the same pairs")
            step.add_argument("--filename_tmpl", default="{}", help="name of a degraded image, like '{}x4' or '{}_*'")
        step.add_argument("--workers", type=int, help="threads (default: as many as processors)")
        step.set_defaults(call=_prepare)


def _prepare(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from mcir.data import prepare
    from mcir.data.verify import verify

    if arguments.step == "verify" and arguments.root is not None:
        return _compare(arguments)
    if arguments.step == "verify":
        _require_path(arguments.source)
    with Progress(transient=True) as bar:
        task = bar.add_task(f"{arguments.step} {arguments.source}", total=None)
        common = {
            "progress": lambda done, total: bar.update(task, completed=done, total=total),
            "workers": arguments.workers,
        }
        if arguments.step == "verify":
            found = verify(arguments.source, arguments.against, arguments.filename_tmpl, **common)
        elif arguments.step == "lmdb":
            made = prepare.create_lmdb(arguments.source, arguments.target, arguments.codec, **common)
        elif arguments.step == "lr":
            made = prepare.create_lr(arguments.source, arguments.target, arguments.scale, **common)
        else:
            shape = (arguments.size, arguments.stride, arguments.threshold, arguments.strip)
            made = prepare.extract_subimages(arguments.source, arguments.target, *shape, **common)
    if arguments.step == "verify":
        print(f"{found.images} images, {found.bytes / 2**20:.1f} MiB, {found.checksum}")
        _print_first(found.problems)
        print("everything is whole" if found.ok else f"{len(found.problems)} problem{'s' * (len(found.problems) > 1)}")
        return 0 if found.ok else 1
    print(f"{arguments.target}: {made.written} written, {made.skipped} were there, from {made.images} images")
    return 0


def _split(arguments: argparse.Namespace) -> int:
    from mcir.data.split import create_split

    parts = (arguments.train, arguments.val, arguments.test, arguments.seed, arguments.folders)
    made = create_split(arguments.source, arguments.target, *parts)
    print(f"{arguments.target}: {made.written} written, {made.skipped} were there, from {made.images} images")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    """Check a data set by its manifest."""
    from rich.progress import Progress

    from mcir.data.compare import compare
    from mcir.data.manifest import read_manifest

    if arguments.against is not None or arguments.filename_tmpl != "{}":
        raise ValueError(
            "--against and --filename_tmpl go with a folder; a data set's manifest says what its pairs are"
        )
    manifest = read_manifest(arguments.source)
    with Progress(transient=True) as bar:
        task = bar.add_task(f"verify {manifest.title}", total=None)
        found = compare(
            manifest,
            arguments.root,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            workers=arguments.workers,
        )
    for line in found.fits:
        print(f"  {line}")
    _print_first(found.differences)
    count = len(found.differences)
    end = (
        f"{count} difference{'s' * (count > 1)} from {manifest.title}"
        if count
        else f"{manifest.title}, as it should be"
    )
    print(f"{arguments.root}: {end}")
    return 1 if count else 0


def _require_path(source: str) -> None:
    """Help who names a data set and forgets where it lies."""
    from mcir.data.manifest import known_manifests

    if not Path(source).exists() and source.lower() in known_manifests():
        raise ValueError(f"{source} is a data set; say where it lies as well: mcir prepare verify {source} ROOT")


def _print_first(problems: Sequence[str]) -> None:
    for problem in problems[:10]:
        print(f"  {problem}", file=sys.stderr)
    if len(problems) > 10:
        print(f"  and {len(problems) - 10} more", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
