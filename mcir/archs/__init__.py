"""Architectures: one paper, one file. Importing this package registers them."""

from mcir.archs.dehazeformer import DehazeFormer
from mcir.archs.edsr import EDSR
from mcir.archs.ffanet import FFANet
from mcir.archs.idt import IDT
from mcir.archs.nafnet import NAFNet, NAFNetLocal
from mcir.archs.swinir import SwinIR
from mcir.archs.unet import UNet

__all__ = ["EDSR", "IDT", "DehazeFormer", "FFANet", "NAFNet", "NAFNetLocal", "SwinIR", "UNet"]
