"""Compare implementations of window attention with ``mcir.archs.attention``.

The benchmark runs one layer with shifted windows of SwinIR-light, and one of the network with 11.9 M parameters, on a
batch of 4 × 64 × 64 features. It compares the direct implementation of the paper (``literal``), bias and mask as an
operand of ``baddbmm`` or of ``scaled_dot_product_attention``, and mcir. CPU time of one thread, minimum of interleaved
rounds::

    python benchmarks/attention.py --rounds 10
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.literal import LiteralWindowAttention
from mcir.archs.attention import relative_position_index, shifted_window_mask, window_mask_index
from mcir.archs.swinir import WindowAttention

BATCH, SIDE, WINDOW, HEADS = 4, 64, 8, 6
CHANNELS = {"light": 60, "classical": 180}

Core: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


class CombinedBiasAttention(nn.Module):
    """Window attention with bias and mask combined into one operand of a PyTorch function."""

    def __init__(self, attention: WindowAttention, core: Core) -> None:
        super().__init__()
        self.attention = copy.deepcopy(attention)
        self.core = core

    def forward(self, windows: Tensor, masks: Tensor, mask_index: Tensor) -> Tensor:
        """Map windows (B·nW, N, C) to the same shape."""
        count, tokens, channels = windows.shape
        heads = self.attention.qkv(windows).view(count, tokens, 3, HEADS, channels // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = heads.reshape(3, count * HEADS, tokens, -1)
        bias = self.attention.relative_position_bias_table[relative_position_index(WINDOW)].permute(2, 0, 1)
        combined = (bias + masks[:, None])[mask_index].expand(BATCH, -1, -1, -1, -1).reshape(-1, tokens, tokens)
        attended = self.core(query, key, value, combined, self.attention.scale).view(count, HEADS, tokens, -1)
        projected: Tensor = self.attention.proj(attended.transpose(1, 2).reshape(count, tokens, channels))
        return projected


def by_baddbmm(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Compute attention with the bias as the first operand of ``baddbmm``."""
    return torch.baddbmm(bias, query, key.mT, alpha=scale).softmax(-1) @ value


def by_sdpa(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Compute attention with ``scaled_dot_product_attention``."""
    query, key, value, bias = (x.unflatten(0, (-1, HEADS)) for x in (query, key, value, bias))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale).flatten(0, 1)


def measure(channels: int, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return milliseconds without and with gradients, and the largest difference to the literal result, by name."""
    torch.manual_seed(0)
    attention = WindowAttention(channels, WINDOW, HEADS)
    forms = {
        "literal": LiteralWindowAttention(copy.deepcopy(attention)),
        "baddbmm": CombinedBiasAttention(attention, by_baddbmm),
        "SDPA": CombinedBiasAttention(attention, by_sdpa),
        "mcir": attention,
    }
    windows = torch.randn(BATCH * (SIDE // WINDOW) ** 2, WINDOW**2, channels, requires_grad=True)
    masks = shifted_window_mask(2 * WINDOW, 2 * WINDOW, WINDOW, WINDOW // 2, windows.device)
    shift = (masks, window_mask_index(SIDE, SIDE, WINDOW, windows.device))

    def without_gradients(form: nn.Module) -> None:
        with torch.no_grad():
            form(windows, *shift)

    def with_gradients(form: nn.Module) -> None:
        form(windows, *shift).sum().backward()

    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            for run, milliseconds in zip((without_gradients, with_gradients), times[name], strict=True):
                start = time.process_time()
                run(form)
                milliseconds.append(1000 * (time.process_time() - start))
    with torch.no_grad():
        results = {name: form(windows, *shift) for name, form in forms.items()}
    return {
        name: (min(forward), min(both), float((results[name] - results["literal"]).abs().max()))
        for name, (forward, both) in times.items()
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds (default: 10)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    table = Table(title="A layer of window attention, milliseconds of one CPU core")
    for heading in ("network", "form", "forward", "literal / form", "with backward", "literal / form", "difference"):
        table.add_column(heading, justify="left" if heading in ("network", "form") else "right")
    for network, channels in CHANNELS.items():
        measured = measure(channels, rounds)
        literal = measured["literal"]
        for name, (forward, both, difference) in measured.items():
            ratios = (literal[0] / forward, literal[1] / both)
            row = (f"{forward:.1f}", f"{ratios[0]:.2f}", f"{both:.1f}", f"{ratios[1]:.2f}", f"{difference:.1e}")
            table.add_row(network, name, *row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
