"""The loss targets of one set of runs as arrays for a joint fit of how a batch size moves with the loss.

Row i of every target's draws is the same resampling of whole runs, so that what the targets share moves together in
the draws. Batch sizes, targets and draws lie on axes of this order: (n, J, R).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting.laws.likelihood import SD_FLOOR
from surge_sweeps.fitting.optimum.optima import Optima

FloatArray = NDArray[np.float64]

MIN_TARGETS = 2

_REACH = 1000.0  # beyond the measured batch sizes, as a factor


@dataclass(frozen=True, eq=False)
class DriftTarget:
    """One loss target: the loss, its optima, and the scatter of log LR about the law beyond the seeds (one sd)."""

    loss: float
    optima: Optima
    scatter_sd: float = 0.0


@dataclass(frozen=True, eq=False)
class DriftData:
    """What a joint fit sees.

    Attributes:
        log_loss: (J,) log of the loss above the floor, less their mean. batch_sizes: (n,) of all targets together.
        values, weights: (n, J, 1); weight 0 where a target has no value. draws, draw_weights: (n, J, R).
        low, high: (J,) log of the smallest and largest batch size with a value.
    """

    log_loss: FloatArray
    batch_sizes: FloatArray
    values: FloatArray
    weights: FloatArray
    draws: FloatArray
    draw_weights: FloatArray
    low: FloatArray
    high: FloatArray

    def place_bounds(self) -> tuple[float, float]:
        """Log of the smallest and largest batch size at which the place of a curve is sought."""
        return float(self.low.min()) - math.log(_REACH), float(self.high.max()) + math.log(_REACH)


@dataclass(frozen=True, eq=False)
class _Column:
    """One target's (m,) batch sizes, values and weights, with its (R, m) draws."""

    loss: float
    batch_sizes: FloatArray
    values: FloatArray
    weights: FloatArray
    draws: FloatArray


def peak_data(targets: Sequence[DriftTarget], loss_floor: float = 0.0) -> DriftData | None:
    """Optimal log LRs of the targets with four or more; None where fewer than two losses are left.

    Weights follow the seeds' spread and the scatter; an optimum at an edge of its grid, or one of which more than a
    sixth of the draws lie beyond it, is left out. A draw beyond the grid is taken at the farthest draw inside it.

    Raises:
        SurgeError: `loss_floor` does not lie below every loss.
    """
    return _assemble([_peak_column(target) for target in targets], 4, loss_floor)


def steps_data(targets: Sequence[DriftTarget], loss_floor: float = 0.0) -> DriftData | None:
    """Log steps, unweighted, of the targets with three or more; otherwise as `peak_data`."""
    return _assemble([_steps_column(target) for target in targets], 3, loss_floor)


def _peak_column(target: DriftTarget) -> _Column:
    optima = target.optima
    keep, weights = lr_weights(optima, target.scatter_sd)
    return _Column(
        target.loss,
        optima.batch_sizes[keep].astype(float),
        optima.log_lr[keep],
        weights,
        _clipped(optima.draws[:, keep]),
    )


def lr_weights(optima: Optima, scatter_sd: float) -> tuple[NDArray[np.intp], FloatArray]:
    """Indices of the (m,) optima that are values, and their (m,) weights for least squares in log LR.

    >>> draws, none = np.array([[-0.1, -0.2], [0.1, 0.2]]), np.full(2, np.nan)
    >>> optima = Optima(np.array([4.0, 8.0]), np.zeros(2), ("ok", "edge_high"), draws, none, draws, (3, 3))
    >>> lr_weights(optima, 0.0)
    (array([0]), array([100.]))
    """
    with np.errstate(
        invalid="ignore"
    ):  # the spread of draws that all lie beyond one edge: infinite less infinite
        spread = optima.log_lr_sd()
    drawn = (~np.isnan(optima.draws)).any(axis=0)
    sd = np.where(np.isnan(spread), np.where(drawn, np.inf, 0.0), spread)
    keep = np.flatnonzero(optima.known() & np.isfinite(sd) & np.isfinite(optima.log_lr))
    sd = sd[keep]
    # A spread from a few seeds is itself uncertain by half: weights that follow it alone would add more noise than
    # they take away, so each variance counts half and the typical one of the target the other half.
    typical = max(float(np.median(sd)), SD_FLOOR) if sd.size else SD_FLOOR
    return keep, 1 / (0.5 * (sd**2 + typical**2) + scatter_sd**2)


def _steps_column(target: DriftTarget) -> _Column:
    optima = target.optima
    keep = np.flatnonzero(np.isfinite(optima.log_steps))
    batch_sizes, values = optima.batch_sizes[keep].astype(float), optima.log_steps[keep]
    return _Column(
        target.loss, batch_sizes, values, np.ones(keep.size), _clipped(optima.log_steps_draws[:, keep])
    )


def _clipped(draws: FloatArray) -> FloatArray:
    """Infinite draws moved to the extreme finite ones of their column, NaN where it has none."""
    finite = np.isfinite(draws)
    low = np.where(finite, draws, np.inf).min(axis=0, initial=np.inf)
    high = np.where(finite, draws, -np.inf).max(axis=0, initial=-np.inf)
    clipped = np.where(np.isnan(draws), np.nan, np.clip(draws, low, np.maximum(low, high)))
    return np.where(np.isfinite(clipped), clipped, np.nan)


def _assemble(columns: Sequence[_Column], fewest: int, loss_floor: float) -> DriftData | None:
    if any(not column.loss > loss_floor for column in columns):
        raise SurgeError(
            f"the loss floor {loss_floor:g} does not lie below every target loss.",
            f"Give a floor below {min(column.loss for column in columns):g}.",
        )
    columns = [column for column in columns if column.values.size >= fewest]
    losses = np.array([column.loss for column in columns])
    if np.unique(losses).size < MIN_TARGETS:
        return None
    if len({column.draws.shape[0] for column in columns}) > 1:
        raise ValueError("the targets must have the same number of draws, row i of each the same resampling")
    batch_sizes = np.unique(np.concatenate([column.batch_sizes for column in columns]))
    shape = (batch_sizes.size, len(columns))
    values, weights = np.zeros((*shape, 1)), np.zeros((*shape, 1))
    draws = np.full((*shape, columns[0].draws.shape[0]), np.nan)
    for index, column in enumerate(columns):
        rows = np.searchsorted(batch_sizes, column.batch_sizes)
        values[rows, index, 0], weights[rows, index, 0] = column.values, column.weights
        draws[rows, index] = column.draws.T
    known = np.isfinite(draws)
    log_loss = np.log(losses - loss_floor)
    return DriftData(
        log_loss=log_loss - log_loss.mean(),
        batch_sizes=batch_sizes,
        values=values,
        weights=weights,
        draws=np.where(known, draws, 0.0),
        # One column of weights where no draw has a hole, which makes the fits of the draws cheaper.
        draw_weights=weights if bool((known | (weights == 0)).all()) else weights * known,
        low=np.log([column.batch_sizes.min() for column in columns]),
        high=np.log([column.batch_sizes.max() for column in columns]),
    )
