"""Resampling runs within (batch size, learning rate) cells, many draws at once.

Draw i of every target that shares its runs takes the same runs, so the draws of two loss targets move together as the
estimates do. Means of resampled runs are spread by sqrt(n / (n - 1)) about the cell's mean, because the plain
bootstrap of n values has (n - 1) / n of their variance, which matters at 3 runs a cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.observables.cells import Cells
from surge_sweeps.fitting.observables.responses import BoolArray, FloatArray
from surge_sweeps.fitting.result import Protocol


def lower_is_better(protocol: Protocol) -> bool:
    """Whether a small response is a good one: steps and final losses, against gains.

    >>> lower_is_better("final"), lower_is_better("gain")
    (True, False)
    """
    return protocol != "gain"


_BATCH_WEIGHTS = 200
_ALIKE = 3.0


@dataclass(frozen=True, eq=False)
class Resampling:
    """Which runs every draw takes.

    Attributes:
        replicates: one array a batch size, (n_draws, n_lr, n_run), the replicate taken in each place.
        paired: (n_batch,) whether a draw takes the same seeds at all learning rates of the batch size.
        normals: (n_batch, n_draws, n_lr) for cells of one run, which cannot be resampled.
        choices: (n_draws,) uniform on [0, 1), picks the estimator of each draw.
        rounding: (n_batch, n_draws) standard normal, for the spacing of a coarse grid.
        places: (n_batch, n_draws) uniform on [0, 1), where between two learning rates an optimum lies of which only
            these are known.
        batch_weights: (n_weights, n_batch) Dirichlet weights of the batch sizes, of mean 1 (Bayesian bootstrap).
    """

    replicates: tuple[NDArray[np.int16], ...]
    paired: BoolArray
    normals: FloatArray
    choices: FloatArray
    rounding: FloatArray
    places: FloatArray
    batch_weights: FloatArray


def resample(cells: Cells, n_draws: int, rng: np.random.Generator) -> Resampling:
    """Draw the runs of every cell, with replacement.

    Where the cells of a batch size hold the same seeds, and seeds err alike at neighbouring learning rates
    (`seeds_err_alike`), whole seeds are drawn: their common error moves the optimum and does not average out over
    learning rates.

    >>> cells = Cells(np.array([8.0]), np.array([[0.0]]), np.ones((1, 1, 3)), np.ones((1, 1, 3), bool),
    ...     np.zeros((1, 1, 3), bool), np.ones(1, bool))
    >>> resample(cells, 5, np.random.default_rng(0)).replicates[0].shape
    (5, 1, 3)
    """
    n_batch, n_lr, n_run = cells.values.shape
    counts = cells.counts()
    replicates = []
    paired = cells.same_seeds & seeds_err_alike(cells)
    for batch in range(n_batch):
        uniform = rng.random((n_draws, 1 if paired[batch] else n_lr, n_run), dtype=np.float32)
        taken = (uniform * counts[batch][:, None]).astype(np.int16)
        # In float32 a uniform just below 1 times the count can round up to the count itself.
        replicates.append(np.minimum(taken, np.maximum(counts[batch][:, None] - 1, 0).astype(np.int16)))
    normals = rng.standard_normal((n_batch, n_draws, n_lr))
    choices = rng.random(n_draws)
    rounding = rng.standard_normal((n_batch, n_draws))
    places = rng.random((n_batch, n_draws))
    batch_weights = n_batch * rng.dirichlet(np.ones(n_batch), _BATCH_WEIGHTS)
    return Resampling(tuple(replicates), paired, normals, choices, rounding, places, batch_weights)


def seeds_err_alike(cells: Cells) -> bool:
    """Whether the errors of a seed at neighbouring learning rates are correlated, over all batch sizes together.

    The mean product of neighbouring standardised errors, of the batch sizes with the same seeds in every cell, more
    than `_ALIKE` standard errors above zero.

    >>> rng = np.random.default_rng(0)
    >>> def cells(noise):
    ...     return Cells(np.array([8.0]), np.zeros((1, 9)), noise, np.ones(noise.shape, bool),
    ...                  np.zeros(noise.shape, bool), np.ones(1, bool))
    >>> seeds_err_alike(cells(rng.standard_normal((1, 9, 5))))
    False
    >>> seeds_err_alike(cells(np.tile(rng.standard_normal((1, 1, 5)), (1, 9, 1)) + 0.1 * rng.random((1, 9, 5))))
    True
    """
    known = np.isfinite(cells.values).all(axis=2) & cells.exists.all(axis=2) & cells.same_seeds[:, None]
    n_run = cells.values.shape[2]
    values = np.where(known[..., None], cells.values, 0.0)
    error = values - values.mean(axis=2, keepdims=True)
    sd = np.sqrt((error**2).mean(axis=2))
    known &= sd > 0
    pairs = known[:, 1:] & known[:, :-1]
    if n_run < 2 or not pairs.any():
        return False
    scaled = error / np.where(sd > 0, sd, 1.0)[..., None]
    correlation = (scaled[:, 1:] * scaled[:, :-1]).mean(axis=2)[pairs]
    return bool(correlation.mean() * np.sqrt(correlation.size * (n_run - 1)) > _ALIKE)


def cell_responses(cells: Cells, protocol: Protocol) -> FloatArray:
    """(n_batch, n_lr) each cell's mean, its median where some runs are censored, NaN where it is not usable.

    A censored run counts as worse than every other, and of two middle runs the worse is taken, so that a failing run
    never improves its cell; where that median is itself censored (half of the runs are), the cell is not usable.

    >>> runs = np.array([[[6.0, 6.2, 6.4, 6.6]], [[6.0, 6.2, 6.4, np.nan]]])
    >>> exists, same = np.ones(runs.shape, bool), np.ones(2, bool)
    >>> cells = Cells(np.array([4.0, 8.0]), np.zeros((2, 1)), runs, exists, np.isnan(runs), same)
    >>> cell_responses(cells, "reach").round(3).tolist(), cell_responses(cells, "gain").round(3).tolist()
    ([[6.3], [6.4]], [[6.3], [6.0]])
    """
    counts = np.maximum(cells.uncensored(), 1)
    mean = np.where(np.isfinite(cells.values), cells.values, 0.0).sum(axis=2) / counts
    partly = cells.uncensored() < cells.counts()
    for batch, column in zip(*np.nonzero(partly & cells.usable()), strict=True):
        mean[batch, column] = _worse_median(_censored_worst(cells, batch, column, protocol)[None], protocol)[
            0
        ]
    return np.where(cells.usable(), mean, np.nan)


def within_cell_variance(cells: Cells) -> tuple[FloatArray, NDArray[np.int64]]:
    """(n_batch, n_lr) variance of the uncensored runs of a cell about their mean, and its degrees of freedom."""
    freedom = np.maximum(cells.uncensored() - 1, 0)
    known = np.isfinite(cells.values)
    values = np.where(known, cells.values, 0.0)
    mean = values.sum(axis=2, keepdims=True) / np.maximum(known.sum(axis=2, keepdims=True), 1)
    squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=2)
    return squares / np.maximum(freedom, 1), freedom


def draw_responses(
    cells: Cells, protocol: Protocol, resampling: Resampling, single_sd: FloatArray
) -> FloatArray:
    """(n_batch, n_draws, n_lr) the response of every cell in every draw, NaN where the draw makes it unusable.

    Args:
        cells: the runs.
        protocol: of the values, which tells on which side the censored runs lie.
        resampling: which runs each draw takes.
        single_sd: (n_batch,) the standard deviation of one run, for cells with a single run.
    """
    centre = cell_responses(cells, protocol)
    result = np.empty(resampling.normals.shape)
    for batch, replicates in enumerate(resampling.replicates):
        result[batch] = _resampled_means(cells, batch, replicates, centre[batch])
        single = cells.counts()[batch] == 1
        spread = centre[batch] + single_sd[batch] * resampling.normals[batch]
        result[batch] = np.where(single, spread, result[batch])
        partly = (cells.uncensored() < cells.counts())[batch] & np.isfinite(centre[batch])
        for column in np.nonzero(partly)[0]:
            runs = _censored_worst(cells, batch, int(column), protocol)
            taken = runs[replicates[:, column, : runs.size]]
            result[batch, :, column] = _worse_median(taken, protocol)
    return result


def _resampled_means(
    cells: Cells, batch: int, replicates: NDArray[np.int16], centre: FloatArray
) -> FloatArray:
    exists = cells.exists[batch]
    counts = np.maximum(exists.sum(axis=1), 1)
    deviations = np.where(exists, cells.values[batch] - centre[:, None], 0.0)
    n_lr, n_run = deviations.shape
    flat = replicates + (np.arange(n_lr) * n_run)[:, None]
    weights = exists / counts[:, None]
    mean = np.einsum("dlr,lr->dl", deviations.ravel()[flat], weights)
    return np.asarray(centre + mean * np.sqrt(counts / np.maximum(counts - 1, 1)))


def _censored_worst(cells: Cells, batch: int, column: int, protocol: Protocol) -> FloatArray:
    runs = cells.values[batch, column][cells.exists[batch, column]]
    return np.where(np.isfinite(runs), runs, np.inf if lower_is_better(protocol) else -np.inf)


def _worse_median(runs: FloatArray, protocol: Protocol) -> FloatArray:
    """(n_draws,) the median of each row of runs, the worse of the two middle ones; NaN where that is censored."""
    n_run = runs.shape[1]
    middle = n_run // 2 if lower_is_better(protocol) else (n_run - 1) // 2
    median = np.sort(runs, axis=1)[:, middle]
    return np.where(np.isfinite(median), median, np.nan)
