"""Networks written out as their papers print them, to measure against and to test with: same weights, same results.

EDSR and UNet are not here: they are convolutions, and written as their papers print them already.
"""

from benchmarks.literal.dehazeformer import literal_dehazeformer
from benchmarks.literal.ffanet import literal_ffanet
from benchmarks.literal.idt import literal_idt
from benchmarks.literal.nafnet import literal_nafnet
from benchmarks.literal.swinir import LiteralWindowAttention, literal_swinir

LITERAL = {
    "DehazeFormer": literal_dehazeformer,
    "FFANet": literal_ffanet,
    "IDT": literal_idt,
    "NAFNet": literal_nafnet,
    "NAFNetLocal": literal_nafnet,
    "SwinIR": literal_swinir,
}
"""By architecture: what makes the literal form of a network, which keeps its weights."""

__all__ = [
    "LITERAL",
    "LiteralWindowAttention",
    "literal_dehazeformer",
    "literal_ffanet",
    "literal_idt",
    "literal_nafnet",
    "literal_swinir",
]
