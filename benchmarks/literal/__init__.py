"""Direct implementations of the papers' equations, for benchmarks and tests: same weights, same outputs.

EDSR and UNet consist of convolutions only, and are implemented like this in ``mcir.archs`` already.
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
"""Functions that return the direct implementation of a network with its weights, by architecture."""

__all__ = [
    "LITERAL",
    "LiteralWindowAttention",
    "literal_dehazeformer",
    "literal_ffanet",
    "literal_idt",
    "literal_nafnet",
    "literal_swinir",
]
