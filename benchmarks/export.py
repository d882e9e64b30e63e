"""Export published configurations to every format, and measure export time, accuracy and speed.

``mcir.inference.export`` writes each program and compares it with the network on images of two sizes (weights are
random, and no layer is zero). The table contains the processor seconds of writing the ONNX file, its size, the largest
difference of each format, and the seconds for an image of 1×3×128×128 with one thread, medians of interleaved rounds of
PyTorch and ONNX Runtime::

    python benchmarks/export.py --only 'swinir_light_x4'
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnxruntime
import torch

from benchmarks.measuring import interleaved
from mcir.archs.network import Network
from mcir.inference.export import FORMATS, export_network
from mcir.registry import ARCHS
from tests.golden import networks

CONFIGS = (
    "edsr_light_x4",
    "swinir_light_x4",
    "swinir_classical_s48_x2",
    "swinir_real_m_x4",
    "swinir_color_dn",
    "ffa_3_19",
    "dehazeformer_s",
    "dehazeformer_b",
    "nafnet_gopro_w32",
    "nafnet_sidd_w32",
    "nafnet_local_gopro_w32_t256",
    "unet_milesial_tconv",
    "idt_128",
)
COLUMNS = (
    "configuration",
    "s to write",
    "MiB",
    "ONNX",
    "TorchScript",
    "torch.export",
    "image: PyTorch",
    "ONNX Runtime",
)


def build(config: str) -> Network:
    """Build a configuration with random weights, also in layers that are initialized to zero."""
    torch.manual_seed(0)
    network: Network = ARCHS.build(networks.load(config).section).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def measure(config: str, rounds: int, folder: Path) -> list[str]:
    """Return the row of one configuration."""
    network = build(config)
    start = time.process_time()
    exported = export_network(network, {"onnx": folder / "net.onnx"})
    seconds = time.process_time() - start
    exported += export_network(
        network, {name: folder / f"net{FORMATS[name]}" for name in ("torchscript", "torch-export")}
    )
    differences = [f"{program.difference:.1e}" for program in exported]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "net.onnx", options, providers=["CPUExecutionProvider"])
    image = torch.rand(1, network.in_channels, 128, 128)
    with torch.no_grad():
        calls = {"PyTorch": lambda: network(image), "ONNX": lambda: session.run(None, {"input": image.numpy()})}
        times = [statistics.median(values) for values in interleaved(calls, rounds, image.device).values()]
    size = (folder / "net.onnx").stat().st_size / 2**20
    return [config, f"{seconds:.0f}", f"{size:.1f}", *differences, *(f"{value:.2f} s" for value in times)]


def print_row(cells: Sequence[str]) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="glob pattern of configuration names, like 'nafnet_*'")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_row(COLUMNS)
    print_row(["---"] * len(COLUMNS))
    for config in CONFIGS:
        if fnmatchcase(config, arguments.only):
            with tempfile.TemporaryDirectory() as folder:
                print_row(measure(config, arguments.rounds, Path(folder)))


if __name__ == "__main__":
    main()
