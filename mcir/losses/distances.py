"""Distances between the noise distributions of residuals, for residual contrastive learning (arXiv:2106.10070).

A residual is an image minus the output of the network, (C, H, W). Its values are a sample of the noise; their positions
in the image do not matter. Each distance first describes every residual of a batch by its sorted values, its moments or
its characteristic function, and then compares all pairs of descriptions. No tensor has an element per pair and pixel.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mcir.checks import check_argument, check_choice
from mcir.domains import Epsilon, Positive
from mcir.losses.base import in_float32, without_autocast
from mcir.registry import DISTANCES

_CHUNK = 2**24  # maximum number of elements in the backward pass of EMD; on a GPU, torch needs one per pair and value
_CUTOFF = 8.5  # number of standard deviations beyond which a Gaussian is 0 in float64
_MAX_FREQUENCIES = 2**16
_MAX_STORED_VALUES = 1024  # with more values, the backward pass recomputes cosines and sines instead of storing them


@dataclass(kw_only=True, eq=False)
class Distance(nn.Module, ABC):
    """Base class of distances between residuals. A distance does not depend on the order of the pixels.

    Raises:
        ArgumentError: an argument has a value that the distance does not accept.
    """

    def __post_init__(self) -> None:
        """Initialise the module."""
        super().__init__()

    def adapt_to_scale(self, scale: float) -> None:
        """Adapt the arguments, which are for images in [0, 1], to residuals that are multiplied by ``scale``."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distances (M, N) of all pairs of residuals.

        Args:
            a: residuals, (M, C, H, W).
            b: residuals, (N, C, H, W).

        Raises:
            ValueError: the residuals are not floating-point batches (M, C, H, W), or their sizes differ.
        """
        return self.between(self.describe(a), self.describe(b))

    def describe(self, residuals: Tensor) -> Tensor:
        """Return the descriptions (M, …) of residuals (M, C, H, W), in at least float32.

        Raises:
            ValueError: the residuals are not a floating-point batch (M, C, H, W).
        """
        if residuals.dim() != 4 or not residuals.numel() or not residuals.is_floating_point():
            raise ValueError(
                f"{type(self).__name__}: expected floating-point residuals (M, C, H, W), got {residuals.dtype} "
                f"{tuple(residuals.shape)}."
            )
        with without_autocast(residuals):
            return self._describe(in_float32(residuals))

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distances (M, N) of all pairs of M and N descriptions.

        Raises:
            ValueError: the sizes of the residuals differ.
        """
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(
                f"{type(self).__name__}: expected residuals of the same size, got descriptions of the sizes "
                f"{tuple(a.shape[1:])} and {tuple(b.shape[1:])}."
            )
        with without_autocast(a):
            return self._compare(a, b)

    @abstractmethod
    def _describe(self, residuals: Tensor) -> Tensor: ...

    @abstractmethod
    def _compare(self, a: Tensor, b: Tensor) -> Tensor: ...


@DISTANCES.register()
@dataclass(kw_only=True, eq=False)
class EarthMoversDistance(Distance):
    """The earth mover's (1-Wasserstein) distance: the mean of ``|sort(a) − sort(b)|`` over the n values.

    It is a metric on distributions of values, and ``d(sa + c, sb + c) = |s| d(a, b)``. Each residual is sorted once.
    The sum over the values is computed in parts, and the backward pass recomputes signs instead of storing them.
    """

    channels: Literal["pooled", "separate"] = "pooled"
    """``pooled``: compare all values of a residual together; ``separate``: compare each channel and average the
    distances. The result is at least as large as with ``pooled``."""

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_choice("channels", self.channels, ("pooled", "separate"))

    def _describe(self, residuals: Tensor) -> Tensor:
        values = residuals.flatten(1 if self.channels == "pooled" else 2)
        return values.sort(dim=-1).values.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        width = max(1, _CHUNK // (len(a) * len(b)))
        parts = zip(torch.split(a, width, dim=1), torch.split(b, width, dim=1), strict=True)
        return torch.stack([torch.cdist(x, y, p=1) for x, y in parts]).sum(0) / a.shape[1]


@DISTANCES.register()
@dataclass(kw_only=True, eq=False)
class BhattacharyyaDistance(Distance):
    """The Bhattacharyya distance of Gaussians with the mean μ and the biased (co)variance Σ of the residuals.

    ``⅛ Δμᵀ Σ⁻¹ Δμ + ½ ln(|Σ| / √(|Σ_a| |Σ_b|))`` with ``Σ = (Σ_a + Σ_b) / 2``. It is not a metric: it has no triangle
    inequality and no upper bound. Shifting or scaling both residuals by the same amount does not change it. Moments and
    distances are computed in float64.
    """

    channels: Literal["pooled", "separate", "joint"] = "pooled"
    """``pooled``: one Gaussian for all values; ``separate``: one Gaussian per channel, whose distances are averaged;
    ``joint``: one multivariate Gaussian of the pixels, with the full covariance of the channels."""
    eps: Epsilon = 1e-12
    """Positive number that is added to the variances; a constant residual has variance 0."""

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_choice("channels", self.channels, ("pooled", "separate", "joint"))

    def adapt_to_scale(self, scale: float) -> None:
        """Multiply the added variance by ``scale``²."""
        self.eps *= scale**2

    def _describe(self, residuals: Tensor) -> Tensor:
        """Return the concatenated mean and covariance of G Gaussians in d dimensions, (M, G, d, 1 + d)."""
        count, channels = residuals.shape[:2]
        groups, size = {"pooled": (1, 1), "separate": (channels, 1), "joint": (1, channels)}[self.channels]
        values = residuals.double().reshape(count, groups, size, -1)
        mean = values.mean(-1, keepdim=True)
        centred = values - mean
        covariance = centred @ centred.mT / values.shape[-1]
        return torch.cat([mean, covariance + self.eps * torch.eye(size).to(covariance)], dim=-1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        (mean_a, covariance_a), (mean_b, covariance_b) = ((x[..., :1], x[..., 1:]) for x in (a, b))
        # torch.linalg.cholesky would synchronise with the device and reject values that are not finite
        root_a, root_b = (torch.linalg.cholesky_ex(x).L for x in (covariance_a, covariance_b))
        root = torch.linalg.cholesky_ex((covariance_a[:, None] + covariance_b[None]) / 2).L
        whitened = torch.linalg.solve_triangular(root, mean_a[:, None] - mean_b[None], upper=False)
        volume = _log_diagonal(root) - (_log_diagonal(root_a)[:, None] + _log_diagonal(root_b)[None]) / 2
        distances: Tensor = (whitened.square().sum((-2, -1)) / 8 + volume).mean(-1)
        return distances


@DISTANCES.register()
@dataclass(kw_only=True, eq=False)
class MaximumMeanDiscrepancy(Distance):
    """The squared maximum mean discrepancy of values (Gretton et al., JMLR 2012) with a mixture of Gaussian kernels.

    ``mean k(a, a') + mean k(b, b') − 2 mean k(a, b)``, where ``k(u, v)`` is the mean of ``exp(−(u − v)² / 2s²)`` over
    the bandwidths s.

    A literal implementation evaluates m² kernels per pair of residuals. This one computes the empirical characteristic
    function ``mean exp(iωu)`` of each residual at Q frequencies ω. A Gaussian kernel is a weighted sum of
    ``cos(ω(u − v))`` over an equidistant grid of frequencies (exactly in float64, for values within ±``largest``), so
    the discrepancy is the weighted squared distance of two characteristic functions. Each ω is the sum of a coarse and
    a fine frequency, so ``exp(iωu)`` is a product, and its mean over u is a matrix product.
    """

    bandwidths: Annotated[Sequence[Positive], Len(1, 64)] = (0.01, 0.02, 0.04, 0.08, 0.16)
    """Bandwidths s of the kernels, for images in [0, 1]."""
    samples: Annotated[int, Interval(ge=2, le=2**24)] | None = 1024
    """Number of values of each residual that are compared. They are sampled in every call, without replacement, with
    torch's default generator; null: all values."""
    unbiased: bool = False
    """Whether the terms ``k(u, u)`` are omitted. The estimate is then unbiased and can be negative."""
    largest: Positive = 2.0
    """Maximum absolute value of residuals, for images in [0, 1]; larger values are clamped."""

    coarse: Tensor = field(init=False, repr=False)
    fine: Tensor = field(init=False, repr=False)
    amplitudes: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Compute the frequencies and check their number."""
        super().__post_init__()
        step = 2 * math.pi / (2 * self.largest + _CUTOFF * max(self.bandwidths))
        count = math.ceil(_CUTOFF / min(self.bandwidths) / step) + 1
        expected = f"larger bandwidths or a smaller 'largest' ({count:,} frequencies, at most {_MAX_FREQUENCIES:,})"
        check_argument("bandwidths", list(self.bandwidths), count <= _MAX_FREQUENCIES, expected)
        side = math.ceil(math.sqrt(count))
        numbers = torch.arange(side, dtype=torch.float64)
        frequencies = step * torch.arange(side * side, dtype=torch.float64).view(side, side)
        gaussians = [s * torch.exp(-(frequencies * s).square() / 2) for s in self.bandwidths]
        power = 2 * step / math.sqrt(2 * math.pi) * torch.as_tensor(sum(gaussians) / len(gaussians))
        power[0, 0] /= 2  # every other frequency represents both ω and −ω
        self.register_buffer("coarse", step * side * numbers, persistent=False)
        self.register_buffer("fine", step * numbers, persistent=False)
        self.register_buffer("amplitudes", power.sqrt(), persistent=False)

    def adapt_to_scale(self, scale: float) -> None:
        """Multiply the bandwidths and ``largest`` by ``scale``."""
        self.bandwidths = [scale * bandwidth for bandwidth in self.bandwidths]
        self.largest *= scale
        self.coarse /= scale
        self.fine /= scale

    def _describe(self, residuals: Tensor) -> Tensor:
        """Return ``mean k(a, a')`` and the weighted characteristic function, (M, 1 + 2Q) in float64."""
        values = residuals.flatten(1)
        if self.samples is not None and self.samples < values.shape[1]:
            values = values.gather(1, torch.rand_like(values).topk(self.samples, dim=1, sorted=False).indices)
        clamped = values.clamp(-self.largest, self.largest)
        values = clamped.where(values.isfinite(), values)  # NaN and infinity must not be hidden
        count = values.shape[1]
        parts = torch.split(values, _MAX_STORED_VALUES, dim=1)
        sums = [
            self._cosines_and_sines(part)
            if len(parts) == 1
            else checkpoint(self._cosines_and_sines, part, use_reentrant=False)
            for part in parts
        ]
        weighted = (torch.stack(sums).sum(0).double() / count * self.amplitudes).flatten(1)
        same = weighted.square().sum(1, keepdim=True)
        if self.unbiased:
            same = (count * same - self.amplitudes.square().sum()) / (count - 1)
        return torch.cat([same, weighted], dim=1)

    def _cosines_and_sines(self, values: Tensor) -> Tensor:
        """Return the sums of ``cos(ωu)`` and of ``sin(ωu)`` over the values (M, m) for all ω, (M, 2, √Q, √Q)."""
        coarse, fine = (values[:, :, None] * frequencies.to(values.dtype) for frequencies in (self.coarse, self.fine))
        coarse_cosine, coarse_sine, cosine, sine = coarse.cos().mT, coarse.sin().mT, fine.cos(), fine.sin()
        real = coarse_cosine @ cosine - coarse_sine @ sine
        return torch.stack([real, coarse_sine @ cosine + coarse_cosine @ sine], dim=1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return a[:, :1] + b[:, 0] - 2 * a[:, 1:] @ b[:, 1:].T


def _log_diagonal(roots: Tensor) -> Tensor:
    """Return ½ ln|Σ| for Cholesky factors (…, d, d) of Σ."""
    return roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
