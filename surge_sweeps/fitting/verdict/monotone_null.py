"""How often monotone laws with this noise look as much like a surge: a parametric bootstrap of the law comparison.

AICc asks a fixed lead of a surge law, whatever the noise. Here the lead is compared with what the best monotone law
itself gives: its curve with fresh noise is fitted again by every law, many times. The lead is taken relative to what
the surge law leaves unexplained, like an F statistic, so it does not hang on how well the size of the noise is known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.curve_grid import curve_grids
from surge_sweeps.fitting.laws.likelihood import Observations
from surge_sweeps.theory import LAWS

FloatArray = NDArray[np.float64]

REPLICATES = 199
_MIN_VALUES = 5


def monotone_p_value(observed: Observations, scatter_sd: float, rng: np.random.Generator) -> float:
    """p-value of "the curve is the monotone law that fits best" against the best surge law, on the values alone.

    Args:
        observed: five values or more, else the p-value is 1. scatter_sd: extra scatter of log LR in the noise.
        rng: of the 199 replicates.

    >>> b = 4.0 * 2.0 ** np.arange(10)
    >>> def p_value(log_lr):
    ...     seen = Observations(b, log_lr, np.full(10, 0.01), np.zeros(10, np.int8))
    ...     return monotone_p_value(seen, 0.0, np.random.default_rng(0))
    >>> p_value(-np.abs(np.log(b / 100)) / 2), p_value(np.log(b) / 2)
    (0.005, 1.0)
    """
    values = observed.values
    if values.sum() < _MIN_VALUES:
        return 1.0
    batch_sizes = observed.batch_sizes[values]
    whiten = _Whitening(observed, scatter_sd)
    monotone, surge = (whiten(curves) for curves in _both_kinds(batch_sizes))
    seen = whiten((observed.log_lr[values] - observed.log_lr[values].mean())[None])
    null = monotone[int(_scores(seen, monotone).argmax())]
    replicates = null + whiten.project(rng.standard_normal((REPLICATES, batch_sizes.size)))
    leads = _leads(np.concatenate([seen, replicates]), monotone, surge)
    return float(1 + np.count_nonzero(leads[1:] >= leads[0] - 1e-9)) / (REPLICATES + 1)


class _Whitening:
    """Turns log curves into coordinates of unit noise, less the part that a change of level would explain."""

    def __init__(self, observed: Observations, scatter_sd: float) -> None:
        variance, rotation, ones = observed.axes
        sd = np.sqrt(variance + scatter_sd**2)
        self._turn = rotation / sd
        self._level = (ones / sd) / np.linalg.norm(ones / sd)

    def __call__(self, curves: FloatArray) -> FloatArray:
        return self.project(curves @ self._turn)

    def project(self, rows: FloatArray) -> FloatArray:
        return np.asarray(rows - np.outer(rows @ self._level, self._level))


def _both_kinds(batch_sizes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Curves of all laws that do not peak, and of all that do."""
    monotone: list[FloatArray] = []
    surge: list[FloatArray] = []
    for name in LAWS:
        for grid in curve_grids(name, float(batch_sizes[0]), float(batch_sizes[-1])):
            peaks = name == "surge" or grid.layout == "peaked"
            (surge if peaks else monotone).append(grid.curves(batch_sizes))
    return np.concatenate(monotone), np.concatenate(surge)


def _scores(rows: FloatArray, curves: FloatArray) -> FloatArray:
    """(R, G) sum of squares of each row that each curve explains."""
    return np.asarray(2 * rows @ curves.T - (curves**2).sum(axis=1))


def _leads(rows: FloatArray, monotone: FloatArray, surge: FloatArray) -> FloatArray:
    total = (rows**2).sum(axis=1)
    left_monotone = total - _scores(rows, monotone).max(axis=1)
    left_surge = total - _scores(rows, surge).max(axis=1)
    return np.asarray((left_monotone - left_surge) / np.maximum(left_surge, 1e-12))
