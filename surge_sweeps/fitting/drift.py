"""How B_peak and B_crit move as the loss falls: log B = a - b log L over the loss targets of one set of runs.

The targets share their runs, so their estimates are correlated; the draws, made by resampling whole runs once for
all targets, carry that. The uncertainty of the slope is the spread of the slopes of the draws, made larger by the
Birge ratio where three or more targets scatter about the line more than their draws do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as t_distribution

from surge_sweeps.fitting.curve_grid import CurveGrid, curve_grids
from surge_sweeps.fitting.draw_patterns import draw_patterns, parabola_peak
from surge_sweeps.fitting.likelihood import SD_FLOOR
from surge_sweeps.fitting.optima import Optima
from surge_sweeps.fitting.profile import CONFIDENCE
from surge_sweeps.fitting.result import Interval, IntervalStatus, Slope
from surge_sweeps.theory import LAWS

FloatArray = NDArray[np.float64]

MIN_TARGETS = 2
_MIN_COLUMNS = 3
_BLOCK = 128  # draws refitted at once: their scores against every curve should stay in the cache


def fit_drift(losses: FloatArray, estimates: Sequence[Interval], draws: FloatArray) -> Slope:
    """Slope b of log B = a - b log L, with its 95% interval and the two-sided p-value of b = 0.

    Targets whose interval is not closed are left out; with fewer than two left, or two and no draws, the slope is
    not identified. Draws that put B beyond the measured batch sizes (infinite) open the interval on their side.

    Args:
        losses: (n_targets,) target losses, positive. estimates: B_peak or B_crit at each. draws: (n_draws, n_targets)
            log of it in every draw, each row one resampling of the runs; may have no rows.

    >>> losses = np.array([0.4, 0.2, 0.1])
    >>> found = [Interval(estimate=b, low=b / 2, high=2 * b, status="identified", definition="") for b in (8, 16, 32)]
    >>> draws = np.log([8, 16, 32]) + 0.1 * np.random.default_rng(0).standard_normal((500, 3))
    >>> slope = fit_drift(losses, found, draws)
    >>> round(slope.exponent, 2), slope.status
    (1.0, 'identified')
    """
    use = [index for index, found in enumerate(estimates) if found.status == "identified"]
    x = np.log(np.asarray(losses, float)[use])
    y = np.log([estimates[index].estimate or math.nan for index in use])
    if len(use) < MIN_TARGETS or np.ptp(x) == 0:
        return Slope()
    columns = draws[:, use]
    sd = np.maximum([_spread(column) for column in columns.T], SD_FLOOR)
    weights = 1 / sd**2
    centred = x - np.average(x, weights=weights)
    pull = -weights * centred / np.sum(weights * centred**2)  # b = pull . y
    b = float(pull @ y)
    residual = y - np.average(y, weights=weights) + b * centred
    free = len(use) - 2
    slopes = _draw_slopes(columns, pull)
    finite = slopes[np.isfinite(slopes)]
    if not finite.size or np.ptp(finite) < 1e-12:
        return _slope_from_residuals(b, residual, centred, free)
    birge = math.sqrt(max(1.0, float(np.sum(weights * residual**2)) / free)) if free > 0 else 1.0
    return _slope_from_draws(b, b + birge * (slopes - b))


def _spread(column: FloatArray) -> float:
    """Standard deviation from the central 68% of the finite draws; 0 without any."""
    column = column[np.isfinite(column)]
    if not column.size:
        return 0.0
    low, high = np.quantile(column, [0.1587, 0.8413])
    return float(high - low) / 2


def _draw_slopes(columns: FloatArray, pull: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):
        return np.asarray((columns * pull).sum(axis=1))


def _slope_from_draws(b: float, slopes: FloatArray) -> Slope:
    """A draw without a slope (NaN) counts at both ends: it could have been anything."""
    unknown, tail = np.isnan(slopes), (1 - CONFIDENCE) / 2
    low = float(np.quantile(np.where(unknown, -np.inf, slopes), tail, method="lower"))
    high = float(np.quantile(np.where(unknown, np.inf, slopes), 1 - tail, method="higher"))
    below, above = np.count_nonzero(unknown | (slopes <= 0)), np.count_nonzero(unknown | (slopes >= 0))
    p_value = min(1.0, 2 * (1 + min(below, above)) / (slopes.size + 1))
    return _slope(b, min(low, b), max(high, b), p_value)


def _slope_from_residuals(b: float, residual: FloatArray, centred: FloatArray, free: int) -> Slope:
    """Without draws only the scatter about the line is known, and only from three targets on."""
    if free < 1:
        return Slope()
    sd = max(math.sqrt(float(residual @ residual) / free), SD_FLOOR) / math.sqrt(float(centred @ centred))
    half = float(t_distribution.ppf((1 + CONFIDENCE) / 2, free)) * sd
    return _slope(b, b - half, b + half, min(1.0, 2 * float(t_distribution.sf(abs(b) / sd, free))))


def _slope(b: float, low: float, high: float, p_value: float) -> Slope:
    known_low, known_high = math.isfinite(low), math.isfinite(high)
    status: IntervalStatus = "not_identified"
    if known_low or known_high:
        status = "identified" if known_low and known_high else ("lower_bound" if known_low else "upper_bound")
    return Slope(
        exponent=b if status == "identified" else None,
        low=low if known_low else None,
        high=high if known_high else None,
        p_value=p_value,
        status=status,
    )


# --- B_peak of every draw ------------------------------------------------------------------------------------------


def b_peak_draws(optima: Optima, law_name: str, scatter_sd: float = 0.0) -> FloatArray:
    """(n_draws,) log B_peak of one law refitted to every bootstrap draw of the optima.

    Least squares on the law's grid, with the weights of the seeds and `scatter_sd` (`LawFits.scatter_sd`), refined by
    a parabola along the peak's axis. +inf where the refitted curve only rises or peaks beyond the largest batch
    size, -inf where it peaks below the smallest, NaN where a draw has fewer than three optima. A law that has no
    peak gives +inf throughout. A draw beyond the learning-rate grid is taken at the farthest draw inside it.

    >>> b = 4.0 * 2.0 ** np.arange(8)
    >>> from surge_sweeps.theory import surge_lr
    >>> draws = np.log(surge_lr(b, 0.01, 40.0)) + np.zeros((3, 8))
    >>> optima = Optima(b, draws[0], ("ok",) * 8, draws, np.full(8, np.nan), draws * np.nan, (4,) * 8)
    >>> np.exp(b_peak_draws(optima, "surge")).round(1)
    array([40., 40., 40.])
    """
    sd = optima.log_lr_sd()
    columns = np.flatnonzero(optima.known() & np.isfinite(np.where(np.isnan(sd), 0.0, sd)))
    result = np.full(optima.draws.shape[0], np.nan)
    if columns.size < _MIN_COLUMNS or not result.size:
        return result
    batch_sizes = optima.batch_sizes[columns].astype(float)
    variance = np.maximum(np.nan_to_num(sd[columns]), SD_FLOOR) ** 2 + scatter_sd**2
    draws = _clipped(optima.draws[:, columns])
    grids = [
        grid for grid in curve_grids(law_name, float(batch_sizes[0]), float(batch_sizes[-1]))
        if LAWS[law_name].verdict == "surge"
    ]  # fmt: skip
    for rows, present in draw_patterns(draws):
        if present.sum() < _MIN_COLUMNS:
            continue
        values = draws[np.ix_(rows, present)]
        blocks = [values[start : start + _BLOCK] for start in range(0, values.shape[0], _BLOCK)]
        refits = [_refit(block, batch_sizes[present], 1 / variance[present], grids) for block in blocks]
        result[rows] = np.concatenate(refits)
    low, high = math.log(batch_sizes[0]), math.log(batch_sizes[-1])
    return np.where(result > high, np.inf, np.where(result < low, -np.inf, result))


def _clipped(draws: FloatArray) -> FloatArray:
    """Infinite draws moved to the extreme finite ones of their column."""
    finite = np.isfinite(draws)
    with np.errstate(all="ignore"):
        low = np.where(finite, draws, np.inf).min(axis=0)
        high = np.where(finite, draws, -np.inf).max(axis=0)
    return np.where(np.isnan(draws), np.nan, np.clip(draws, low, np.maximum(low, high)))


def _refit(
    values: FloatArray, batch_sizes: FloatArray, weights: FloatArray, grids: list[CurveGrid]
) -> FloatArray:
    """(R,) log B_peak of the best curve over all grids for each row of values; +inf without a grid."""
    best = np.full(values.shape[0], -np.inf)
    peak = np.full(values.shape[0], np.inf)
    for grid in grids:
        curves = grid.curves(batch_sizes)
        centred = curves - (curves @ weights / weights.sum())[:, None]
        score = 2 * values @ (centred * weights).T - centred**2 @ weights
        cell = score.argmax(axis=1)
        top = score[np.arange(cell.size), cell]
        found = np.full(cell.size, np.inf) if grid.layout == "rising" else _refined_peak(grid, score, cell)
        peak = np.where(top > best, found, peak)
        best = np.maximum(top, best)
    return peak


def _refined_peak(grid: CurveGrid, score: FloatArray, cell: NDArray[np.intp]) -> FloatArray:
    """Log B_peak at the cells, moved by the parabola through the neighbours on the peak's axis."""
    axis = grid.axes[0]
    stride, index = grid.size // axis.size, np.arange(cell.size)
    position = cell // stride
    inner = np.clip(position, 1, axis.size - 2)
    near = [score[index, cell + (inner - position + step) * stride] for step in (-1, 0, 1)]
    shift = np.where(inner == position, parabola_peak(*near), 0.0)
    return np.asarray(axis[position] + shift * (axis[1] - axis[0]))
