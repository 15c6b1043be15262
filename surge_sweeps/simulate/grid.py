"""The grid of a simulated sweep and its runs, one array a column, in the order in which noise is drawn for them.

Runs go by batch size, then learning rate, then seed. A cell is one batch size and learning rate with all its seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Scalar = str | int | float | bool


@dataclass(frozen=True)
class Grid:
    """Every combination of these is one run; `seeds` is how many runs each cell gets."""

    batch_sizes: Sequence[int]
    lrs: Sequence[float]
    seeds: int

    def runs(self, project: str) -> Runs:
        """The runs, named after `project`.

        >>> Grid([4, 8], [0.1], 2).runs("demo").names
        ['demo-0', 'demo-1', 'demo-2', 'demo-3']
        """
        cell_batch_size = np.repeat(np.array(self.batch_sizes, dtype=np.int64), len(self.lrs))
        cell_lr = np.tile(np.array(self.lrs, dtype=float), len(self.batch_sizes))
        cell = np.repeat(np.arange(cell_lr.size), self.seeds)
        width = len(str(cell.size - 1))
        return Runs(
            names=[f"{project}-{i:0{width}d}" for i in range(cell.size)],
            cell_batch_size=cell_batch_size,
            cell_lr=cell_lr,
            cell=cell,
            seed=np.tile(np.arange(self.seeds), cell_lr.size),
        )


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of a grid.

    Attributes:
        names: of the runs.
        cell_batch_size, cell_lr: (n_cells,) what the runs of each cell are made with.
        cell, seed: (n_runs,) the index of each run's cell, and its seed.
    """

    names: list[str]
    cell_batch_size: IntArray
    cell_lr: FloatArray
    cell: IntArray
    seed: IntArray

    @property
    def batch_size(self) -> IntArray:
        """(n_runs,) the batch size of each run."""
        return self.cell_batch_size[self.cell]

    @property
    def lr(self) -> FloatArray:
        """(n_runs,) the learning rate of each run."""
        return self.cell_lr[self.cell]
