"""The order of samples. It depends only on a seed and a position, so a training can resume at any iteration."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


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
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.default_rng(sequence).permutation(length)


@dataclass(eq=False)
class EndlessBatches(Sampler[list[SampleIndex]]):
    """The endless batches of one rank, from a given iteration.

    Iteration t of rank r has the positions offset + (t·world_size + r)·batch_size + j, j < batch_size. So the global
    batch of an iteration depends only on its total size. Each epoch is a permutation of all indices; a
    batch may span two epochs.

    Args:
        length: length of the data set.
        batch_size: number of samples of one rank per iteration.
        seed: seed of the order and of every sample, ≥ 0.
        rank: rank of this process.
        world_size: number of processes.
        start: number of iterations that are skipped.
        offset: number of positions that were used before iteration 0 with another batch size.
    """

    length: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    start: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        assert self.length > 0 and self.batch_size > 0 and self.start >= 0 and self.offset >= 0
        assert 0 <= self.rank < self.world_size

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        iteration = self.start
        while True:
            first = self.offset + (iteration * self.world_size + self.rank) * self.batch_size
            yield [self._sample(position) for position in range(first, first + self.batch_size)]
            iteration += 1

    def _sample(self, position: int) -> SampleIndex:
        epoch, number = divmod(position, self.length)
        return SampleIndex(int(permutation(self.length, self.seed, epoch)[number]), position, self.seed)
