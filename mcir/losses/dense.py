"""Dense contrastive losses compare locations within two views of an image instead of whole images.

VADeR (Pinheiro et al., NeurIPS 2020, arXiv:2011.05499), DenseCL (Wang et al., CVPR 2021, arXiv:2011.09157) and
PixContrast (Xie et al., CVPR 2021, arXiv:2011.10043). Each is an InfoNCE, ``−ln(Σ_pos e^{cos/τ} / Σ_all e^{cos/τ})``.
They differ in how locations are matched and in where the negatives come from.

A loss contains no network. It selects the features of both views that are compared (``regions``), the model projects
them (:class:`Projected`), and the loss compares the projections. Its attributes describe the projector, the momentum
encoder and the queues that it needs.

B images, C channels of features, D channels of projections, K rows of a queue.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mcir.losses.base import Comparison, Loss, in_float32, require, require_positive, without_autocast
from mcir.losses.precomputed_grad import attach_grad
from mcir.registry import LOSSES

_CHUNK = 2**24  # largest number of logits against a queue that exist at the same time


class Projected(NamedTuple):
    """One view of B images, as a dense loss compares it.

    Attributes:
        features: features of the backbone at the compared locations, (B, C, h, w).
        cells: projections of these features, (B, D, h, w).
        image: projection of their mean, (B, D, 1, 1), if the loss needs it.
    """

    features: Tensor
    cells: Tensor
    image: Tensor | None = None


@dataclass(kw_only=True, eq=False)
class DenseLoss(Loss, ABC):
    """A dense contrastive loss, with the properties of the networks and queues that it needs."""

    compares: ClassVar[Comparison] = "views"
    symmetric: ClassVar[bool] = False
    """Whether each patch of a pair is the query for the keys of the other; otherwise the first patch is the query."""
    projects_images: ClassVar[bool] = False
    """Whether the mean of an image is also projected, by a projector of its own."""
    projector_norm: ClassVar[bool] = False
    """Whether projectors have a batch normalisation before the ReLU."""
    queues: ClassVar[tuple[str, ...]] = ()
    """Names of the queues of past keys."""

    temperature: float = 0.2
    """τ."""
    hidden: int = 2048
    """Hidden channels of the projector: 1×1 convolution, ReLU, 1×1 convolution."""
    dim: int = 128
    """Output channels D of the projector."""
    momentum: float = 0.999
    """Decay of the momentum encoder of the keys."""
    momentum_iter: int | None = 0
    """Number of iterations in which the momentum rises to 1 along half a cosine; 0: constant momentum; null: all
    iterations of the training."""
    queue_size: int = field(init=False, default=1)

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_positive(temperature=self.temperature, hidden=self.hidden, dim=self.dim, queue_size=self.queue_size)
        require(0 <= self.momentum <= 1, "momentum", "a number from 0 to 1", self.momentum)
        valid = self.momentum_iter is None or self.momentum_iter >= 0
        require(valid, "momentum_iter", "a number of iterations, or 0 for a constant momentum", self.momentum_iter)

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
            ValueError: no such locations exist.
        """

    def forward(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the loss as a scalar, in at least float32; only the projections of the query get gradients.

        Args:
            query: first view.
            key: second view.
            boxes: corners of both views, (B, 2, 4); see :meth:`regions`.
            queues: past keys by the name of the queue, (K, D), of length 1.
        """
        with without_autocast(query.cells):
            image = None if key.image is None else key.image.detach()
            key = Projected(key.features.detach(), key.cells.detach(), image)
            return self.loss_weight * self.compare(query, key, boxes, queues)

    @abstractmethod
    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the loss without its weight; see :meth:`forward`."""

    def enqueued(self, key: Projected) -> dict[str, Tensor]:
        """Return the new rows (N, D), of length 1, of each queue."""
        return {}


@dataclass(kw_only=True, eq=False)
class _GridLoss(DenseLoss):
    """A loss that compares the cells of a grid."""

    grid: int = 16
    """Number of cells along each side."""

    def __post_init__(self) -> None:
        """Check the grid."""
        super().__post_init__()
        require_positive(grid=self.grid)

    def regions(self, query: Tensor, key: Tensor, boxes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the features averaged over each cell of the grid."""
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
    """VADeR: views of the same pixel of the scene are positives, past pixels in a queue are negatives.

    Pixels are sampled at full resolution in the area that the two patches share. There is no official code; the
    defaults are the values reported in the paper.
    """

    queues: ClassVar[tuple[str, ...]] = ("cells",)

    temperature: float = 0.07
    pixels: int = 32
    """Number of pairs of pixels that are drawn in each image, with replacement."""
    momentum_iter: int = 0
    queue_size: int = 65536
    """Number of past pixels in the queue."""

    def __post_init__(self) -> None:
        """Check the number of pixels."""
        super().__post_init__()
        require_positive(pixels=self.pixels)

    def regions(self, query: Tensor, key: Tensor, boxes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the features (B, C, pixels, 1) of pixels drawn where the patches overlap."""
        indices = torch.from_numpy(_same_pixels(boxes.cpu().double().numpy(), self.pixels, query.shape[-2:], rng))
        first, second = (
            view.flatten(2).gather(2, index.to(view.device)[:, None].expand(-1, view.shape[1], -1))[..., None]
            for view, index in zip((query, key), indices.unbind(1), strict=True)
        )
        return in_float32(first), in_float32(second)

    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over all sampled pixels."""
        return _queue_info_nce(_rows(query.cells), _rows(key.cells), queues["cells"], self.temperature)

    def enqueued(self, key: Projected) -> dict[str, Tensor]:
        """Return all sampled pixels."""
        return {"cells": _rows(key.cells)}


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class DenseCLLoss(_GridLoss):
    """DenseCL: ``(1 − share)·L_image + share·L_dense``, both against queues of past images.

    The positive of a cell is the cell of the other view with the most similar backbone features. Its negatives are the
    means of the projected cells of past images.
    """

    projects_images: ClassVar[bool] = True
    queues: ClassVar[tuple[str, ...]] = ("image", "cells")

    dense_share: float = 0.5
    """Weight of the loss between cells; λ in the paper."""
    momentum_iter: int = 0
    queue_size: int = 65536
    """Number of past images in each queue."""

    def __post_init__(self) -> None:
        """Check the share."""
        super().__post_init__()
        require(0 <= self.dense_share <= 1, "dense_share", "a number from 0 to 1", self.dense_share)

    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the mean over all images and the mean over all cells."""
        assert query.image is not None and key.image is not None
        indices = self.matches(query.features, key.features)[:, None].expand(-1, key.cells.shape[1], -1)
        matched = key.cells.flatten(2).gather(2, indices)
        dense = _queue_info_nce(_rows(query.cells), _rows(matched), queues["cells"], self.temperature)
        image = _queue_info_nce(_rows(query.image), _rows(key.image), queues["image"], self.temperature)
        return (1 - self.dense_share) * image + self.dense_share * dense

    def matches(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the index of the cell of ``key`` (B, C, h, w) that matches each cell of ``query``: (B, h·w)."""
        first, second = (F.normalize(in_float32(features.detach()).flatten(2), dim=1) for features in (query, key))
        return (first.transpose(1, 2) @ second).argmax(dim=2)

    def enqueued(self, key: Projected) -> dict[str, Tensor]:
        """Return the images and the means of their cells."""
        assert key.image is not None
        return {"image": _rows(key.image), "cells": _rows(in_float32(key.cells).mean(dim=(2, 3), keepdim=True))}


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class PixContrastLoss(_GridLoss):
    """PixContrast: cells of two views are positives if they are close in the image, and negatives otherwise.

    Cells are close if the distance of their centres is below ``max_distance`` diagonals of the larger cell. Each patch
    is both query and key. Cells without a positive are ignored; an image without any positive has loss 0.
    """

    symmetric: ClassVar[bool] = True
    projector_norm: ClassVar[bool] = True

    temperature: float = 0.3
    max_distance: float = 0.7
    """Largest distance of positives, in diagonals of a cell."""
    hidden: int = 4096
    """Hidden channels of the projector; the official code has 4096, the text of the paper 2048."""
    dim: int = 256
    momentum: float = 0.99
    """Decay of the momentum encoder at the first iteration."""
    momentum_iter: int | None = None

    def __post_init__(self) -> None:
        """Check the distance."""
        super().__post_init__()
        require_positive(max_distance=self.max_distance)

    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the cells of an image that have positives, averaged over the images."""
        first, second = (F.normalize(in_float32(view.cells).flatten(2), dim=1) for view in (query, key))
        logits = first.transpose(1, 2) @ second / self.temperature
        positives = self.positives(boxes.to(logits.device), query.cells.shape[-2:])
        lowest = torch.finfo(logits.dtype).min  # the derivative at −∞ would be NaN
        terms = logits.logsumexp(dim=2) - logits.masked_fill(~positives, lowest).logsumexp(dim=2)
        counted = positives.any(dim=2)
        return (terms.masked_fill(~counted, 0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)).mean()

    def positives(self, boxes: Tensor, grid: Sequence[int]) -> Tensor:
        """Return which cells of the first and of the second patch are close: (B, h·w, h·w), boolean.

        Args:
            boxes: corners of both patches, (B, 2, 4).
            grid: rows and columns (h, w) of the grid.
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
    """Return the vectors of (B, D, …) as rows (N, D) of length 1, in at least float32."""
    return F.normalize(in_float32(cells).flatten(2).transpose(1, 2).flatten(0, 1), dim=1)


def _queue_info_nce(queries: Tensor, positives: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the mean of −ln(e^{q·p/τ} / (e^{q·p/τ} + Σ_k e^{q·k/τ})) over the queries q.

    The derivative is computed together with the value, some rows at a time, so the N·K logits never exist at once.

    Args:
        queries: queries, (N, D), of length 1.
        positives: positive of each query, (N, D), of length 1.
        queue: negatives of all queries, (K, D), of length 1.
        temperature: τ.
    """
    total, grad = queries.new_zeros(()), torch.zeros_like(queries)
    rows = max(1, _CHUNK // len(queue))
    with torch.no_grad():
        queue = queue.to(queries.dtype)
        for query, positive, part in zip(*(torch.split(x, rows) for x in (queries, positives, grad)), strict=True):
            logits = torch.cat([(query * positive).sum(dim=1, keepdim=True), query @ queue.T], dim=1) / temperature
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            total += (normaliser[:, 0] - logits[:, 0]).sum()
            softmax = logits.sub_(normaliser).exp_()
            part.copy_(((softmax[:, :1] - 1) * positive).addmm_(softmax[:, 1:], queue)).div_(temperature)
    return attach_grad(total / len(queries), [1 / len(queries)], [grad], [queries])


def _same_pixels(boxes: NDArray[Any], count: int, size: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the flat indices (B, 2, count), in both patches, of pixels drawn uniformly in their overlap.

    Args:
        boxes: corners of both patches in the image, (B, 2, 4), in pixels.
        count: number of pixels to draw in each image.
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
