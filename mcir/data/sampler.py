"""The order of samples: functions of a seed and a position only, so a training can resume anywhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class SampleIndex(NamedTuple):
    """Index of one sample in an endless stream.

    Attributes:
        index: index in the data set.
        position: position in the stream; with the seed it determines everything random about the sample.
        seed: seed of the stream.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used here
    position: int
    seed: int

    @classmethod
    def of(cls, sample: int | SampleIndex) -> SampleIndex:
        """Return the sample for the index of a data set; for an integer it is always the same one."""
        return sample if isinstance(sample, SampleIndex) else cls(int(sample), int(sample), 0)

    def generator(self) -> np.random.Generator:
        """Return the random generator of this sample."""
        return np.random.default_rng((self.seed, self.position))


@functools.lru_cache(maxsize=4)
def permutation(length: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of 0 … length−1 in an epoch; its random stream is separate from those of the samples."""
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.default_rng(sequence).permutation(length)


class EndlessBatches(Sampler[list[SampleIndex]]):
    """The endless batches of one rank, from a given iteration.

    Iteration t of rank r has the positions offset + t·world_size·batch_size + r·batch_size + j, j < batch_size. So the
    global batch of an iteration is the same for any number of ranks. Each epoch is a permutation of all indices; a
    batch may span two epochs.

    Args:
        length: length of the data set.
        batch_size: samples of one rank per iteration.
        seed: seed of the order and of every sample, ≥ 0.
        rank: rank of this process.
        world_size: number of processes.
        start: number of iterations that are skipped.
        offset: number of positions that batches of another size used before iteration 0.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        offset: int = 0,
    ) -> None:
        assert length > 0 and batch_size > 0 and 0 <= rank < world_size and start >= 0 and offset >= 0
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.start, self.offset = rank, world_size, start, offset

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        iteration = self.start
        while True:
            first = self.offset + (iteration * self.world_size + self.rank) * self.batch_size
            yield [self._sample(position) for position in range(first, first + self.batch_size)]
            iteration += 1

    def _sample(self, position: int) -> SampleIndex:
        epoch, number = divmod(position, self.length)
        return SampleIndex(int(permutation(self.length, self.seed, epoch)[number]), position, self.seed)
