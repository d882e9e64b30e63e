"""Distances between the distributions of two residuals, as residual contrastive learning compares them.

"Residual Contrastive Learning for Image Reconstruction", arXiv:2106.10070 (IJCAI 2022). A residual is an image minus
what a network makes of it, (C, H, W); its values are a sample of the noise, and where they stand in the image does not
matter. Each distance first *describes* every residual of a batch once (by its sorted values, its moments, the waves of
its values) and then compares all pairs of descriptions. None ever holds a number for each pair and pixel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mcir.losses.pixel import in_float32
from mcir.registry import DISTANCES

_BUDGET = 2**24
"""Numbers that the backward pass of EMD may hold at a time; on a GPU torch wants one for each pair and value."""
_REACH = 8.5
"""Standard deviations from which on a Gaussian is 0 in float64."""
_MOST_WAVES = 2**16
_AT_ONCE = 1024
"""Values of a residual whose waves are kept for the backward pass; of more they are computed again there."""


class Distance(nn.Module, ABC):
    """A distance between residuals that does not depend on the order of their pixels."""

    largest: float = math.inf
    """Values beyond ± this count as ± this."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distances (M, N) of residuals (M, C, H, W) and (N, C, H, W).

        Raises:
            ValueError: the residuals are no such batches, or differ in their size.
        """
        return self.between(self.describe(a), self.describe(b))

    def describe(self, residuals: Tensor) -> Tensor:
        """Return what the distance has to know of residuals (M, C, H, W): a tensor (M, …) in float32 or more.

        Raises:
            ValueError: it is no such batch.
        """
        if residuals.dim() != 4 or not residuals.numel() or not residuals.is_floating_point():
            raise ValueError(
                f"{type(self).__name__}: residuals are floating-point numbers (M, C, H, W), "
                f"not {residuals.dtype} {tuple(residuals.shape)}."
            )
        with _without_autocast(residuals.device):
            return self._described(in_float32(residuals))

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distances (M, N) of all pairs of M and N descriptions, in their precision.

        Raises:
            ValueError: they are of residuals of different sizes.
        """
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(
                f"{type(self).__name__} compares residuals of one size; the descriptions of these are "
                f"{tuple(a.shape[1:])} and {tuple(b.shape[1:])}."
            )
        with _without_autocast(a.device):
            return self._compared(a, b)

    @abstractmethod
    def _described(self, residuals: Tensor) -> Tensor: ...

    @abstractmethod
    def _compared(self, a: Tensor, b: Tensor) -> Tensor: ...


@DISTANCES.register()
class EarthMoversDistance(Distance):
    """The earth mover's (1-Wasserstein) distance: the mean of ``|sort(a) − sort(b)|`` over the n values.

    A metric on distributions of values; it moves with them and grows as they do: ``d(sa + c, sb + c) = |s| d(a, b)``.
    Every residual is sorted once. The differences of all pairs are summed up as they come, a part of the values at a
    time; the backward pass takes their signs again rather than keep them.

    Args:
        channels: ``pooled`` compares all values of a residual at once, ``separate`` channel by channel (and takes the
            mean, which is never less).

    Raises:
        ValueError: an unknown way.
    """

    def __init__(self, channels: Literal["pooled", "separate"] = "pooled") -> None:
        super().__init__()
        _check_channels(self, channels, ("pooled", "separate"))
        self.channels = channels

    def _described(self, residuals: Tensor) -> Tensor:
        values = residuals.flatten(1 if self.channels == "pooled" else 2)
        return values.sort(dim=-1).values.flatten(1)

    def _compared(self, a: Tensor, b: Tensor) -> Tensor:
        width = max(1, _BUDGET // (len(a) * len(b)))
        parts = zip(torch.split(a, width, dim=1), torch.split(b, width, dim=1), strict=True)
        return torch.stack([torch.cdist(x, y, p=1) for x, y in parts]).sum(0) / a.shape[1]


@DISTANCES.register()
class BhattacharyyaDistance(Distance):
    """The Bhattacharyya distance of Gaussians that have the residuals' mean μ and (co)variance Σ, divided by n.

    ``⅛ Δμᵀ Σ⁻¹ Δμ + ½ ln(|Σ| / √(|Σ_a| |Σ_b|))`` with ``Σ = (Σ_a + Σ_b) / 2``. No metric: it has no triangle
    inequality and no upper bound, and does not change when both residuals are moved or scaled alike. Moments and
    distances are in float64; they are few.

    Args:
        channels: one Gaussian of all values (``pooled``), one for each channel and the mean of their distances
            (``separate``), or one of the pixels as vectors with the full covariance of the channels (``joint``).
        eps: what is added to the variances, above 0; a residual that is the same everywhere has none.

    Raises:
        ValueError: an unknown way, or an ``eps`` that is not above 0 and finite.
    """

    def __init__(self, channels: Literal["pooled", "separate", "joint"] = "pooled", eps: float = 1e-12) -> None:
        super().__init__()
        _check_channels(self, channels, ("pooled", "separate", "joint"))
        if not 0 < eps < math.inf:
            raise ValueError(f"BhattacharyyaDistance: eps is a finite number above 0, not {eps!r}.")
        self.channels = channels
        self.eps = eps

    def _described(self, residuals: Tensor) -> Tensor:
        """Return (M, G, d, 1 + d): of each of G Gaussians of d dimensions the mean, beside the covariance."""
        count, colours = residuals.shape[:2]
        groups, size = {"pooled": (1, 1), "separate": (colours, 1), "joint": (1, colours)}[self.channels]
        values = residuals.double().reshape(count, groups, size, -1)
        mean = values.mean(-1, keepdim=True)
        rest = values - mean
        covariance = rest @ rest.mT / values.shape[-1]
        return torch.cat([mean, covariance + self.eps * torch.eye(size).to(covariance)], dim=-1)

    def _compared(self, a: Tensor, b: Tensor) -> Tensor:
        (mean_a, of_a), (mean_b, of_b) = ((each[..., :1], each[..., 1:]) for each in (a, b))
        # not `cholesky`, which asks the device and refuses what is not finite
        root_a, root_b = (torch.linalg.cholesky_ex(each).L for each in (of_a, of_b))
        root = torch.linalg.cholesky_ex((of_a[:, None] + of_b[None]) / 2).L
        apart = torch.linalg.solve_triangular(root, mean_a[:, None] - mean_b[None], upper=False)
        volume = _log_diagonal(root) - (_log_diagonal(root_a)[:, None] + _log_diagonal(root_b)[None]) / 2
        distances: Tensor = (apart.square().sum((-2, -1)) / 8 + volume).mean(-1)
        return distances


@DISTANCES.register()
class MaximumMeanDiscrepancy(Distance):
    """The squared maximum mean discrepancy of the values (Gretton et al., JMLR 2012) under a mixture of Gaussians.

    ``mean k(a, a') + mean k(b, b') − 2 mean k(a, b)`` with ``k(u, v)`` the mean over bandwidths s of
    ``exp(−(u − v)² / 2s²)``. Instead of m² kernels for each pair there are Q waves for each residual: on a grid of
    frequencies a Gaussian is a sum of cosines, exact to the last digits of float64 as long as values stay in
    ±``largest``, so that the distance is the squared distance of the mean waves. A wave is the product of a coarse and
    a fine one, and all means of products are one product of matrices.

    Args:
        bandwidths: s, in the unit of the residuals; all count alike. The defaults are for images in [0, 1].
        samples: how many values of each residual are compared, drawn anew each time, without repetition and on their
            own for each residual, from torch's generator (whose state a checkpoint of a run holds); null: all of them.
        unbiased: leave out the terms ``k(u, u)``. The distance is then right in the mean, and may be below 0.
        largest: values beyond ±``largest`` count as ±``largest``; what is not finite makes the distance NaN.

    Raises:
        ValueError: no bandwidth, a number that is not finite and above 0, fewer than two samples, or a smallest
            bandwidth so far below ``largest`` that more than 65,536 waves were needed.
    """

    coarse: Tensor
    fine: Tensor
    amplitudes: Tensor

    def __init__(
        self,
        bandwidths: Sequence[float] = (0.01, 0.02, 0.04, 0.08, 0.16),
        samples: int | None = 1024,
        unbiased: bool = False,
        largest: float = 2.0,
    ) -> None:
        super().__init__()
        if not bandwidths or not all(0 < number < math.inf for number in (*bandwidths, largest)):
            raise ValueError(
                "MaximumMeanDiscrepancy: bandwidths (one at least) and largest are finite numbers above 0, "
                f"not {list(bandwidths)!r} and {largest!r}."
            )
        if samples is not None and samples < 2:
            raise ValueError(f"MaximumMeanDiscrepancy: samples is at least 2, or null for all values, not {samples!r}.")
        step = 2 * math.pi / (2 * largest + _REACH * max(bandwidths))
        waves = math.ceil(_REACH / min(bandwidths) / step) + 1
        if waves > _MOST_WAVES:
            raise ValueError(
                f"MaximumMeanDiscrepancy: a bandwidth of {min(bandwidths)!r} over values up to ±{largest!r} takes "
                f"{waves:,} waves, and {_MOST_WAVES:,} are the limit: make largest smaller or the bandwidth larger."
            )
        self.samples = samples
        self.unbiased = unbiased
        side = math.ceil(math.sqrt(waves))
        numbers = torch.arange(side, dtype=torch.float64)
        frequencies = step * torch.arange(side * side, dtype=torch.float64).view(side, side)
        spectrum = sum(s * torch.exp(-(frequencies * s).square() / 2) for s in bandwidths) / len(bandwidths)
        power = 2 * step / math.sqrt(2 * math.pi) * torch.as_tensor(spectrum)
        power[0, 0] /= 2  # every other wave stands for two, of ±frequency
        self.largest = largest
        self.register_buffer("coarse", step * side * numbers, persistent=False)
        self.register_buffer("fine", step * numbers, persistent=False)
        self.register_buffer("amplitudes", power.sqrt(), persistent=False)

    def _described(self, residuals: Tensor) -> Tensor:
        """Return (M, 1 + 2Q) in float64: ``mean k(a, a')``, and the mean waves."""
        values = residuals.flatten(1)
        if self.samples is not None and self.samples < values.shape[1]:
            values = values.gather(1, torch.rand_like(values).topk(self.samples, dim=1, sorted=False).indices)
        values = values.where(~values.isfinite(), values.clamp(-self.largest, self.largest))
        count = values.shape[1]
        parts = torch.split(values, _AT_ONCE, dim=1)
        sums = [
            self._waves(part) if len(parts) == 1 else checkpoint(self._waves, part, use_reentrant=False)
            for part in parts
        ]
        cosines, sines = (torch.stack(sums).sum(0).double() / count).unbind(1)
        waves = (torch.stack([cosines, sines], dim=1) * self.amplitudes).flatten(1)
        same = waves.square().sum(1, keepdim=True)
        if self.unbiased:
            same = (count * same - self.amplitudes.square().sum()) / (count - 1)
        return torch.cat([same, waves], dim=1)

    def _waves(self, values: Tensor) -> Tensor:
        """Return (M, 2, √Q, √Q): sums of cosines and of sines of the values (M, m) at all frequencies."""
        steep, flat = (values[:, :, None] * each.to(values.dtype) for each in (self.coarse, self.fine))
        steep_cosine, steep_sine, cosine, sine = steep.cos().mT, steep.sin().mT, flat.cos(), flat.sin()
        real = steep_cosine @ cosine - steep_sine @ sine
        return torch.stack([real, steep_sine @ cosine + steep_cosine @ sine], dim=1)

    def _compared(self, a: Tensor, b: Tensor) -> Tensor:
        return a[:, :1] + b[:, 0] - 2 * a[:, 1:] @ b[:, 1:].T


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which sums are in full precision; the meta device, where nothing is summed, has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _check_channels(distance: Distance, channels: str, known: Sequence[str]) -> None:
    if channels not in known:
        ways = ", ".join(f"'{way}'" for way in known)
        raise ValueError(f"{type(distance).__name__}: channels is one of {ways}, not {channels!r}.")


def _log_diagonal(roots: Tensor) -> Tensor:
    """Return ½ ln|Σ| of triangular roots (…, d, d)."""
    return roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
