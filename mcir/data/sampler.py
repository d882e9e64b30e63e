"""Which image comes when: functions of a seed and a position alone, so that a training can resume anywhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class SampleIndex(NamedTuple):
    """One sample of an endless stream.

    Attributes:
        index: the item of the data set.
        position: its place in the stream; with the seed it decides all that is random about the sample.
        seed: the seed of the stream.
    """

    index: int  # type: ignore[assignment]  # hides the method of tuples, which a draw has no use for
    position: int
    seed: int

    @classmethod
    def of(cls, sample: int | SampleIndex) -> SampleIndex:
        """Return a draw for what a data set is indexed with; for a plain index always the same one."""
        return sample if isinstance(sample, SampleIndex) else cls(int(sample), int(sample), 0)

    def generator(self) -> np.random.Generator:
        """Return the generator that everything random about this sample comes from."""
        return np.random.default_rng((self.seed, self.position))


@functools.lru_cache(maxsize=4)
def permutation(length: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of the items 0 … length−1 in one epoch (by a stream apart from those of the samples)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.default_rng(sequence).permutation(length)


class EndlessBatches(Sampler[list[SampleIndex]]):
    """The batches of one rank, for ever, from a given iteration on.

    Iteration t of rank r holds the positions offset + t·world_size·batch_size + r·batch_size + j, j < batch_size: the
    global batch of an iteration is the same run of positions whatever the number of ranks it is divided over. An epoch
    is a permutation of all items; a batch may span two.

    Args:
        length: number of items of the data set.
        batch_size: samples of one rank in an iteration.
        seed: of the order and of every sample, ≥ 0.
        rank: this process, of ``world_size``.
        world_size: number of processes.
        start: iterations that are already consumed.
        offset: positions that batches of another size consumed before iteration 0.

    Raises:
        ValueError: a number is out of range.
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
        for name, value, least in (
            ("length", length, 1), ("batch_size", batch_size, 1), ("seed", seed, 0), ("start", start, 0),
            ("offset", offset, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"EndlessBatches: {name} is {value}; it must be at least {least}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"EndlessBatches: rank is {rank}; with {world_size} processes it is 0 … {world_size - 1}.")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.start, self.offset = rank, world_size, start, offset

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        iteration = self.start
        while True:
            first = self.offset + (iteration * self.world_size + self.rank) * self.batch_size
            yield [self._draw(position) for position in range(first, first + self.batch_size)]
            iteration += 1

    def _draw(self, position: int) -> SampleIndex:
        epoch, place = divmod(position, self.length)
        return SampleIndex(int(permutation(self.length, self.seed, epoch)[place]), position, self.seed)


class Share(Sampler[int]):
    """The items r, r + world_size, … of a data set, once: what rank r evaluates."""

    def __init__(self, length: int, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"Share: rank is {rank}; with {world_size} processes it is 0 … {world_size - 1}.")
        self._indices = range(rank, length, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
