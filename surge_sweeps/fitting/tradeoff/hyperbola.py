"""Least squares in log S of the hyperbola S = S_min (1 + (B_crit/B)^q), on a grid of log B_crit.

The batch size is exact and only the steps are noisy, so log S is fitted as it stands, every batch size alike. The
grid holds the whole profile of B_crit: there is no starting point, and the ends of the intervals are read from it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import f as f_distribution

from surge_sweeps.fitting.draw_patterns import draw_patterns, parabola_peak
from surge_sweeps.fitting.laws.profile import CONFIDENCE, Ends, profile_ends

FloatArray = NDArray[np.float64]

MIN_BATCH_SIZES = 3
#: Residuals of log S are taken to be at least this large (standard deviation).
STEPS_SD_FLOOR = 0.005

_REACH = 1000.0
_POINTS = 401


class HyperbolaGrid(NamedTuple):
    """Candidate log B_crit (G,), and log(1 + (B_crit/B)^q) at the n batch sizes (G, n)."""

    log_b_crit: FloatArray
    curves: FloatArray


class HyperbolaFit(NamedTuple):
    """The least squares: log B_crit, infinite where the steps show no bend, and the sum of squares left."""

    log_b_crit: float
    squares: float


class HyperbolaEnds(NamedTuple):
    """95% intervals of the logs of B_crit, S_min and E_min."""

    log_b_crit: Ends
    log_s_min: Ends
    log_e_min: Ends


def hyperbola_grid(batch_sizes: FloatArray, exponent: float = 1.0) -> HyperbolaGrid:
    """Curves with B_crit from a thousandth of the smallest batch size to a thousand times the largest.

    >>> grid = hyperbola_grid(np.array([10.0, 1000.0]))
    >>> np.exp(grid.log_b_crit[[0, -1]]).round(2).tolist(), grid.curves.shape
    ([0.01, 1000000.0], (401, 2))
    """
    log_b = np.log(batch_sizes)
    log_b_crit = np.linspace(log_b.min() - math.log(_REACH), log_b.max() + math.log(_REACH), _POINTS)
    return HyperbolaGrid(log_b_crit, np.logaddexp(0.0, exponent * (log_b_crit[:, None] - log_b)))


def sums_of_squares(log_steps: FloatArray, curves: FloatArray) -> FloatArray:
    """(G,) residual sum of squares of each curve at its best level.

    >>> sums_of_squares(np.array([1.0, 3.0]), np.array([[0.0, 2.0], [0.0, 0.0]]))
    array([0., 2.])
    """
    residual = log_steps - curves
    return np.asarray(((residual - residual.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))


def fit_hyperbola(batch_sizes: FloatArray, log_steps: FloatArray, grid: HyperbolaGrid) -> HyperbolaFit:
    """The hyperbola (q = 1) nearest to (n,) log steps, refined within one step of its grid.

    >>> b = np.array([8.0, 64.0, 512.0])
    >>> round(float(np.exp(fit_hyperbola(b, np.log(1 + 100 / b), hyperbola_grid(b)).log_b_crit)), 3)
    100.0
    """
    squares = sums_of_squares(log_steps, grid.curves)
    cell = int(np.argmin(squares))
    if cell in (0, squares.size - 1):
        return HyperbolaFit(-math.inf if cell == 0 else math.inf, float(squares[cell]))
    log_b = np.log(batch_sizes)

    def loss(log_b_crit: float) -> float:
        return float(sums_of_squares(log_steps, np.logaddexp(0.0, log_b_crit - log_b)[None])[0])

    around_cell = (float(grid.log_b_crit[cell - 1]), float(grid.log_b_crit[cell + 1]))
    found = minimize_scalar(loss, bounds=around_cell, method="bounded", options={"xatol": 1e-7})
    return HyperbolaFit(float(found.x), float(found.fun))


def fit_hyperbola_draws(draws: FloatArray, grid: HyperbolaGrid) -> tuple[FloatArray, FloatArray]:
    """(n_draws,) log B_crit and log S_min of every draw of the log steps, (n_draws, n).

    Log B_crit is -inf or inf where a draw shows no bend, NaN where it has fewer than three batch sizes.

    >>> b = np.array([8.0, 64.0, 512.0])
    >>> log_b_crit, log_s_min = fit_hyperbola_draws(np.log(50 + 5000 / b)[None], hyperbola_grid(b))
    >>> np.exp(log_b_crit).round(), np.exp(log_s_min).round()
    (array([100.]), array([50.]))
    """
    log_b_crit = np.full(draws.shape[0], np.nan)
    log_s_min = log_b_crit.copy()
    step = grid.log_b_crit[1] - grid.log_b_crit[0]
    for rows, columns in draw_patterns(draws):
        if columns.sum() < MIN_BATCH_SIZES:
            continue
        curves, y = grid.curves[:, columns], draws[np.ix_(rows, columns)]
        centred = curves - curves.mean(axis=1, keepdims=True)
        score = 2 * y @ centred.T - (centred**2).sum(axis=1)
        cell = score.argmax(axis=1)
        inner, index = np.clip(cell, 1, _POINTS - 2), np.arange(cell.size)
        shift = parabola_peak(score[index, inner - 1], score[index, inner], score[index, inner + 1])
        value = np.where(cell == _POINTS - 1, np.inf, grid.log_b_crit[inner] + shift * step)
        log_b_crit[rows] = np.where(cell == 0, -np.inf, value)
        bend = shift * (curves[inner + 1] - curves[inner - 1]).mean(axis=1) / 2
        log_s_min[rows] = (y - curves[cell]).mean(axis=1) - np.where(inner == cell, bend, 0.0)
    return log_b_crit, log_s_min


def hyperbola_ends(
    batch_sizes: FloatArray, log_steps: FloatArray, grid: HyperbolaGrid, found: HyperbolaFit
) -> HyperbolaEnds:
    """95% intervals from how far the steps scatter about the hyperbola, n - 2 degrees of freedom; open where flat.

    >>> b = np.array([8.0, 32.0, 128.0, 512.0, 2048.0])
    >>> y, grid = np.log(50 + 5000 / b), hyperbola_grid(b)
    >>> np.exp(hyperbola_ends(b, y, grid, fit_hyperbola(b, y, grid)).log_b_crit).round(1)
    array([ 97.9, 102.1])
    """
    values, curves = grid
    if math.isfinite(found.log_b_crit):
        at = int(np.searchsorted(values, found.log_b_crit))
        curve = np.logaddexp(0.0, found.log_b_crit - np.log(batch_sizes))
        values, curves = np.insert(values, at, found.log_b_crit), np.insert(curves, at, curve, axis=0)
    squares = sums_of_squares(log_steps, curves)
    allowed = allowed_rise(found.squares, batch_sizes.size, 2)
    b_ends = profile_ends(values, -0.5 * squares, -0.5 * found.squares, allowed)
    inside = squares <= found.squares + allowed
    half = np.sqrt(np.maximum(found.squares + allowed - squares[inside], 0.0) / batch_sizes.size)
    s_min = (log_steps - curves[inside]).mean(axis=1)
    e_min = s_min + values[inside]
    return HyperbolaEnds(
        b_ends,
        Ends(None if inside[-1] else float((s_min - half).min()), float((s_min + half).max())),
        Ends(None if inside[0] else float((e_min - half).min()), float((e_min + half).max())),
    )


def allowed_rise(squares: float, n: int, parameters: int) -> float:
    """How far the sum of squares may rise inside a 95% interval: F-based, infinite without a degree of freedom.

    >>> allowed_rise(1.0, 2, 2), round(allowed_rise(1.0, 12, 2), 3)
    (inf, 0.496)
    """
    free = n - parameters
    if free < 1:
        return math.inf
    variance = max(squares / free, STEPS_SD_FLOOR**2)
    return variance * float(f_distribution.ppf(CONFIDENCE, 1, free))
