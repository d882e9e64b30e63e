"""Specifications of samples: the sizes of their tensors, known before any data is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mcir.registry import DATASETS, Section

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class SampleSpec:
    """Sizes of the tensors of a sample.

    Attributes:
        lq_size: (H, W) of the degraded images.
        gt_size: (H, W) of the ground truths and stored negatives; None if a sample has no ground truth.
        negatives: number of stored negatives.
        size_argument: constructor argument that determines the sizes.
    """

    lq_size: Size
    gt_size: Size | None = None
    negatives: int = 0
    size_argument: str = "gt_size"

    @property
    def crop_size(self) -> Size:
        """(H, W) of the crops, which ``size_argument`` determines."""
        return self.gt_size or self.lq_size


def sample_spec(section: Section) -> SampleSpec | None:
    """Return the specification of the samples of a data set without building the data set.

    It is the result of the optional class method ``sample_spec(**arguments)`` of the data set.

    Args:
        section: section of the data set in an option file.

    Returns:
        The specification, or None if images have different sizes or the class has no ``sample_spec``.

    Raises:
        RegistryError: the type of the data set is unknown.
        ArgumentError: the sizes contradict each other.
    """
    class_method: Callable[..., SampleSpec | None] | None = getattr(DATASETS.get(section["type"]), "sample_spec", None)
    arguments = {key: value for key, value in section.items() if key != "type"}
    return None if class_method is None else class_method(**arguments)
