"""How the batch of one step is cut: among processes, and in each into micro-batches, whose gradients add up to its own.

Micro-batch size times accumulation times processes is the batch size, exactly: the batch size of a trial is the global
one, and a step of another size would be another trial.
"""

from __future__ import annotations

from typing import NamedTuple

from surge_sweeps.errors import TrainingError


class MicroBatches(NamedTuple):
    """The cut of one step's batch.

    Attributes:
        size: examples that one process holds at once. accumulation: micro-batches of each process in a step.
        processes: that train one run together.

    >>> MicroBatches(8, 4, 2).batch_size, MicroBatches(8, 4, 2).halved()
    (64, MicroBatches(size=4, accumulation=8, processes=2))
    """

    size: int
    accumulation: int
    processes: int

    @property
    def batch_size(self) -> int:
        """Examples of one step, all processes together."""
        return self.size * self.accumulation * self.processes

    def halved(self) -> MicroBatches | None:
        """The same batch in micro-batches of half the size, or less where half does not divide; None: none is left.

        >>> MicroBatches(15, 1, 1).halved()
        MicroBatches(size=5, accumulation=3, processes=1)
        """
        if self.size == 1:
            return None
        share = self.size * self.accumulation
        size = next(size for size in range(self.size // 2, 0, -1) if share % size == 0)
        return MicroBatches(size, share // size, self.processes)


def cut_batch(batch_size: int, wanted: int | None = None, processes: int = 1) -> MicroBatches:
    """The cut of a batch into micro-batches of the size wanted; a share that is smaller is taken whole.

    Args:
        batch_size: examples of one step. wanted: micro-batch size; None: a process takes its share at once.

    Raises:
        TrainingError: the batch cannot be cut so; the message names the nearest sizes that can.

    >>> cut_batch(64, 8, processes=2), cut_batch(4, 8)
    (MicroBatches(size=8, accumulation=4, processes=2), MicroBatches(size=4, accumulation=1, processes=1))
    >>> cut_batch(60, 8)
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrainingError: a batch of 60 examples cannot be cut into micro-batches of 8.
        Take a micro-batch size of 6 or 10.
    """
    if batch_size % processes:
        raise TrainingError(
            f"a batch of {batch_size} examples cannot be shared evenly by {processes} processes.",
            f"Run it with {_nearest(batch_size, processes, 'processes')}.",
        )
    share = batch_size // processes
    if wanted is None or wanted >= share:
        return MicroBatches(share, 1, processes)
    if share % wanted:
        among = f" of each of {processes} processes" if processes > 1 else ""
        whole = f"a share of {share}" if processes > 1 else f"a batch of {share}"
        raise TrainingError(
            f"{whole} examples{among} cannot be cut into micro-batches of {wanted}.",
            f"Take a micro-batch size of {_nearest(share, wanted)}.",
        )
    return MicroBatches(wanted, share // wanted, processes)


def _nearest(number: int, wanted: int, what: str = "") -> str:
    """The divisors of a number on both sides of one that is none."""
    below = next(size for size in range(wanted, 0, -1) if number % size == 0)
    above = next((size for size in range(wanted, number + 1) if number % size == 0), None)
    either = f"{below}" if above is None else f"{below} or {above}"
    return f"{either} {what}".strip()
