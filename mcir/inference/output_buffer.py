"""Assemble the output of a network for one image from pieces, in the type of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from mcir.data.codec import Array
from mcir.data.resize import imresize
from mcir.inference.convert import as_array, as_floats, as_stored, as_tensor
from mcir.inference.tiling import blended, spans

_ALPHA_TILE, _ALPHA_OVERLAP = 512, 16  # bicubic interpolation uses two pixels on each side


class OutputBuffer:
    """An image and the pieces of its restored version.

    A grey image is repeated along the channels for a colour network, and the output is averaged over the channels. A
    grey network restores the channels of a colour image separately.

    Args:
        image: image (C, H, W), uint8, uint16, or floats in [0, 1].
        channels: number of input channels of the network.
        scale: factor by which the output is larger.

    Attributes:
        inputs: inputs of the network, (channels, H, W), which are views of the image: one, or one for each channel.
        output: restored image, (C', scale·H, scale·W), with the type and device of the image.

    Raises:
        ValueError: the network cannot restore images with this number of channels.
    """

    def __init__(self, image: Tensor, channels: int, scale: int) -> None:
        if channels not in (len(image), 1) and len(image) != 1:
            raise ValueError(f"the network restores images with {channels} channels, or 1 (grey), got {len(image)}.")
        self.image = image
        self.scale = scale
        self.becomes_grey = len(image) == 1 < channels
        is_whole = len(image) in (1, channels)
        self.inputs = [image.expand(channels, -1, -1)] if is_whole else list(image.unsqueeze(1))
        self.output = torch.empty(0)  # allocated by the first ``write``, which knows the number of channels

    def write(self, index: int, rows: slice, columns: slice, piece: Tensor) -> None:
        """Store a piece (C', h, w) of the output for an input, with values in [0, 1]."""
        piece = piece.mean(0, keepdim=True) if self.becomes_grey else piece
        if not self.output.numel():
            height, width = (self.scale * side for side in self.image.shape[1:])
            with torch.inference_mode(False):
                shape = (height, width, len(self.inputs) * len(piece))
                self.output = torch.empty(shape, dtype=self.image.dtype, device=self.image.device).permute(2, 0, 1)
        channels = slice(index * len(piece), (index + 1) * len(piece))
        self.output[channels, rows, columns] = as_stored(piece, self.image.dtype).to(self.image.device)


def enlarge_alpha(alpha: Array, scale: int) -> Array:
    """Enlarge an alpha channel (H, W) with MATLAB's bicubic interpolation, in tiles, which do not change the result."""
    if scale == 1:
        return alpha
    buffer = OutputBuffer(as_tensor(alpha[:, :, None]), 1, scale)

    def resize(rows: slice, columns: slice) -> Tensor:
        window = as_floats(buffer.inputs[0][None, :, rows, columns], torch.device("cpu"), torch.float64)
        return imresize(window, scale).clamp_(0, 1)

    rows, columns = (spans(side, _ALPHA_TILE, _ALPHA_OVERLAP) for side in alpha.shape)
    for row, column, piece in blended(resize, rows, columns, scale):
        buffer.write(0, row, column, piece[0])
    return as_array(buffer.output)[:, :, 0]
