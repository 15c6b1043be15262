"""Runs laid out by batch size, learning rate and replicate: the arrays that the optimum search works on.

Batch sizes may have different learning rates and cells different numbers of runs, so everything is padded: a learning
rate that is not there is NaN, a replicate that is not there is False in `exists`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.fitting.observables.responses import BoolArray, FloatArray, Responses


@dataclass(frozen=True, eq=False)
class Cells:
    """The responses of one target over the grid.

    Attributes:
        batch_sizes: (n_batch,) ascending.
        log_lr: (n_batch, n_lr) natural logs, ascending, NaN beyond the last one of a batch size.
        values: (n_batch, n_lr, n_run) log steps or gain; NaN where censored or where there is no run.
        exists: (n_batch, n_lr, n_run) where there is a run; the runs of a cell come first.
        diverged: (n_batch, n_lr, n_run) runs that ended diverged.
        same_seeds: (n_batch,) whether all cells of the batch size hold the same seeds, in the same order.
    """

    batch_sizes: FloatArray
    log_lr: FloatArray
    values: FloatArray
    exists: BoolArray
    diverged: BoolArray
    same_seeds: BoolArray

    def counts(self) -> NDArray[np.int64]:
        """(n_batch, n_lr) runs in each cell."""
        return np.asarray(self.exists.sum(axis=2), dtype=np.int64)

    def uncensored(self) -> NDArray[np.int64]:
        """(n_batch, n_lr) runs in each cell that have a value."""
        return np.asarray(np.isfinite(self.values).sum(axis=2), dtype=np.int64)

    def usable(self) -> BoolArray:
        """(n_batch, n_lr) cells that can hold the optimum: less than half of the runs censored, or diverged."""
        counts = self.counts()
        return np.asarray((2 * self.uncensored() > counts) & (2 * self.diverged.sum(axis=2) < counts))

    def trains(self) -> BoolArray:
        """(n_batch, n_lr) cells where more than half of the runs did not diverge."""
        counts = self.counts()
        return np.asarray((counts > 0) & (2 * self.diverged.sum(axis=2) < counts))

    def stability_edge(self) -> list[tuple[int, float]]:
        """The largest learning rate of each batch size at which more than half of the runs did not diverge."""
        trains = self.trains()
        edges = []
        for index, batch_size in enumerate(self.batch_sizes):
            if trains[index].any():
                edges.append((int(batch_size), float(np.exp(self.log_lr[index][trains[index]].max()))))
        return edges

    def stability_limits(self) -> dict[float, float]:
        """Batch size -> log of the stability edge, where a larger learning rate was tried and diverged."""
        limits = {}
        for batch_size, edge in self.stability_edge():
            tried = self.log_lr[self.batch_sizes == batch_size]
            if np.nanmax(tried) > np.log(edge) + 1e-9:
                limits[float(batch_size)] = float(np.log(edge))
        return limits


def build_cells(runs: pd.DataFrame, responses: Responses, column: int) -> Cells:
    """Lay out one column of responses.

    Args:
        runs: `LossCurves.runs`, aligned with the rows of `responses`.
        column: which target.

    >>> runs = pd.DataFrame({"lr": [0.1, 0.1, 0.2], "batch_size": [8, 8, 8], "status": "finished"})
    >>> values = np.array([[1.0], [3.0], [2.0]])
    >>> cells = build_cells(runs, Responses(values, np.isnan(values)), 0)
    >>> cells.values.tolist(), cells.counts().tolist()
    ([[[1.0, 3.0], [2.0, nan]]], [[2, 1]])
    """
    log_rates = np.log(runs["lr"].to_numpy(float))
    batch_sizes, batch = np.unique(runs["batch_size"].to_numpy(float), return_inverse=True)
    # Two learning rates that differ in the last digits only, through text or float32, are the same one.
    rounded = np.round(log_rates, 5)
    keys = pd.DataFrame({"batch": batch, "lr": rounded})
    column_index = keys.groupby("batch")["lr"].rank("dense").to_numpy(int) - 1
    # By seed and value, not by the tracker's run names: the same runs logged anew must give the same bits.
    keys["seed"] = runs["seed"].to_numpy(float, na_value=np.inf) if "seed" in runs else 0.0
    keys["value"] = responses.values[:, column]
    ordered = keys.sort_values(["seed", "value"], kind="stable")
    replicate = ordered.groupby(["batch", "lr"]).cumcount().sort_index().to_numpy()
    shape = (batch_sizes.size, int(column_index.max()) + 1, int(replicate.max()) + 1)
    values = np.full(shape, np.nan)
    exists = np.zeros(shape, dtype=bool)
    diverged = np.zeros(shape, dtype=bool)
    log_lr = np.full(shape[:2], np.nan)
    where = (batch, column_index, replicate)
    values[where] = responses.values[:, column]
    exists[where] = True
    diverged[where] = (runs["status"] == "diverged").to_numpy()
    log_lr[batch, column_index] = log_rates
    return Cells(batch_sizes, log_lr, values, exists, diverged, _same_seeds(keys, batch_sizes.size))


def _same_seeds(keys: pd.DataFrame, n_batch: int) -> BoolArray:
    """(n_batch,) whether every cell has the same seeds, each once, and at least two."""
    same = np.zeros(n_batch, dtype=bool)
    for batch, of_batch in keys.groupby("batch"):
        in_cells = {frozenset(cell) for _, cell in of_batch.groupby("lr")["seed"]}
        seeds = next(iter(in_cells))
        once = not of_batch.duplicated(["lr", "seed"]).any()
        same[int(str(batch))] = (
            len(in_cells) == 1 and len(seeds) >= 2 and once and np.isfinite(list(seeds)).all()
        )
    return same
