"""Training on noisy images without ground truth: the base class, Noise2Noise and Noise2Self.

"Noise2Noise: Learning Image Restoration without Clean Data", ICML 2018, arXiv:1803.04189. "Noise2Self: Blind Denoising
by Self-Supervision", ICML 2019, arXiv:1901.11365.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional as F

from mcir.checks import check_choice
from mcir.errors import ArgumentError
from mcir.models.base import Model
from mcir.models.batch import Batch
from mcir.registry import MODELS, LossSection

_NEIGHBOURS = ((0.5, 1.0, 0.5), (1.0, 0.0, 1.0), (0.5, 1.0, 0.5))


@dataclass(kw_only=True, eq=False)
class SelfSupervisedModel(Model):
    """Base class of models that train on two noisy views of each image, ``lq`` (B, 2, C, P, P), without ground truth.

    Raises:
        ArgumentError: the scale of the network is not 1.
    """

    views: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Build the network and check its scale."""
        super().__post_init__()
        if self.spec.scale != 1:
            message = f"{type(self).__name__} expects a network with scale 1, got {self.spec.scale}."
            raise ArgumentError("network_g", message)

    def pairs(self, batch: Batch) -> Tensor:
        """Return the two views of each image, (B, 2, C, P, P).

        Raises:
            ValueError: ``lq`` has another shape.
        """
        views: Tensor = batch["lq"]
        if views.dim() != 5 or views.shape[1] != 2:
            raise ValueError(
                f"{type(self).__name__}: expected two noisy views of each image, lq (B, 2, C, P, P), got "
                f"{tuple(views.shape)}. Use NoisyPatchPairs or NoisyObservations as 'datasets.train'."
            )
        return views


@dataclass(kw_only=True, eq=False)
class _PixelModel(SelfSupervisedModel):
    """A model that predicts noisy pixels."""

    pixel_opt: LossSection | None = None
    """Loss between the output and the noisy pixels that it predicts. Default: MSELoss."""

    def __post_init__(self) -> None:
        """Build the loss."""
        super().__post_init__()
        self.criteria.add("l_pix", self.pixel_opt or {"type": "MSELoss"}, option="pixel_opt")


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class Noise2NoiseModel(_PixelModel):
    """A network that predicts one noisy observation of an image from another. With MSELoss it learns their mean.

    The two observations (``NoisyObservations``) have the same noise level and independent noise.
    """

    def inputs(self, batch: Batch) -> Tensor:
        """Return the first views (B, C, P, P).

        Raises:
            ValueError: the two views have different positions, or the number of views is not two.
        """
        if "boxes" in batch:
            raise ValueError(
                "Noise2NoiseModel: expected two observations of the same patch, got patches at different positions "
                "(NoisyPatchPairs). Use NoisyObservations as 'datasets.train'."
            )
        return self.pairs(batch)[:, 0]

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss between the output and the second views."""
        return {"l_pix": self.criteria.evaluate("l_pix", output, batch["lq"][:, 1])}


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class Noise2SelfModel(_PixelModel):
    """A network that predicts masked pixels of a noisy image from the other pixels.

    The masked pixels form one of ``mask_width²`` grids, one pixel in each square; the iteration selects the grid. As in
    the official code, the loss is a mean over all pixels, with 0 at visible pixels. The two views of an image are
    used as two images.
    """

    restore_options: ClassVar[tuple[str, ...]] = ("mask_width", "fill", "j_invariant")

    mask_width: Annotated[int, Interval(ge=2, le=64)] = 4
    """Side of the squares in pixels; one pixel of each square is masked."""
    fill: Literal["interpolate", "zero"] = "interpolate"
    """Values of masked pixels: the weighted mean of the eight neighbours (0 beyond the border), or 0."""
    j_invariant: bool = False
    """Whether to restore each pixel without its own value. This takes mask_width² forward passes, one for each grid. By
    default the image is not masked."""

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_choice("fill", self.fill, ("interpolate", "zero"))
        self._grid = 0

    def before_step(self, batch: Batch, iteration: int) -> None:
        """Select the grid of masked pixels."""
        self._grid = iteration - 1

    def inputs(self, batch: Batch) -> Tensor:
        """Return the images (2B, C, P, P) with masked pixels."""
        images = self.pairs(batch).flatten(0, 1)
        return fill_masked(images, grid_mask(images, self.mask_width, self._grid), self.fill)

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss between the output and the images at the masked pixels."""
        images = batch["lq"].flatten(0, 1)
        mask = grid_mask(images, self.mask_width, self._grid)
        return {"l_pix": self.criteria.evaluate("l_pix", output * mask, images * mask)}

    @torch.no_grad()
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1]; see ``j_invariant``."""
        if not self.j_invariant:
            return super().restore(lq)
        output = torch.zeros_like(lq)
        for number in range(self.mask_width**2):
            mask = grid_mask(lq, self.mask_width, number)
            output = torch.where(mask, super().restore(fill_masked(lq, mask, self.fill)), output)
        return output


def grid_mask(images: Tensor, width: int, number: int) -> Tensor:
    """Return the boolean mask (H, W) of a grid, which is true for one pixel in each square.

    Args:
        images: images (…, H, W) to mask.
        width: side of the squares.
        number: number of the grid, in row-major order, modulo ``width``².
    """
    rows, columns = (torch.arange(side, device=images.device) % width for side in images.shape[-2:])
    return (rows == number % width)[:, None] & (columns == number // width % width)


def fill_masked(images: Tensor, mask: Tensor, fill: str) -> Tensor:
    """Replace the pixels of images (B, C, H, W) in ``mask`` (H, W); see ``fill`` of :class:`Noise2SelfModel`."""
    if fill == "zero":
        return images * ~mask
    kernel = images.new_tensor(_NEIGHBOURS)
    means = F.conv2d(images.flatten(0, 1)[:, None], (kernel / kernel.sum())[None, None], padding=1)
    return torch.where(mask, means.view(images.shape), images)
