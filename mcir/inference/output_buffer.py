"""One image before and after the network: its channels made to fit, its integers made floats and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mcir.data.codec import Array
from mcir.data.resize import imresize
from mcir.inference.tiling import blended, spans

PEAKS = {torch.uint8: 255, torch.uint16: 65535}
"""What stands for white, of integers; of floats it is 1."""

_LEAST, _MOST = -2.0, 3.0  # noise leads out of [0, 1], but not as far
_ALPHA_TILE, _ALPHA_OVERLAP = 512, 16  # bicubic interpolation looks two pixels far


class OutputBuffer:
    """An image that is restored part by part.

    A grey image enters a network of more channels as that many equal ones, and the mean of what it makes is grey again;
    a network of one channel restores those of a colour image one by one.

    Args:
        image: (C, H, W), uint8, uint16 or floats in [0, 1].
        channels: what the network takes.
        scale: how much larger its output is.

    Attributes:
        entries: views of the image, each (channels, H, W): what the network takes of it.

    Raises:
        ValueError: the network cannot take so many channels.
    """

    def __init__(self, image: Tensor, channels: int, scale: int) -> None:
        if channels not in (len(image), 1) and len(image) != 1:
            raise ValueError(
                f"the network restores images of {channels} channels, not of {len(image)}; grey images (1 channel) "
                "go, too."
            )
        self.image = image
        self.scale = scale
        self.becomes_grey = len(image) == 1 < channels
        if len(image) in (1, channels):
            self.entries = [image.expand(channels, -1, -1)]
        else:
            self.entries = list(image.unsqueeze(1))
        self._output: Tensor | None = None

    @property
    def output(self) -> Tensor:
        """The restored image (C', scale·H, scale·W), of the type of the image and on its device."""
        assert self._output is not None
        return self._output

    def write(self, entry: int, rows: slice, columns: slice, piece: Tensor) -> None:
        """Take a final piece (C', h, w) in [0, 1] of what the network made of an entry, for its place in the output."""
        piece = piece.mean(0, keepdim=True) if self.becomes_grey else piece
        if self._output is None:
            height, width = (self.scale * side for side in self.image.shape[1:])
            with torch.inference_mode(False):
                shape = (height, width, len(self.entries) * len(piece))
                self._output = torch.empty(shape, dtype=self.image.dtype, device=self.image.device).permute(2, 0, 1)
        place = self._output[entry * len(piece) : (entry + 1) * len(piece), rows, columns]
        place.copy_(as_stored(piece, self.image.dtype))


def as_floats(image: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return images of integers or floats as floats in [0, 1] on a device."""
    floats = image.to(device).to(dtype)
    return floats / PEAKS[image.dtype] if image.dtype in PEAKS else floats


def as_stored(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Return floats in [0, 1] as they are stored in a type: integers rounded, half to even."""
    return (image * PEAKS[dtype]).round_().to(dtype) if dtype in PEAKS else image.to(dtype)


def checked(image: Tensor, what: str) -> Tensor:
    """Return images (..., C, H, W) whose type and values are those of images.

    Args:
        image: the images.
        what: how to call them in a message.

    Raises:
        ValueError: there are no pixels, or the values are neither uint8, uint16 nor floats about [0, 1].
    """
    if image.numel() == 0:
        raise ValueError(f"{what}: there is no pixel in {tuple(image.shape)}.")
    if image.dtype in PEAKS:
        return image
    if not image.is_floating_point():
        raise ValueError(f"{what}: values are uint8, uint16, or floats in [0, 1], not {image.dtype}.")
    least, most = (float(value) for value in image.aminmax())
    if not (least >= _LEAST and most <= _MOST):
        raise ValueError(
            f"{what}: floats are in [0, 1], not from {least:.4g} to {most:.4g}"
            + ("; divide by 255, or give uint8." if 1 < most <= 255 else ".")
        )
    return image


def as_tensor(array: Array) -> Tensor:
    """Return an array (H, W, C) as a tensor (C, H, W), which shares its memory if it can.

    Raises:
        ValueError: it holds no numbers that a tensor can hold.
    """
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"an array holds uint8, uint16 or floats in [0, 1], not {array.dtype}.")
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy()).permute(2, 0, 1)


def as_array(image: Tensor) -> Array:
    """Return a tensor (C, H, W) as an array (H, W, C) in one piece."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def enlarged(alpha: Array, scale: int) -> Array:
    """Return an alpha channel (H, W) as large as the output of the network: by MATLAB's bicubic interpolation, clamped.

    In tiles, which changes nothing of the result.
    """
    if scale == 1:
        return alpha
    canvas = OutputBuffer(as_tensor(alpha[:, :, None]), 1, scale)

    def resized(rows: slice, columns: slice) -> Tensor:
        window = as_floats(canvas.entries[0][None, :, rows, columns], torch.device("cpu"), torch.float64)
        return imresize(window, scale).clamp_(0, 1)

    rows, columns = (spans(side, _ALPHA_TILE, _ALPHA_OVERLAP) for side in alpha.shape)
    for down, right, piece in blended(resized, rows, columns, scale):
        canvas.write(0, down, right, piece[0])
    return as_array(canvas.output)[:, :, 0]


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Return images (C, H, W) as a batch in one piece; a single one is not copied where it is."""
    return images[0][None].contiguous() if len(images) == 1 else torch.stack(list(images)).contiguous()
