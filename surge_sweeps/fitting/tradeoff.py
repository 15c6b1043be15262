"""Steps against examples: the critical batch size B_crit from the steps to a target at each batch size.

At constant batch size the paper's hyperbola (eq 20, arXiv 2405.14578) is S = S_min (1 + B_crit/B), fitted by
unweighted least squares in log S: the batch size is exact and only the steps are noisy. Intervals are, at each end,
the wider of the bootstrap over seeds and a profile of the residuals with n - 2 degrees of freedom, which also sees
how far the optima miss the hyperbola.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import f as f_distribution

from surge_sweeps.fitting.draw_patterns import draw_patterns, parabola_peak
from surge_sweeps.fitting.profile import CONFIDENCE, Ends, around, exp_ends, interval, profile_ends
from surge_sweeps.fitting.result import BatchUnit, Interval, TradeoffFit

FloatArray = NDArray[np.float64]

MIN_BATCH_SIZES = 3
#: The batch sizes must reach this factor below and above B_crit for it to be identified.
STRADDLE = 3.0
#: Residuals of log S are taken to be at least this large (standard deviation).
STEPS_SD_FLOOR = 0.005

_REACH = 1000.0
_POINTS = 401
_EXPONENTS = np.geomspace(0.25, 4.0, 65)
_MIN_FOR_EXPONENT = 5


@dataclass(frozen=True, eq=False)
class TradeoffDetails:
    """A trade-off fit and what it rests on.

    Attributes:
        fit: the result. log_b_crit_draws: (n_draws,) log B_crit of every bootstrap draw, spread out about the
            estimate to the width of the reported interval; -inf or inf where a draw shows no bend, NaN where it has
            fewer than three batch sizes.
        exponent: q of S = S_min (1 + (B_crit/B)^q), which is 1 for the hyperbola. warning: a sentence where the
            interval of q excludes 1, else empty.
    """

    fit: TradeoffFit
    log_b_crit_draws: FloatArray
    exponent: Interval
    warning: str


class _Grid(NamedTuple):
    """Candidate log B_crit (G,), and log(1 + B_crit/B) at the n batch sizes (G, n)."""

    log_b_crit: FloatArray
    curves: FloatArray


def fit_tradeoff(
    batch_sizes: FloatArray, log_steps: FloatArray, log_steps_draws: FloatArray, batch_unit: BatchUnit
) -> TradeoffFit | None:
    """Fit S_min, E_min and B_crit; None with fewer than three batch sizes of known steps.

    Args:
        batch_sizes: (n,), in `batch_unit`. log_steps: (n,) log of the steps to the target at the optimal learning
            rate, NaN where unknown. log_steps_draws: (n_draws, n) bootstrap draws of it; may have no rows.

    >>> b = np.array([8.0, 32.0, 128.0, 512.0, 2048.0])
    >>> fit = fit_tradeoff(b, np.log(50 * (1 + 100 / b)), np.empty((0, 5)), "examples")
    >>> round(fit.b_crit.estimate, 1), round(fit.s_min, 1), round(fit.e_min)
    (100.0, 50.0, 5000)
    """
    details = analyse_tradeoff(batch_sizes, log_steps, log_steps_draws, batch_unit)
    return None if details is None else details.fit


def analyse_tradeoff(
    batch_sizes: FloatArray, log_steps: FloatArray, log_steps_draws: FloatArray, batch_unit: BatchUnit
) -> TradeoffDetails | None:
    """As `fit_tradeoff`, with the draws of B_crit and the checks of the hyperbola.

    >>> b = np.array([8.0, 32.0, 128.0, 512.0, 2048.0])
    >>> analyse_tradeoff(b, np.log(50 * (1 + (100 / b) ** 0.5)), np.empty((0, 5)), "examples").warning
    'Steps fall with the batch size more slowly than the hyperbola: its exponent is 0.50 (0.47 to 0.53), not 1.'
    """
    known = np.isfinite(log_steps)
    b, y = np.asarray(batch_sizes, float)[known], log_steps[known]
    if b.size < MIN_BATCH_SIZES:
        return None
    grid = _grid(b, 1.0)
    log_b_crit, squares = _best(b, y, grid)
    draws = _draw_fits(log_steps_draws[:, known], grid)
    ends = _ends(b, y, grid, log_b_crit, squares, draws)
    fit = _tradeoff_fit(b, y, log_b_crit, ends, batch_unit)
    exponent = _exponent(b, y)
    return TradeoffDetails(
        fit,
        _spread(draws[0], log_b_crit, ends[0]),
        exponent,
        _exponent_warning(exponent),
    )


def _grid(b: FloatArray, exponent: float) -> _Grid:
    log_b_crit = np.linspace(math.log(b.min() / _REACH), math.log(b.max() * _REACH), _POINTS)
    return _Grid(log_b_crit, np.logaddexp(0.0, exponent * (log_b_crit[:, None] - np.log(b))))


def _squares(y: FloatArray, curves: FloatArray) -> FloatArray:
    """(G,) residual sum of squares of each curve at its best level."""
    residual = y - curves
    return np.asarray(((residual - residual.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))


def _best(b: FloatArray, y: FloatArray, grid: _Grid, exponent: float = 1.0) -> tuple[float, float]:
    """Log B_crit and the sum of squares at the minimum, refined within one grid step; infinite at the grid's ends."""
    squares = _squares(y, grid.curves)
    cell = int(np.argmin(squares))
    if cell in (0, squares.size - 1):
        return (-math.inf if cell == 0 else math.inf), float(squares[cell])

    def loss(log_b_crit: float) -> float:
        return float(_squares(y, np.logaddexp(0.0, exponent * (log_b_crit - np.log(b)))[None])[0])

    around_cell = (float(grid.log_b_crit[cell - 1]), float(grid.log_b_crit[cell + 1]))
    found = minimize_scalar(loss, bounds=around_cell, method="bounded", options={"xatol": 1e-7})
    return float(found.x), float(found.fun)


def _least_squares_on_grid(squares: FloatArray) -> float:
    """Minimum over an evenly spaced grid, by the parabola through the three lowest neighbours."""
    cell = int(np.argmin(squares))
    if cell in (0, squares.size - 1):
        return float(squares[cell])
    left, middle, right = squares[cell - 1 : cell + 2]
    bend = left - 2 * middle + right
    return float(max(middle - (left - right) ** 2 / (8 * bend), 0.0)) if bend > 0 else float(middle)


def _draw_fits(draws: FloatArray, grid: _Grid) -> tuple[FloatArray, FloatArray]:
    """(n_draws,) log B_crit and log S_min of every draw."""
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
        value = np.where(
            cell == 0, -np.inf, np.where(cell == _POINTS - 1, np.inf, grid.log_b_crit[inner] + shift * step)
        )
        log_b_crit[rows] = value
        log_s_min[rows] = (y - curves[cell]).mean(axis=1) - np.where(
            inner == cell, shift * (curves[inner + 1] - curves[inner - 1]).mean(axis=1) / 2, 0.0
        )
    return log_b_crit, log_s_min


def _ends(
    b: FloatArray,
    y: FloatArray,
    grid: _Grid,
    log_b_crit: float,
    squares: float,
    draws: tuple[FloatArray, FloatArray],
) -> tuple[Ends, Ends, Ends]:
    """Ends of log B_crit, log S_min and log E_min."""
    values, curves = grid.log_b_crit, grid.curves
    if math.isfinite(log_b_crit):
        at = int(np.searchsorted(values, log_b_crit))
        values = np.insert(values, at, log_b_crit)
        curves = np.insert(curves, at, np.logaddexp(0.0, log_b_crit - np.log(b)), axis=0)
    rise, allowed = _squares(y, curves), _allowed_rise(squares, b.size, 2)
    b_ends = profile_ends(values, -0.5 * rise, -0.5 * squares, allowed)
    inside = rise <= squares + allowed
    half = np.sqrt(np.maximum(squares + allowed - rise[inside], 0.0) / b.size)
    s_min = (y - curves[inside]).mean(axis=1)
    e_min = s_min + values[inside]
    s_ends = Ends(None if inside[-1] else float((s_min - half).min()), float((s_min + half).max()))
    e_ends = Ends(None if inside[0] else float((e_min - half).min()), float((e_min + half).max()))
    log_b, log_s = draws
    with np.errstate(invalid="ignore"):
        log_e = log_s + log_b
    return _widened(b_ends, log_b), _widened(s_ends, log_s), _widened(e_ends, log_e)


def _allowed_rise(squares: float, n: int, parameters: int) -> float:
    """How far the sum of squares may rise inside the 95% interval: F-based, infinite without a degree of freedom."""
    free = n - parameters
    variance = max(squares / free, STEPS_SD_FLOOR**2)
    return variance * float(f_distribution.ppf(CONFIDENCE, 1, free))


def _widened(ends: Ends, draws: FloatArray) -> Ends:
    """The wider, at each end, of a profile interval and the central 95% of the draws."""
    draws = draws[~np.isnan(draws)]
    if not draws.size:
        return ends
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, tail, method="lower"), np.quantile(draws, 1 - tail, method="higher")
    return Ends(
        None if ends.low is None or not np.isfinite(low) else min(ends.low, float(low)),
        None if ends.high is None or not np.isfinite(high) else max(ends.high, float(high)),
    )


def _tradeoff_fit(
    b: FloatArray, y: FloatArray, log_b_crit: float, ends: tuple[Ends, Ends, Ends], batch_unit: BatchUnit
) -> TradeoffFit:
    definition = (
        f"B_crit = E_min/S_min in {batch_unit}: the batch size at which reaching the target takes twice the fewest "
        "steps and twice the fewest examples"
    )
    from_below = math.log(b.min()) < log_b_crit - math.log(STRADDLE)
    from_above = math.log(b.max()) > log_b_crit + math.log(STRADDLE)
    low, high = ends[0]
    b_ends = exp_ends(Ends(low if from_below else None, high if from_above else None))
    estimate = math.exp(log_b_crit) if from_below and from_above else None
    b_crit = interval(estimate, around(b_ends, estimate), definition)
    log_s = log_e = None
    if math.isfinite(log_b_crit):
        log_s = float((y - np.logaddexp(0.0, log_b_crit - np.log(b))).mean())
        log_e = log_s + log_b_crit
    s_min, s_low, s_high = _quantity(log_s if from_above else None, ends[1], low_known=from_above)
    e_min, e_low, e_high = _quantity(log_e if from_below else None, ends[2], low_known=from_below)
    return TradeoffFit(
        s_min=s_min,
        s_min_low=s_low,
        s_min_high=s_high,
        e_min=e_min,
        e_min_low=e_low,
        e_min_high=e_high,
        b_crit=b_crit,
    )


def _quantity(log_estimate: float | None, ends: Ends, *, low_known: bool) -> tuple[float | None, ...]:
    """Estimate, low, high of S_min or E_min; where the data do not reach its regime only its high end is known."""
    low, high = exp_ends(Ends(ends.low if low_known else None, ends.high))
    if log_estimate is None:
        return None, None, high
    estimate = math.exp(log_estimate)
    return (estimate, *around(Ends(low, high), estimate))


def _spread(draws: FloatArray, estimate: float, ends: Ends) -> FloatArray:
    """Draws moved away from the estimate until their central 95% is as wide as the interval."""
    finite = draws[~np.isnan(draws)]
    if ends.low is None or ends.high is None or not finite.size or not math.isfinite(estimate):
        return draws
    low, high = np.quantile(finite, [0.025, 0.975])
    if not 0 < high - low < math.inf:
        return draws
    return np.asarray(estimate + max(1.0, (ends.high - ends.low) / float(high - low)) * (draws - estimate))


_EXPONENT = "q of S = S_min (1 + (B_crit/B)^q): 1 for the hyperbola"


def _exponent(b: FloatArray, y: FloatArray) -> Interval:
    """Profile interval of q; not identified with fewer than five batch sizes."""
    if b.size < _MIN_FOR_EXPONENT:
        return Interval(definition=_EXPONENT)
    log_q = np.log(_EXPONENTS)
    squares = np.array([_least_squares_on_grid(_squares(y, _grid(b, q).curves)) for q in _EXPONENTS])
    cell = int(np.argmin(squares))
    if cell in (0, log_q.size - 1):
        return Interval(definition=_EXPONENT)
    shift = float(parabola_peak(*(-squares[[cell + k]] for k in (-1, 0, 1)))[0])
    estimate = float(log_q[cell] + shift * (log_q[1] - log_q[0]))
    ends = profile_ends(
        log_q, -0.5 * squares, -0.5 * squares[cell], _allowed_rise(float(squares[cell]), b.size, 3)
    )
    value = math.exp(estimate)
    return interval(value, around(exp_ends(ends), value), _EXPONENT)


def _exponent_warning(exponent: Interval) -> str:
    if exponent.estimate is None or exponent.low is None or exponent.high is None:
        return ""
    if exponent.low <= 1 <= exponent.high:
        return ""
    pace = "more slowly" if exponent.estimate < 1 else "faster"
    return (
        f"Steps fall with the batch size {pace} than the hyperbola: its exponent is {exponent.estimate:.2f} "
        f"({exponent.low:.2f} to {exponent.high:.2f}), not 1."
    )
