"""Dense contrastive losses, which compare locations in two views of an image instead of whole images.

These are VADeR (Pinheiro et al., NeurIPS 2020, arXiv:2011.05499), DenseCL (Wang et al., CVPR 2021, arXiv:2011.09157)
and PixContrast (Xie et al., CVPR 2021, arXiv:2011.10043). Each is an InfoNCE,
``−ln(Σ_pos e^{cos/τ} / Σ_all e^{cos/τ})``. They differ in how they match locations and in where their negatives come
from.

A loss contains no network. First, the loss selects features of both views (``regions``). Then the model projects them
(:class:`Projected`), and the loss compares the projections. The attributes of the loss describe the projector, the
momentum encoder and the queues that the model must provide.

Shapes: B images, C feature channels, D projection channels, K rows in a queue.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mcir.domains import Count, Fraction, IterationsOrZero, NonNegative, Positive, Temperature, Width
from mcir.losses.base import Comparison, Loss, in_float32, without_autocast
from mcir.losses.precomputed_grad import attach_grad
from mcir.registry import LOSSES

QueueSize: TypeAlias = Annotated[int, Interval(ge=1, le=2**24)]
"""Number of keys in a queue."""

_CHUNK = 2**24  # maximum number of logits that are in memory at the same time


class Projected(NamedTuple):
    """Features and projections of one view of B images.

    Attributes:
        features: backbone features at the compared locations, (B, C, h, w).
        cells: projections of these features, (B, D, h, w).
        image: projection of the mean of these features, (B, D, 1, 1); None if the loss does not need it.
    """

    features: Tensor
    cells: Tensor
    image: Tensor | None = None


@dataclass(kw_only=True, eq=False)
class DenseLoss(Loss, ABC):
    """Base class of dense contrastive losses."""

    compares: ClassVar[Comparison] = "views"
    symmetric: ClassVar[bool] = False
    """Whether both patches of a pair are queries for the keys of the other one. If not, only the first one is."""
    projects_images: ClassVar[bool] = False
    """Whether a second projector projects the mean features of an image."""
    projector_norm: ClassVar[bool] = False
    """Whether projectors have a batch norm before the ReLU."""
    queues: ClassVar[tuple[str, ...]] = ()
    """Names of the queues of past keys."""

    loss_weight: NonNegative = 1.0
    temperature: Temperature = 0.2
    """τ."""
    hidden: Width = 2048
    """Number of hidden channels of the projector (1×1 convolution, ReLU, 1×1 convolution)."""
    dim: Width = 128
    """Number D of output channels of the projector."""
    momentum: Fraction = 0.999
    """Decay of the momentum encoder, which computes the keys."""
    momentum_iter: IterationsOrZero | None = 0
    """Number of iterations over which the momentum increases to 1 along half a cosine; 0: constant momentum; null: all
    iterations of the training."""
    queue_size: QueueSize = field(init=False, default=1)

    @abstractmethod
    def regions(self, query: Tensor, key: Tensor, boxes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the features (B, C, h, w) of both views at the compared locations, in at least float32.

        Args:
            query: features of the queries, (B, C, H, W).
            key: features of the keys, (B, C, H, W).
            boxes: corners of both views in the image, (B, 2, 4): top, left, bottom, right in pixels. Top and bottom, or
                left and right, are swapped if the view is flipped.
            rng: random generator.

        Raises:
            ValueError: the views do not overlap, or are smaller than the grid.
        """

    def forward(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the loss as a scalar, in at least float32; only the projections of the query get gradients.

        Args:
            query: view whose projections get gradients.
            key: view with the positives.
            boxes: corners of both views, (B, 2, 4); see :meth:`regions`.
            queues: normalized past keys, (K, D), by name of the queue.
        """
        with without_autocast(query.cells):
            image = None if key.image is None else key.image.detach()
            key = Projected(key.features.detach(), key.cells.detach(), image)
            return self.loss_weight * self.compare(query, key, boxes, queues)

    @abstractmethod
    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the loss without the factor ``loss_weight``; see :meth:`forward`."""

    def new_keys(self, key: Projected) -> dict[str, Tensor]:
        """Return the normalized keys (N, D) to append to each queue."""
        return {}


@dataclass(kw_only=True, eq=False)
class _GridLoss(DenseLoss):
    """Base class of losses that compare the cells of a grid."""

    grid: Count = 16
    """Number of rows and of columns of the grid."""

    def regions(self, query: Tensor, key: Tensor, boxes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the mean features of each cell of the grid."""
        if min(query.shape[-2:]) < self.grid:
            height, width = query.shape[-2:]
            raise ValueError(
                f"{type(self).__name__}: expected patches of at least {self.grid}×{self.grid} for a grid of "
                f"{self.grid}, got {height}×{width}."
            )
        pooled = (F.adaptive_avg_pool2d(in_float32(view), self.grid) for view in (query, key))
        return next(pooled), next(pooled)


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class VADeRLoss(DenseLoss):
    """VADeR: the positive of a pixel is the same pixel of the image in the other patch; negatives are past pixels.

    Pixels are sampled at full resolution where the two patches overlap. There is no official code; the defaults are the
    values in the paper.
    """

    queues: ClassVar[tuple[str, ...]] = ("cells",)

    temperature: Temperature = 0.07
    pixels: Annotated[int, Interval(ge=1, le=2**20)] = 32
    """Number of pixel pairs that are sampled per image, with replacement."""
    momentum_iter: IterationsOrZero = 0
    queue_size: QueueSize = 65536
    """Number of past pixels in the queue."""

    def regions(self, query: Tensor, key: Tensor, boxes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the features (B, C, pixels, 1) of pixels that are sampled where the patches overlap."""
        indices = torch.from_numpy(_same_pixels(boxes.cpu().double().numpy(), self.pixels, query.shape[-2:], rng))
        first, second = (
            view.flatten(2).gather(2, index.to(view.device)[:, None].expand(-1, view.shape[1], -1))[..., None]
            for view, index in zip((query, key), indices.unbind(1), strict=True)
        )
        return in_float32(first), in_float32(second)

    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the sampled pixels."""
        return _queue_info_nce(_rows(query.cells), _rows(key.cells), queues["cells"], self.temperature)

    def new_keys(self, key: Projected) -> dict[str, Tensor]:
        """Return the keys of all sampled pixels."""
        return {"cells": _rows(key.cells)}


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class DenseCLLoss(_GridLoss):
    """DenseCL: ``(1 − dense_share)·L_image + dense_share·L_dense``, with negatives from queues of past images.

    The positive of a cell is the cell of the other view with the most similar backbone features. The negatives of cells
    are means over the projected cells of past images.
    """

    projects_images: ClassVar[bool] = True
    queues: ClassVar[tuple[str, ...]] = ("image", "cells")

    dense_share: Fraction = 0.5
    """Weight of the loss between cells; λ in the paper."""
    momentum_iter: IterationsOrZero = 0
    queue_size: QueueSize = 65536
    """Number of past images in each queue."""

    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the loss of images and the loss of cells."""
        assert query.image is not None and key.image is not None
        indices = self.matches(query.features, key.features)[:, None].expand(-1, key.cells.shape[1], -1)
        matched = key.cells.flatten(2).gather(2, indices)
        dense = _queue_info_nce(_rows(query.cells), _rows(matched), queues["cells"], self.temperature)
        image = _queue_info_nce(_rows(query.image), _rows(key.image), queues["image"], self.temperature)
        return (1 - self.dense_share) * image + self.dense_share * dense

    def matches(self, query: Tensor, key: Tensor) -> Tensor:
        """Return, for each cell of ``query`` (B, C, h, w), the index of the matching cell of ``key``: (B, h·w)."""
        first, second = (F.normalize(in_float32(features.detach()).flatten(2), dim=1) for features in (query, key))
        return (first.transpose(1, 2) @ second).argmax(dim=2)

    def new_keys(self, key: Projected) -> dict[str, Tensor]:
        """Return the keys of the images, and the means of the keys of their cells."""
        assert key.image is not None
        return {"image": _rows(key.image), "cells": _rows(in_float32(key.cells).mean(dim=(2, 3), keepdim=True))}


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class PixContrastLoss(_GridLoss):
    """PixContrast: cells of two views are positives if they are close in the image, and negatives otherwise.

    Two cells are close if the distance of their centres is less than ``max_distance`` times the diagonal of the larger
    cell. Each patch is both query and key. Cells without positives are ignored, and the loss of an image without
    positives is 0.
    """

    symmetric: ClassVar[bool] = True
    projector_norm: ClassVar[bool] = True

    temperature: Temperature = 0.3
    max_distance: Positive = 0.7
    """Maximum distance of positives, divided by the diagonal of a cell."""
    hidden: Width = 4096
    """Number of hidden channels of the projector: 4096 as in the official code. The paper says 2048."""
    dim: Width = 256
    momentum: Fraction = 0.99
    """Decay of the momentum encoder in the first iteration."""
    momentum_iter: IterationsOrZero | None = None

    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the cells that have positives, averaged over the images."""
        first, second = (F.normalize(in_float32(view.cells).flatten(2), dim=1) for view in (query, key))
        logits = first.transpose(1, 2) @ second / self.temperature
        positives = self.positives(boxes.to(logits.device), query.cells.shape[-2:])
        lowest = torch.finfo(logits.dtype).min  # the gradient at −∞ would be NaN
        terms = logits.logsumexp(dim=2) - logits.masked_fill(~positives, lowest).logsumexp(dim=2)
        has_positive = positives.any(dim=2)
        return (terms.masked_fill(~has_positive, 0).sum(dim=1) / has_positive.sum(dim=1).clamp(min=1)).mean()

    def positives(self, boxes: Tensor, grid: Sequence[int]) -> Tensor:
        """Return whether cells of the first patch are close to cells of the second patch: (B, h·w, h·w), bool.

        Args:
            boxes: corners of both patches, (B, 2, 4).
            grid: number of rows and columns (h, w) of the grid.
        """
        starts, ends = in_float32(boxes).unsqueeze(2).chunk(2, dim=-1)
        cells = (ends - starts) / boxes.new_tensor(grid)
        indices = torch.meshgrid(*(torch.arange(size, device=boxes.device) for size in grid), indexing="ij")
        centres = starts + (torch.stack(indices, dim=-1).flatten(0, 1) + 0.5) * cells
        diagonal = torch.linalg.vector_norm(cells, dim=-1).amax(dim=1, keepdim=True)
        distances: Tensor = torch.linalg.vector_norm(centres[:, 0, :, None] - centres[:, 1, None], dim=-1)
        close: Tensor = distances / diagonal < self.max_distance
        return close


def _rows(cells: Tensor) -> Tensor:
    """Return the vectors of (B, D, …) as normalized rows (N, D), in at least float32."""
    return F.normalize(in_float32(cells).flatten(2).transpose(1, 2).flatten(0, 1), dim=1)


def _queue_info_nce(queries: Tensor, positives: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the mean of −ln(e^{q·p/τ} / (e^{q·p/τ} + Σ_k e^{q·k/τ})) over the queries q.

    The gradient is computed together with the value for a few rows at a time, so that the N·K logits are never in
    memory together.

    Args:
        queries: normalized queries, (N, D).
        positives: normalized positive of each query, (N, D).
        queue: normalized negatives of all queries, (K, D).
        temperature: τ.
    """
    total, grad = queries.new_zeros(()), torch.zeros_like(queries)
    rows = max(1, _CHUNK // len(queue))
    with torch.no_grad():
        queue = queue.to(queries.dtype)
        for query, positive, part in zip(*(torch.split(x, rows) for x in (queries, positives, grad)), strict=True):
            logits = torch.cat([(query * positive).sum(dim=1, keepdim=True), query @ queue.T], dim=1) / temperature
            normalizer = logits.logsumexp(dim=1, keepdim=True)
            total += (normalizer[:, 0] - logits[:, 0]).sum()
            softmax = logits.sub_(normalizer).exp_()
            part.copy_(((softmax[:, :1] - 1) * positive).addmm_(softmax[:, 1:], queue)).div_(temperature)
    return attach_grad(total / len(queries), [1 / len(queries)], [grad], [queries])


def _same_pixels(boxes: NDArray[Any], count: int, size: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Sample pixels uniformly where two patches overlap, and return their flat indices in both patches, (B, 2, count).

    Args:
        boxes: corners of both patches in the image, (B, 2, 4), in pixels.
        count: number of pixels to sample per image.
        size: height and width (H, W) of a patch.
        rng: random generator.

    Raises:
        ValueError: the two patches of a pair do not overlap.
    """
    starts, ends = boxes[..., :2], boxes[..., 2:]
    first = np.minimum(starts, ends).max(axis=1)
    overlap = (np.maximum(starts, ends).min(axis=1) - first).astype(np.int64)
    if overlap.min() < 1:
        number = int(overlap.min(axis=1).argmin())
        raise ValueError(f"VADeRLoss: expected two patches that overlap, got the boxes {boxes[number].tolist()}.")
    pixels = (first[:, None] + rng.integers(0, overlap[:, None], (len(boxes), count, 2)) + 0.5)[:, None]
    relative = (pixels - starts[:, :, None]) / (ends - starts)[:, :, None]
    positions = np.floor(relative * np.array(size)).astype(np.int64)
    flat: NDArray[np.int64] = positions[..., 0] * size[1] + positions[..., 1]
    return flat
