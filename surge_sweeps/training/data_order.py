"""Which examples a run sees, in which order: a function of the seed alone.

The examples form one endless stream, epoch after epoch, each epoch a permutation of the data set. The batch at step s
takes the stream's positions [s B, (s + 1) B), so runs that differ in batch size see the same examples in the same
order, grouped differently, and a comparison between batch sizes is a paired one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surge_sweeps.errors import TrainingError

#: Keeps the stream of examples apart from other uses of the same seed.
_STREAM = 1
#: Examples of an endless data set that belong to one seed, and the number of seeds that have some.
STRETCH = 2**40
SEEDS_WITHOUT_END = 2**22


class DataOrder:
    """The stream of example indices of one seed.

    Args:
        size: examples in the data set; None: it has no end, and each seed has a stretch of it for itself.
        seed: at least 0.

    Raises:
        TrainingError: there are not so many seeds of an endless data set.

    >>> order = DataOrder(size=5, seed=0)
    >>> sorted(order.positions(0, 5).tolist())
    [0, 1, 2, 3, 4]
    >>> torch.equal(order.batches(0, 3, batch_size=4).flatten(), order.batches(0, 2, batch_size=6).flatten())
    True
    """

    def __init__(self, size: int | None, seed: int) -> None:
        if size is None and seed >= SEEDS_WITHOUT_END:
            raise TrainingError(
                f"the seed {seed} has no stretch of the endless data set.",
                f"Give one below {SEEDS_WITHOUT_END:,}.",
            )
        self.size = size
        self.seed = seed
        self._drawn: tuple[int, NDArray[np.int64]] | None = None

    def positions(self, start: int, stop: int) -> Tensor:
        """(stop - start,) int64 example indices at the stream's positions [start, stop)."""
        if self.size is None:
            return torch.arange(start, stop) + self.seed * STRETCH
        parts = [np.empty(0, dtype=np.int64)]
        for epoch in range(start // self.size, -(-stop // self.size)):
            before = epoch * self.size
            parts.append(self._epoch(epoch, self.size)[max(start - before, 0) : stop - before])
        return torch.from_numpy(np.concatenate(parts))

    def batches(self, first_step: int, last_step: int, batch_size: int) -> Tensor:
        """(last_step - first_step, batch_size) int64 example indices of the steps [first_step, last_step)."""
        stream = self.positions(first_step * batch_size, last_step * batch_size)
        return stream.view(last_step - first_step, batch_size)

    def _epoch(self, epoch: int, size: int) -> NDArray[np.int64]:
        # The one drawn last is kept: of a large set, many blocks of steps are parts of one epoch.
        if self._drawn is None or self._drawn[0] != epoch:
            source = np.random.SeedSequence(self.seed, spawn_key=(_STREAM, epoch))
            self._drawn = epoch, np.random.Generator(np.random.PCG64(source)).permutation(size)
        return self._drawn[1]


def block_steps(batch_size: int) -> int:
    """How many steps' indices to make at once: about 65,536 examples, so that whole epochs are made together.

    >>> block_steps(4), block_steps(512), block_steps(10**6)
    (16384, 128, 1)
    """
    return max(1, 65536 // batch_size)
