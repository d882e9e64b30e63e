"""The order of samples. It depends only on a seed and a position, so a training can resume at any iteration."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

_BLOCK = 2**16


class SampleIndex(int):
    """Index of an image in the data set, with the position of the sample in an endless stream.

    It is an ordinary integer for data sets that do not use the position.

    Args:
        index: index in the data set.
        position: position in the stream; position and seed determine all random numbers of the sample.
        seed: seed of the stream.
    """

    position: int
    seed: int

    def __new__(cls, index: int, position: int, seed: int) -> SampleIndex:
        """Return an integer with two attributes."""
        sample = super().__new__(cls, index)
        sample.position = position
        sample.seed = seed
        return sample

    def __reduce__(self) -> tuple[type[SampleIndex], tuple[int, int, int]]:
        """Return the class and its arguments, for worker processes."""
        return SampleIndex, (int(self), self.position, self.seed)

    @property
    def index(self) -> int:
        """Index in the data set."""
        return int(self)

    @classmethod
    def of(cls, sample: int | SampleIndex) -> SampleIndex:
        """Return a sample index; for an integer the random numbers of the sample are always the same."""
        return sample if isinstance(sample, SampleIndex) else cls(int(sample), int(sample), 0)

    def generator(self) -> np.random.Generator:
        """Return the random generator of this sample."""
        return np.random.default_rng((self.seed, self.position))


@functools.lru_cache(maxsize=4)
def permutation(length: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of 0 … length−1 in an epoch; its random stream is independent of the samples' streams."""
    return _permutation(length, seed, epoch)


def _permutation(length: int, seed: int, *stream: int) -> npt.NDArray[np.int64]:
    sequence = np.random.SeedSequence(seed, spawn_key=stream)
    return np.random.default_rng(sequence).permutation(length)


@dataclass(eq=False)
class WeightedOrder:
    """An endless order of samples that draws from groups of images with given probabilities.

    Each block of 65,536 positions contains a fixed number of samples of each group, in random order. The samples of a
    group run through permutations of its images, so that all of them are used equally often.

    Args:
        sizes: number of images in each group. The images of a group have successive indices.
        weights: relative probabilities of the groups.
        seed: seed of the order.
    """

    sizes: Sequence[int]
    weights: Sequence[float]
    seed: int

    def __post_init__(self) -> None:
        assert len(self.sizes) == len(self.weights) and min(self.sizes) > 0 and min(self.weights) > 0
        exact = np.array(self.weights, dtype=np.float64) / sum(self.weights) * _BLOCK
        self._counts = np.floor(exact).astype(np.int64)
        remainders = np.argsort(self._counts - exact, kind="stable")
        self._counts[remainders[: _BLOCK - self._counts.sum()]] += 1
        self._starts = np.cumsum([0, *self.sizes])
        self._block = (-1, np.empty(0, np.int64), np.empty(0, np.int64))
        self._permutations: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}

    def index(self, position: int) -> int:
        """Return the index of the image at a position."""
        block, inside = divmod(position, _BLOCK)
        if self._block[0] != block:
            self._block = (block, *self._draw_block(block))
        _, groups, ranks = self._block
        group = int(groups[inside])
        epoch, number = divmod(block * int(self._counts[group]) + int(ranks[inside]), self.sizes[group])
        if self._permutations.get(group, (-1,))[0] != epoch:
            self._permutations[group] = epoch, _permutation(self.sizes[group], self.seed, epoch, group + 1)
        return int(self._starts[group] + self._permutations[group][1][number])

    def _draw_block(self, block: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the group of each position in a block, and the number of earlier positions with this group."""
        groups = np.repeat(np.arange(len(self.sizes)), self._counts)
        groups = groups[_permutation(_BLOCK, self.seed, block, 0)]
        ranks = np.empty(_BLOCK, np.int64)
        for group, number in enumerate(self._counts):
            ranks[groups == group] = np.arange(number)
        return groups, ranks


@dataclass(eq=False)
class EndlessBatches(Sampler[list[SampleIndex]]):
    """The endless batches of one rank, from a given iteration.

    Iteration t of rank r has the positions offset + (t·world_size + r)·batch_size + j, j < batch_size. So the global
    batch of an iteration depends only on its total size. Each epoch is a permutation of all indices; a
    batch may span two epochs. With weights, the order is a :class:`WeightedOrder`.

    Args:
        length: length of the data set.
        batch_size: number of samples of one rank per iteration.
        seed: seed of the order and of every sample, ≥ 0.
        rank: rank of this process.
        world_size: number of processes.
        start: number of iterations that are skipped.
        offset: number of positions that were used before iteration 0 with another batch size.
        group_sizes: number of images in each folder of the data set, if there are weights.
        weights: relative probabilities of the folders. Default: each image is used equally often.
    """

    length: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    start: int = 0
    offset: int = 0
    group_sizes: Sequence[int] = ()
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        self._order = WeightedOrder(self.group_sizes, self.weights, self.seed) if self.weights else None
        assert self.length > 0 and self.batch_size > 0 and self.start >= 0 and self.offset >= 0
        assert 0 <= self.rank < self.world_size

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        iteration = self.start
        while True:
            first = self.offset + (iteration * self.world_size + self.rank) * self.batch_size
            yield [self._sample(position) for position in range(first, first + self.batch_size)]
            iteration += 1

    def _sample(self, position: int) -> SampleIndex:
        if self._order is not None:
            return SampleIndex(self._order.index(position), position, self.seed)
        epoch, number = divmod(position, self.length)
        return SampleIndex(int(permutation(self.length, self.seed, epoch)[number]), position, self.seed)
