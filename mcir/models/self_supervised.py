"""Learning from noisy images alone: what such models have in common, and the two baselines that predict pixels.

"Noise2Noise: Learning Image Restoration without Clean Data", ICML 2018, arXiv:1803.04189. "Noise2Self: Blind Denoising
by Self-Supervision", ICML 2019, arXiv:1901.11365.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.models.base import Batch, Model
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import MODELS, LossSection

_NEIGHBOURS = ((0.5, 1.0, 0.5), (1.0, 0.0, 1.0), (0.5, 1.0, 0.5))


@dataclass(kw_only=True, eq=False)
class SelfSupervisedModel(Model):
    """A model that has two noisy views of each image, ``lq`` (B, 2, C, P, P), and no ground truth.

    Raises:
        ValueError: the network enlarges, so that its output cannot be compared with its input.
    """

    views: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Build the network, and check that it makes images of the size that it gets."""
        super().__post_init__()
        if (scale := (spec_of(self.network) or NetworkSpec()).scale) != 1:
            raise ValueError(
                f"{type(self).__name__} compares what the network makes with what it gets: network_g must not enlarge, "
                f"and it does ×{scale}."
            )

    def pairs(self, batch: Batch) -> Tensor:
        """Return the two views of each image, (B, 2, C, P, P).

        Raises:
            ValueError: the data set gives something else.
        """
        views: Tensor = batch["lq"]
        if views.dim() != 5 or views.shape[1] != 2:
            raise ValueError(
                f"{type(self).__name__} trains on two noisy views of each image, lq (B, 2, C, P, P), not "
                f"{tuple(views.shape)}: take NoisyPatchPairs or NoisyObservations as 'datasets.train'."
            )
        return views


@dataclass(kw_only=True, eq=False)
class _PixelModel(SelfSupervisedModel):
    """One that predicts pixels."""

    pixel_opt: LossSection | None = None
    """Loss between the output and the noisy pixels that it predicts; MSELoss without."""

    def __post_init__(self) -> None:
        """Build the loss."""
        super().__post_init__()
        self.add_loss("l_pix", self.pixel_opt or {"type": "MSELoss"})


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class Noise2NoiseModel(_PixelModel):
    """A network that predicts one noisy version of an image from another one; with MSE it learns their mean.

    The two versions have the same strength of noise and noise of their own: ``NoisyObservations``.
    """

    def inputs(self, batch: Batch) -> Tensor:
        """Return the first views (B, C, P, P).

        Raises:
            ValueError: the views lie in different places, or are no two views.
        """
        if "boxes" in batch:
            raise ValueError(
                "Noise2NoiseModel predicts a patch from another observation of the same patch; those of "
                "NoisyPatchPairs lie in different places: take NoisyObservations as 'datasets.train'."
            )
        return self.pairs(batch)[:, 0]

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Compare the output with the second views."""
        return {"l_pix": self.parts["l_pix"](output, batch["lq"][:, 1])}


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class Noise2SelfModel(_PixelModel):
    """A network that predicts hidden pixels of a noisy image from the others.

    The hidden pixels are one of the ``mask_width²`` grids, a pixel of each square; which one, the iteration decides.
    The loss is that of the official code: over all pixels, those that are not hidden counting as predicted. Both views
    of each image are trained on, as two images.
    """

    restores_by: ClassVar[tuple[str, ...]] = ("mask_width", "fill", "j_invariant")

    mask_width: int = 4
    """Side of the squares of which a pixel each is hidden."""
    fill: Literal["interpolate", "zero"] = "interpolate"
    """What the network sees of hidden pixels: the weighted mean of the eight neighbours, black ones beyond the edge; or
    black."""
    j_invariant: bool = False
    """Restore every pixel without seeing it, grid by grid, for mask_width² times the work; without it, the network gets
    the image as it is."""

    def __post_init__(self) -> None:
        """Check the masks."""
        super().__post_init__()
        if self.mask_width < 2:
            raise ValueError(f"mask_width is at least 2, so that pixels are left to be seen, not {self.mask_width}.")
        if self.fill not in ("interpolate", "zero"):
            raise ValueError(f"fill is 'interpolate' or 'zero', not {self.fill!r}.")
        self._grid = 0

    def training_step(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Make the step of the 1-based ``iteration``, which decides what is hidden; see :class:`Model`."""
        self._grid = iteration - 1
        return super().training_step(batch, iteration)

    def inputs(self, batch: Batch) -> Tensor:
        """Return the images (2B, C, P, P) with hidden pixels."""
        images = self.pairs(batch).flatten(0, 1)
        return hidden(images, grid_mask(images, self.mask_width, self._grid), self.fill)

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Compare the output with the images where pixels were hidden."""
        images = batch["lq"].flatten(0, 1)
        mask = grid_mask(images, self.mask_width, self._grid)
        return {"l_pix": self.parts["l_pix"](output * mask, images * mask)}

    @torch.no_grad()
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1]; see ``j_invariant``."""
        if not self.j_invariant:
            return super().restore(lq)
        output = torch.zeros_like(lq)
        for number in range(self.mask_width**2):
            mask = grid_mask(lq, self.mask_width, number)
            output = torch.where(mask, super().restore(hidden(lq, mask, self.fill)), output)
        return output


def grid_mask(images: Tensor, width: int, number: int) -> Tensor:
    """Return the pixels (H, W) of a grid: in each square of ``width``, the one that ``number`` counts, rows first.

    Args:
        images: (…, H, W), where the mask is to lie.
        width: side of the squares.
        number: of the grid; after ``width``² they come again.
    """
    rows, columns = (torch.arange(side, device=images.device) % width for side in images.shape[-2:])
    return (rows == number % width)[:, None] & (columns == number // width % width)


def hidden(images: Tensor, mask: Tensor, fill: str) -> Tensor:
    """Return images (B, C, H, W) whose pixels in ``mask`` (H, W) are hidden, as ``fill`` says."""
    if fill == "zero":
        return images * ~mask
    kernel = images.new_tensor(_NEIGHBOURS)
    around = F.conv2d(images.flatten(0, 1)[:, None], (kernel / kernel.sum())[None, None], padding=1)
    return torch.where(mask, around.view(images.shape), images)
