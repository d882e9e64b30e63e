"""The speed of a training."""

import time
from collections.abc import Iterable, Iterator

from mcir.models.batch import Batch


class Speed:
    """The speed of the training loop since the last call of :meth:`restart`.

    Args:
        world_size: number of processes.
    """

    def __init__(self, world_size: int = 1) -> None:
        self._world_size = world_size
        self.restart()

    def restart(self) -> None:
        """Start a new measurement."""
        self._begin = time.perf_counter()
        self._iterations = 0
        self._images = 0
        self._waited = 0.0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches. Count their images, and measure the time that the loop waits for them."""
        self.restart()
        begin = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - begin
            self._iterations += 1
            self._images += len(batch["lq"]) * self._world_size
            yield batch
            begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the last restart."""
        return time.perf_counter() - self._begin

    @property
    def s_per_iteration(self) -> float:
        """Seconds per iteration."""
        return self.seconds / max(1, self._iterations)

    @property
    def images_per_s(self) -> float:
        """Images per second, over all processes."""
        return self._images / self.seconds

    @property
    def data_fraction(self) -> float:
        """Fraction of the time in which the loop waited for data."""
        return self._waited / self.seconds
