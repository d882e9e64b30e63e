"""The output of a network for one image, written piece by piece in the type of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from mcir.data.codec import Array
from mcir.data.resize import imresize
from mcir.inference.convert import as_array, as_floats, as_stored, as_tensor
from mcir.inference.tiling import blended, spans

_ALPHA_TILE, _ALPHA_OVERLAP = 512, 16  # bicubic interpolation reaches two pixels


class OutputBuffer:
    """An image and its restored version, which is written piece by piece.

    A grey image is repeated for a network with more channels, and the mean over the channels of the output is grey
    again. A network with one channel restores the channels of a color image one by one.

    Args:
        image: image (C, H, W), uint8, uint16, or floats in [0, 1].
        channels: channels that the network takes.
        scale: factor by which the output is larger.

    Attributes:
        entries: inputs of the network, views of the image, each (channels, H, W).

    Raises:
        ValueError: the network does not take images with this number of channels.
    """

    def __init__(self, image: Tensor, channels: int, scale: int) -> None:
        if channels not in (len(image), 1) and len(image) != 1:
            raise ValueError(f"the network takes images with {channels} channels, or 1 (grey), got {len(image)}.")
        self.image = image
        self.scale = scale
        self.becomes_grey = len(image) == 1 < channels
        is_whole = len(image) in (1, channels)
        self.entries = [image.expand(channels, -1, -1)] if is_whole else list(image.unsqueeze(1))
        self._output: Tensor | None = None

    @property
    def output(self) -> Tensor:
        """The restored image (C', scale·H, scale·W), of the same type and on the same device as the image."""
        assert self._output is not None
        return self._output

    def write(self, entry: int, rows: slice, columns: slice, piece: Tensor) -> None:
        """Store a final piece (C', h, w), in [0, 1], of the output for an entry."""
        piece = piece.mean(0, keepdim=True) if self.becomes_grey else piece
        if self._output is None:
            height, width = (self.scale * side for side in self.image.shape[1:])
            with torch.inference_mode(False):
                shape = (height, width, len(self.entries) * len(piece))
                self._output = torch.empty(shape, dtype=self.image.dtype, device=self.image.device).permute(2, 0, 1)
        channels = slice(entry * len(piece), (entry + 1) * len(piece))
        self._output[channels, rows, columns] = as_stored(piece, self.image.dtype).to(self.image.device)


def enlarge_alpha(alpha: Array, scale: int) -> Array:
    """Enlarge an alpha channel (H, W) by MATLAB's bicubic interpolation, tile by tile, which does not change it."""
    if scale == 1:
        return alpha
    buffer = OutputBuffer(as_tensor(alpha[:, :, None]), 1, scale)

    def resize(rows: slice, columns: slice) -> Tensor:
        window = as_floats(buffer.entries[0][None, :, rows, columns], torch.device("cpu"), torch.float64)
        return imresize(window, scale).clamp_(0, 1)

    rows, columns = (spans(side, _ALPHA_TILE, _ALPHA_OVERLAP) for side in alpha.shape)
    for row, column, piece in blended(resize, rows, columns, scale):
        buffer.write(0, row, column, piece[0])
    return as_array(buffer.output)[:, :, 0]
