"""Dense contrastive losses: places within two views of an image are compared, rather than whole images.

VADeR (Pinheiro et al., NeurIPS 2020, arXiv:2011.05499), DenseCL (Wang et al., CVPR 2021, arXiv:2011.09157) and
PixContrast (Xie et al., CVPR 2021, arXiv:2011.10043). Each is an InfoNCE, ``−ln(Σ_pos e^{cos/τ} / Σ_all e^{cos/τ})``;
they differ in which places belong together, and where the negatives come from.

A loss knows no network. It picks the places (``regions``) from the features of both views, somebody projects them
(:class:`Projected`), and it compares the projections. What it needs for that, projector, momentum encoder and queues,
it states: see :class:`DenseLoss`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.losses.pixel import in_float32
from mcir.losses.precomputed_grad import with_slopes
from mcir.registry import LOSSES

_CHUNK = 2**24  # logits against a queue that exist at a time


class Projected(NamedTuple):
    """What a dense loss compares of the same view of B images.

    Attributes:
        features: of the backbone at the places that are compared, (B, C, h, w).
        cells: their projections (B, D, h, w).
        image: the projection of their mean (B, D, 1, 1), where the loss asks for it.
    """

    features: Tensor
    cells: Tensor
    image: Tensor | None = None


class DenseLoss(nn.Module, ABC):
    """What the dense contrastive losses share, and what they tell of the networks and queues that they need.

    Args:
        temperature: τ.
        hidden: channels within the projector, a 1×1 convolution, ReLU and a 1×1 convolution.
        dim: D, its channels out.
        momentum: share of its past that the key encoder keeps at each iteration.
        momentum_iter: iterations in which ``momentum`` rises to 1 by half a cosine; 0: it stays; None: those of the
            training.
        loss_weight: factor of the loss.
        queue_size: K, rows of each queue.

    Raises:
        ValueError: a number that is out of its range.
    """

    symmetric: ClassVar[bool] = False
    """Whether each patch of a pair is a query for the other one's keys; otherwise the first patch is the query."""
    projects_images: ClassVar[bool] = False
    """Whether the mean of an image is projected, too, by a projector of its own."""
    projector_norm: ClassVar[bool] = False
    """Whether projectors have a batch normalisation before the ReLU."""
    queues: ClassVar[tuple[str, ...]] = ()
    """Names of the queues of past keys."""

    def __init__(
        self,
        temperature: float,
        hidden: int,
        dim: int,
        momentum: float,
        momentum_iter: int | None,
        loss_weight: float,
        queue_size: int = 1,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            self._refuse(f"temperature is a finite number above 0, not {temperature!r}")
        if not math.isfinite(loss_weight):
            self._refuse(f"loss_weight is a finite number, not {loss_weight!r}")
        if not 0 <= momentum <= 1:
            self._refuse(f"momentum is a share between 0 and 1, not {momentum!r}")
        if momentum_iter is not None and momentum_iter < 0:
            self._refuse(
                f"momentum_iter is a number of iterations, or 0 for a momentum that stays, not {momentum_iter}"
            )
        self._require_positive(hidden=hidden, dim=dim, queue_size=queue_size)
        self.temperature = temperature
        self.hidden = hidden
        self.dim = dim
        self.momentum = momentum
        self.momentum_iter = momentum_iter
        self.loss_weight = loss_weight
        self.queue_size = queue_size

    @abstractmethod
    def regions(self, query: Tensor, key: Tensor, boxes: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the features (B, C, h, w) of both views at the places that are compared, in at least float32.

        Args:
            query: features (B, C, H, W) of the queries.
            key: those of the keys.
            boxes: of both views (B, 2, 4): top, left, bottom, right in pixels of the image; for a view that is flipped,
                the first two or the second two change places.
            draw: where random numbers come from.

        Raises:
            ValueError: there are no such places.
        """

    def forward(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the loss as a scalar, in at least float32; it has a gradient to the query's projections alone.

        Args:
            query: the first view.
            key: the second view.
            boxes: of both (B, 2, 4).
            queues: past keys (K, D) of length 1 by the queue's name.
        """
        kind = "cpu" if query.cells.is_meta else query.cells.device.type  # autocast knows no meta device
        with torch.autocast(kind, enabled=False):
            image = None if key.image is None else key.image.detach()
            key = Projected(key.features.detach(), key.cells.detach(), image)
            return self.loss_weight * self.compare(query, key, boxes, queues)

    @abstractmethod
    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the loss without its weight; see :meth:`forward`."""

    def enqueued(self, key: Projected) -> dict[str, Tensor]:
        """Return the rows (N, D) of length 1 that keys bring to each queue."""
        return {}

    def _refuse(self, message: str) -> None:
        raise ValueError(f"{type(self).__name__}: {message}.")

    def _require_positive(self, **counts: int) -> None:
        for name, count in counts.items():
            if count < 1:
                self._refuse(f"{name} is at least 1, not {count}")


class _GridLoss(DenseLoss):
    """A loss that compares the cells of a grid."""

    grid: int

    def regions(self, query: Tensor, key: Tensor, boxes: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the features averaged over each cell of the grid."""
        if min(query.shape[-2:]) < self.grid:
            height, width = query.shape[-2:]
            self._refuse(
                f"patches of {height}×{width} have no grid of {self.grid}×{self.grid} cells; set a smaller 'grid'"
            )
        pooled = (F.adaptive_avg_pool2d(in_float32(view), self.grid) for view in (query, key))
        return next(pooled), next(pooled)


@LOSSES.register()
class VADeRLoss(DenseLoss):
    """VADeR: a pixel and the same pixel of the scene in another view belong together, against a memory of past pixels.

    Pixels are sampled in the area that the two patches share, at full resolution. There is no official code; the
    numbers are those that the paper is reported to have.

    Args:
        temperature: τ.
        pixels: pairs of pixels that are drawn in each image, with replacement.
        hidden: channels within the projector.
        dim: its channels out.
        momentum: share of its past that the key encoder keeps at each iteration.
        momentum_iter: iterations in which ``momentum`` rises to 1 by half a cosine; 0: it stays.
        queue_size: past pixels that are negatives.
        loss_weight: factor of the loss.

    Raises:
        ValueError: a number that is out of its range.
    """

    queues = ("cells",)

    def __init__(
        self,
        temperature: float = 0.07,
        pixels: int = 32,
        hidden: int = 2048,
        dim: int = 128,
        momentum: float = 0.999,
        momentum_iter: int = 0,
        queue_size: int = 65536,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(temperature, hidden, dim, momentum, momentum_iter, loss_weight, queue_size)
        self._require_positive(pixels=pixels)
        self.pixels = pixels

    def regions(self, query: Tensor, key: Tensor, boxes: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the features (B, C, pixels, 1) of pixels that are drawn where the patches overlap."""
        places = torch.from_numpy(_same_pixels(boxes.cpu().double().numpy(), self.pixels, query.shape[-2:], draw))
        first, second = (
            view.flatten(2).gather(2, index.to(view.device)[:, None].expand(-1, view.shape[1], -1))[..., None]
            for view, index in zip((query, key), places.unbind(1), strict=True)
        )
        return in_float32(first), in_float32(second)

    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over all sampled pixels."""
        return _against_queue(_rows(query.cells), _rows(key.cells), queues["cells"], self.temperature)

    def enqueued(self, key: Projected) -> dict[str, Tensor]:
        """Return all sampled pixels."""
        return {"cells": _rows(key.cells)}


@LOSSES.register()
class DenseCLLoss(_GridLoss):
    """DenseCL: ``(1 − share)·L_image + share·L_dense``, both against queues of past images.

    A cell belongs to that cell of the other view whose backbone features are most like its own. The negatives of cells
    are the means of the projected cells of past images.

    Args:
        temperature: τ, of both.
        dense_share: share of the loss between cells, the paper's λ.
        grid: cells along a side.
        hidden: channels within the projectors.
        dim: their channels out.
        momentum: share of its past that the key encoder keeps at each iteration.
        momentum_iter: iterations in which ``momentum`` rises to 1 by half a cosine; 0: it stays.
        queue_size: past images that are negatives.
        loss_weight: factor of the loss.

    Raises:
        ValueError: a number that is out of its range.
    """

    projects_images = True
    queues = ("image", "cells")

    def __init__(
        self,
        temperature: float = 0.2,
        dense_share: float = 0.5,
        grid: int = 16,
        hidden: int = 2048,
        dim: int = 128,
        momentum: float = 0.999,
        momentum_iter: int = 0,
        queue_size: int = 65536,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(temperature, hidden, dim, momentum, momentum_iter, loss_weight, queue_size)
        self._require_positive(grid=grid)
        if not 0 <= dense_share <= 1:
            self._refuse(f"dense_share is a share between 0 and 1, not {dense_share!r}")
        self.dense_share = dense_share
        self.grid = grid

    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over all images and that over all cells, weighted."""
        assert query.image is not None and key.image is not None
        places = self.matches(query.features, key.features)[:, None].expand(-1, key.cells.shape[1], -1)
        matched = key.cells.flatten(2).gather(2, places)
        dense = _against_queue(_rows(query.cells), _rows(matched), queues["cells"], self.temperature)
        image = _against_queue(_rows(query.image), _rows(key.image), queues["image"], self.temperature)
        return (1 - self.dense_share) * image + self.dense_share * dense

    def matches(self, query: Tensor, key: Tensor) -> Tensor:
        """Return for each cell of ``query`` (B, C, h, w) the number of the cell of ``key`` that belongs to it."""
        first, second = (F.normalize(in_float32(features.detach()).flatten(2), dim=1) for features in (query, key))
        return (first.transpose(1, 2) @ second).argmax(dim=2)

    def enqueued(self, key: Projected) -> dict[str, Tensor]:
        """Return the images and the means of their cells."""
        assert key.image is not None
        return {"image": _rows(key.image), "cells": _rows(in_float32(key.cells).mean(dim=(2, 3), keepdim=True))}


@LOSSES.register()
class PixContrastLoss(_GridLoss):
    """PixContrast: cells belong together when they lie close in the image; the others of the other view are negatives.

    Close is: the distance of their centres is below ``max_distance`` diagonals of the larger cell. Each patch is query
    and key. Cells without a partner do not count; an image without any has the loss 0.

    Args:
        momentum_iter: iterations in which ``momentum`` rises to 1 by half a cosine; null: those of the training; 0: it
            stays.
        temperature: τ.
        max_distance: the threshold, in diagonals.
        grid: cells along a side.
        hidden: channels within the projector; 4096 is that of the code, the paper's text has 2048.
        dim: its channels out.
        momentum: share of its past that the key encoder keeps at the first iteration.
        loss_weight: factor of the loss.

    Raises:
        ValueError: a number that is out of its range.
    """

    symmetric = True
    projector_norm = True

    def __init__(
        self,
        momentum_iter: int | None = None,
        temperature: float = 0.3,
        max_distance: float = 0.7,
        grid: int = 16,
        hidden: int = 4096,
        dim: int = 256,
        momentum: float = 0.99,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(temperature, hidden, dim, momentum, momentum_iter, loss_weight)
        self._require_positive(grid=grid)
        if not 0 < max_distance < math.inf:
            self._refuse(f"max_distance is a finite number above 0, not {max_distance!r}")
        self.max_distance = max_distance
        self.grid = grid

    def compare(self, query: Projected, key: Projected, boxes: Tensor, queues: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the cells of an image that have partners, then over the images."""
        first, second = (F.normalize(in_float32(view.cells).flatten(2), dim=1) for view in (query, key))
        logits = first.transpose(1, 2) @ second / self.temperature
        together = self.together(boxes.to(logits.device), query.cells.shape[-2:])
        least = torch.finfo(logits.dtype).min  # not −∞, whose derivative is none
        terms = logits.logsumexp(dim=2) - logits.masked_fill(~together, least).logsumexp(dim=2)
        counts = together.any(dim=2)
        return (terms.masked_fill(~counts, 0).sum(dim=1) / counts.sum(dim=1).clamp(min=1)).mean()

    def together(self, boxes: Tensor, sides: Sequence[int]) -> Tensor:
        """Return which of the h·w cells of the first patch and of the second lie close: (B, h·w, h·w).

        Args:
            boxes: of both patches (B, 2, 4).
            sides: (h, w), of the grid.
        """
        begins, ends = in_float32(boxes).unsqueeze(2).chunk(2, dim=-1)
        cells = (ends - begins) / boxes.new_tensor(sides)
        numbers = torch.meshgrid(*(torch.arange(side, device=boxes.device) for side in sides), indexing="ij")
        centres = begins + (torch.stack(numbers, dim=-1).flatten(0, 1) + 0.5) * cells
        diagonal = torch.linalg.vector_norm(cells, dim=-1).amax(dim=1, keepdim=True)
        distances: Tensor = torch.linalg.vector_norm(centres[:, 0, :, None] - centres[:, 1, None], dim=-1)
        close: Tensor = distances / diagonal < self.max_distance
        return close


def _rows(cells: Tensor) -> Tensor:
    """Return the vectors of (B, D, …) as rows (N, D) of length 1, in at least float32."""
    return F.normalize(in_float32(cells).flatten(2).transpose(1, 2).flatten(0, 1), dim=1)


def _against_queue(queries: Tensor, positives: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the mean of −ln(e^{q·p/τ} / (e^{q·p/τ} + Σ_k e^{q·k/τ})) over the rows q of the queries.

    Its derivative is computed with it, a part of the rows at a time, so that the N·K logits never exist at once.

    Args:
        queries: (N, D) of length 1.
        positives: the positive of each, alike.
        queue: the negatives of all, (K, D).
        temperature: τ.
    """
    total, slope = queries.new_zeros(()), torch.zeros_like(queries)
    rows = max(1, _CHUNK // len(queue))
    with torch.no_grad():
        queue = queue.to(queries.dtype)
        for query, positive, into in zip(*(torch.split(x, rows) for x in (queries, positives, slope)), strict=True):
            logits = torch.cat([(query * positive).sum(dim=1, keepdim=True), query @ queue.T], dim=1) / temperature
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            total += (normaliser[:, 0] - logits[:, 0]).sum()
            shares = logits.sub_(normaliser).exp_()
            into.copy_(((shares[:, :1] - 1) * positive).addmm_(shares[:, 1:], queue)).div_(temperature)
    return with_slopes(total / len(queries), [1 / len(queries)], [slope], [queries])


def _same_pixels(boxes: NDArray[Any], count: int, sides: Sequence[int], draw: np.random.Generator) -> NDArray[np.int64]:
    """Return where pixels that are drawn in the overlap of two patches lie in each of them, (B, 2, count), row by row.

    Args:
        boxes: of both patches (B, 2, 4) in pixels of the image.
        count: how many are drawn, each pixel of the overlap as likely as any other.
        sides: (H, W) of a patch.
        draw: where random numbers come from.

    Raises:
        ValueError: the patches of a pair share no pixel.
    """
    begins, ends = boxes[..., :2], boxes[..., 2:]
    first = np.minimum(begins, ends).max(axis=1)
    shared = (np.maximum(begins, ends).min(axis=1) - first).astype(np.int64)
    if shared.min() < 1:
        number = int(shared.min(axis=1).argmin())
        raise ValueError(f"VADeRLoss: the two patches of a pair share no pixel: {boxes[number].tolist()}.")
    pixels = (first[:, None] + draw.integers(0, shared[:, None], (len(boxes), count, 2)) + 0.5)[:, None]
    relative = (pixels - begins[:, :, None]) / (ends - begins)[:, :, None]
    places = np.floor(relative * np.array(sides)).astype(np.int64)
    flat: NDArray[np.int64] = places[..., 0] * sides[1] + places[..., 1]
    return flat
