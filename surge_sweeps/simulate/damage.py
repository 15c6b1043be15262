"""What goes wrong in a sweep: cells that diverge, cells never run, runs lost, divergence that leaves no NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from surge_sweeps.errors import SurgeError
from surge_sweeps.simulate.grid import BoolArray, Runs


class Marks(NamedTuple):
    """(n_runs,) which runs diverged by accident, and which are in the data at all."""

    diverged: BoolArray
    kept: BoolArray


@dataclass(frozen=True)
class Damage:
    """Shares are of all cells or runs, rounded to a whole number of them, chosen at random with equal chances.

    Attributes:
        diverged_cells: share of the cells of which every run diverged, whatever its learning rate.
        missing_cells: share of the cells, among the others, of which no run was made.
        lost_runs: share of the remaining runs that are lost one by one.
        diverged_loss: the loss that a diverged run ends with. NaN: the run is recorded as diverged. Finite: the run
            stays at this loss to its last step and is recorded as one that did not diverge, as a tracker sees it
            that only looks for NaN; this holds for runs beyond the stability edge too.

    Raises:
        SurgeError: a share lies outside 0 to 1, or those of cells add up to more than 1.

    >>> Damage(diverged_cells=0.1, missing_cells=0.05)
    Damage(diverged_cells=0.1, missing_cells=0.05, lost_runs=0.0, diverged_loss=nan)
    """

    diverged_cells: float = 0.0
    missing_cells: float = 0.0
    lost_runs: float = 0.0
    diverged_loss: float = math.nan

    def __post_init__(self) -> None:
        for name in ("diverged_cells", "missing_cells", "lost_runs"):
            if not 0 <= getattr(self, name) <= 1:
                raise SurgeError(f"the share {name} = {getattr(self, name)} must lie between 0 and 1.")
        if self.diverged_cells + self.missing_cells > 1:
            raise SurgeError("the shares of diverged and of missing cells add up to more than 1.")

    def draw(self, rng: np.random.Generator, runs: Runs) -> Marks:
        """Which runs are hit; draws nothing where every share is 0.

        >>> from surge_sweeps.simulate.grid import Grid
        >>> marks = Damage(diverged_cells=0.5).draw(np.random.default_rng(0), Grid([4], [0.1, 0.2], 3).runs("demo"))
        >>> int(marks.diverged.sum()), bool(marks.kept.all())
        (3, True)
        """
        n_cells = runs.cell_lr.size
        n_diverged = round(self.diverged_cells * n_cells)
        n_missing = min(round(self.missing_cells * n_cells), n_cells - n_diverged)
        diverged, kept = np.zeros(runs.cell.size, dtype=bool), np.ones(runs.cell.size, dtype=bool)
        if n_diverged or n_missing:
            order = rng.permutation(n_cells)
            diverged = np.isin(runs.cell, order[:n_diverged])
            kept = ~np.isin(runs.cell, order[n_diverged : n_diverged + n_missing])
        present = np.flatnonzero(kept)
        n_lost = round(self.lost_runs * present.size)
        if n_lost:
            kept[rng.choice(present, n_lost, replace=False)] = False
        return Marks(diverged, kept)
