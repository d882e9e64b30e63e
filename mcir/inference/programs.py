"""Networks as programs that run without mcir: traced once for every size, then written down in several ways.

What is traced is the whole ``forward`` with its padding and cropping, so that a program takes images of any height and
width, like the network. TorchScript and ONNX are made of the same traced operations, not traced anew.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from mcir.network_spec import NetworkSpec, spec_of

FACTS_FILE = "mcir.json"
"""Where ``.pt2`` and TorchScript files keep the facts of their network."""

OLDEST_OPSET = 18
"""The oldest version of ONNX's operators that PyTorch writes: what most runtimes read."""

_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")


class ExportError(ValueError):
    """A network that cannot be exported, or a program that does not do what its network does."""


def traced(network: nn.Module) -> ExportedProgram:
    """Trace a network for batches (B, C, H, W) of any B, H and W, in ``eval`` mode.

    Raises:
        ExportError: the network asks what the size of an image is, or does something else that cannot be traced.
    """
    side = _smallest_side(network)  # and nothing special: no multiples, several windows or tiles, also of maps within
    images = torch.rand(2, (spec_of(network) or NetworkSpec()).in_channels, 2 * side + 7, 3 * side + 5)
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with told(f"{type(network).__name__} cannot be traced for images of any size"), quietly():
        program = torch.export.export(network.eval(), (images,), dynamic_shapes=(free,), strict=False)
    # both would refuse sizes for which tensors only lie otherwise in memory
    with suppress(ValueError):  # of older PyTorch, which refuses no sizes because of them
        program.example_inputs = None
    program.range_constraints.update(dict.fromkeys(program.range_constraints, ValueRanges(2, int_oo)))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names of this machine's folders
    return program


def _smallest_side(network: nn.Module) -> int:
    """Return a side at which a network needs no padding, at least 16."""
    spec = spec_of(network) or NetworkSpec()
    return -(-max(spec.min_size, 16) // spec.size_multiple) * spec.size_multiple


def images_for(network: nn.Module) -> list[Tensor]:
    """Return random images to check a program by: higher and narrower than what was traced, and some that are small."""
    side, channels = _smallest_side(network), (spec_of(network) or NetworkSpec()).in_channels
    generator = torch.Generator().manual_seed(0)
    sizes = ((1, channels, 3 * side + 1, side + 1), (3, channels, side // 2 + 1, side))
    return [torch.rand(size, generator=generator) for size in sizes]


def archive(program: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    """Return the content of a ``.pt2`` file, which ``torch.export.load`` reads.

    Raises:
        ExportError: it cannot be written.
    """
    content = io.BytesIO()
    with told("The network cannot be written as an archive of torch.export"), quietly():
        torch.export.save(program, content, extra_files={FACTS_FILE: json.dumps(dict(facts))})
    return content.getvalue()


def torchscript(program: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    """Return the content of a TorchScript file, which ``torch.jit.load`` and libtorch read.

    Tensors that the program makes, like indices, are made where the images are.

    Raises:
        ExportError: it cannot be written.
    """
    module = program.module()
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(module.graph, values)
    graph.output(result[0] if isinstance(result, tuple | list) else result)
    graph.eliminate_dead_code()
    plain: dict[Any, Any] = {torch.sym_max: max, torch.sym_min: min}
    images = next(iter(graph.nodes))
    with graph.inserting_after(images):
        device = graph.call_function(getattr, (images, "device"))
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket
        node.target = plain.get(node.target, node.target)
        if node.kwargs.get("device") is not None:
            node.update_kwarg("device", device)
    content = io.BytesIO()
    with told("The network cannot be written as TorchScript"), quietly():
        scripted = torch.jit.script(fx.GraphModule(module, graph))
        torch.jit.save(scripted, content, _extra_files={FACTS_FILE: json.dumps(dict(facts))})
    return content.getvalue()


def onnx_model(program: ExportedProgram, facts: Mapping[str, str], opset: int) -> bytes:
    """Return the content of an ONNX file: ``input`` (batch, C, height, width) to ``output``.

    Args:
        program: of the network.
        facts: go into the file's ``metadata_props``.
        opset: version of the operators, at least ``OLDEST_OPSET``.

    Raises:
        ExportError: an operation has no translation, or none in that version.
    """
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    with told("The network cannot be written as ONNX"), quietly():
        exported: Any = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False, **names)
        model = exported.model_proto
    scale = int(facts["scale"])
    version = next(each.version for each in model.opset_import if not each.domain)
    if version != opset:
        raise ExportError(f"PyTorch writes the network with operators of version {version}, not {opset}.")
    sides = ["height", "width"] if scale == 1 else [f"{scale}*height", f"{scale}*width"]
    for values, free in ((model.graph.input, ["height", "width"]), (model.graph.output, sides)):
        dims = values[0].type.tensor_type.shape.dim
        dims[0].dim_param, dims[2].dim_param, dims[3].dim_param = "batch", *free
    # of each step: its place in files of this machine, and its shape, by names that are gone
    for described in (*model.graph.node, *model.graph.input, *model.graph.output, model.graph, model):
        del described.metadata_props[:]
    del model.graph.value_info[:]
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    return cast(bytes, model.SerializeToString())


def require_onnx(opset: int, check: bool) -> None:
    """Make sure that ONNX can be written, and run if it is to be checked.

    Raises:
        ExportError: something is not installed, and the message says how to; or there is no such version of operators.
    """
    needed = ["onnx", "onnxscript", *(["onnxruntime"] if check else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        instead = ", or leave the check out: --no-check" if missing == ["onnxruntime"] else ""
        raise ExportError(f'ONNX needs {" and ".join(missing)}. Install with: pip install "mcir[export]"{instead}.')
    from onnx.defs import onnx_opset_version

    if not OLDEST_OPSET <= opset <= onnx_opset_version():
        raise ExportError(
            f"ONNX's operators can be written in the versions {OLDEST_OPSET} to {onnx_opset_version()}, not {opset}."
        )


@contextmanager
def told(what: str) -> Iterator[None]:
    """Tell what goes wrong within in a line that begins with ``what``.

    Raises:
        ExportError: something did.
    """
    try:
        yield
    except Exception as error:
        raise ExportError(f"{what}: {_reason(error)}") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Keep to themselves the warnings of PyTorch's exporters, which are about their own work."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def runner(content: bytes, suffix: str) -> Any:
    """Return a function that restores images (B, C, H, W) by the program of a file.

    Args:
        content: of the file.
        suffix: ``.onnx``, ``.pt`` or ``.pt2``.
    """
    if suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"input": images.numpy()})[0])
    with quietly():
        if suffix == ".pt":
            return torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
        return torch.export.load(io.BytesIO(content)).module()


def _reason(error: BaseException) -> str:
    """Return the line that tells why, of what may be pages: of a chain the first error, of a list the first item.

    TorchScript tells where it failed before it tells why.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "TorchScript interpreter" in lines[0]:
        return lines[-1]
    return next((line.removeprefix("- ") for line in lines if line.startswith("- ")), lines[0])
