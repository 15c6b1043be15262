"""Curves through the responses near their best, for many draws and batch sizes at once.

No one shape fits every basin. By Lemma 1 of Li et al. 2024 (arXiv 2405.14578, eq. 6) the progress of one step is an
exact parabola in the learning rate itself; over many steps it need not be. So there are several shapes and window
widths, and `optimum` weighs them by how well they predict a left-out learning rate.

Two scales of one response: the *deficit* z >= 0 about, to be minimised, and the *progress* q, to be maximised, equal to
1 at the best cell. For steps z = log(S / S_best), q = S_best / S; for gains q = gain / best gain, z = 1 - q.
Arrays are (n_batch, n_draws, n_lr).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.observables import BoolArray, FloatArray

#: Of a fitted progress at or below this share of the best, the logarithm is not taken.
_LEAST_PROGRESS = 1e-3


class Family(NamedTuple):
    """A shape: a polynomial with these powers in u**skew (in log u for skew 0), u being the relative LR.

    `of_progress` tells which scale it is fitted on. In log LR a quadratic in u**skew goes as x^2 + skew x^3, so
    skew 0 is symmetric, skew > 0 steeper towards large learning rates. A `cliff` has log u and u**skew instead of
    powers: a straight slope that ends in a steep rise.
    """

    name: str
    powers: tuple[int, ...]
    skew: float
    of_progress: bool
    cliff: bool = False


#: How much faster than the learning rate the response rises beyond a cliff's edge.
CLIFFS = (1.0, 2.0, 3.0, 4.0, 6.0)

FAMILIES: tuple[Family, ...] = (
    Family("quadratic in log LR", (0, 1, 2), 0.0, False),
    *(Family(f"quadratic in LR^{skew:g}", (0, 1, 2), skew, False) for skew in (-0.4, 0.3, 0.6, 1.0)),
    Family("cubic in log LR", (0, 1, 2, 3), 0.0, False),
    *(Family(f"slope and LR^{skew:g}", (0, 1, 2), skew, False, cliff=True) for skew in CLIFFS),
    Family("parabola in LR", (0, 1, 2), 1.0, True),
    Family("parabola in LR through zero", (1, 2), 1.0, True),
)
#: A window holds the learning rates whose progress is at least this share of the best.
WINDOWS: tuple[float, ...] = (0.75, 0.5, 0.3)


class Candidate(NamedTuple):
    """One estimator: a shape and a window."""

    family: Family
    least_progress: float


def candidates(log_deficit: bool) -> tuple[Candidate, ...]:
    """The estimators; for gains, deficit and progress are the same but for the sign, so one parabola in LR is enough.

    >>> len(candidates(True)), len(candidates(False))
    (39, 33)
    """
    families = [family for family in FAMILIES if log_deficit or family.of_progress or family.skew != 1.0]
    return tuple(Candidate(family, share) for family in families for share in WINDOWS)


@dataclass(frozen=True, eq=False)
class Basins:
    """What the shapes are fitted to.

    Attributes:
        x: (n_batch, n_lr) log LR relative to `centre`; NaN where a batch size has no such learning rate.
        weights: (n_batch, n_lr) inverse variances of the cells' deficits, up to a common factor.
        deficit: (n_batch, n_draws, n_lr) NaN where not usable.
        log_deficit: whether deficit and progress are tied by z = -log q (steps) or by z = 1 - q (gains).
    """

    x: FloatArray
    weights: FloatArray
    deficit: FloatArray
    log_deficit: bool

    def progress(self) -> FloatArray:
        """(n_batch, n_draws, n_lr) q of every cell."""
        return np.exp(-self.deficit) if self.log_deficit else 1.0 - self.deficit

    def take(self, draws: NDArray[np.intp]) -> Basins:
        """Only these draws."""
        return Basins(self.x, self.weights, self.deficit[:, draws], self.log_deficit)

    def tolerance(self, least_progress: float) -> float:
        """The deficit that this share of the best progress is."""
        return float(-np.log(least_progress)) if self.log_deficit else 1.0 - least_progress


@dataclass(frozen=True, eq=False)
class Window:
    """A contiguous stretch of usable learning rates about the best one; all (n_batch, n_draws).

    `best`, `first` and `last` are columns; `low` and `high` bound where the optimum may be sought: half a grid step
    beyond the stretch, or its end where that is the end of the grid, which `grid_low` and `grid_high` tell.
    `wall_low` and `wall_high` tell where the learning rate next to the best one is in the grid but not usable.
    """

    inside: BoolArray
    best: NDArray[np.intp]
    low: FloatArray
    high: FloatArray
    grid_low: BoolArray
    grid_high: BoolArray
    wall_low: BoolArray
    wall_high: BoolArray


@dataclass(frozen=True, eq=False)
class Minima:
    """Where fitted curves are lowest; all (n_batch, n_draws). `x` is +-inf beyond the grid."""

    x: FloatArray
    deficit: FloatArray


def find_window(basins: Basins, least_progress: float, n_least: int) -> Window:
    """The window of this width, widened to hold at least `n_least` learning rates where there are so many.

    It always holds the usable neighbours of the best learning rate: without the steep side of a cliff no curve turns.
    """
    deficit = np.where(np.isnan(basins.deficit), np.inf, basins.deficit)
    columns = np.arange(deficit.shape[2])
    best = deficit.argmin(axis=2)
    lowest = np.take_along_axis(deficit, best[..., None], 2)
    near = np.isfinite(deficit) & (deficit <= lowest + basins.tolerance(least_progress))
    near |= np.isfinite(deficit) & (np.abs(columns - best[..., None]) == 1)
    blocked_low = np.where(~near & (columns < best[..., None]), columns, -1).max(axis=2)
    blocked_high = np.where(~near & (columns > best[..., None]), columns, deficit.shape[2]).min(axis=2)
    first, last = blocked_low + 1, blocked_high - 1
    padded = np.pad(deficit, ((0, 0), (0, 0), (1, 1)), constant_values=np.inf)
    for _ in range(n_least - 1):
        left = np.take_along_axis(padded, first[..., None], 2)[..., 0]
        right = np.take_along_axis(padded, (last + 2)[..., None], 2)[..., 0]
        short = (last - first + 1 < n_least) & np.isfinite(np.minimum(left, right))
        first = np.where(short & (left <= right), first - 1, first)
        last = np.where(short & (left > right), last + 1, last)
    inside = (columns >= first[..., None]) & (columns <= last[..., None]) & np.isfinite(deficit)
    return _bounded(basins.x, inside, best, first, last)


def _bounded(
    x: FloatArray, inside: BoolArray, best: NDArray[np.intp], first: NDArray[np.intp], last: NDArray[np.intp]
) -> Window:
    n_lr = x.shape[1]
    ends = np.isfinite(x).sum(axis=1)[:, None] - 1
    rows = np.arange(x.shape[0])[:, None]
    grid_low, grid_high = first <= 0, last >= ends
    low = np.where(grid_low, x[rows, first], (x[rows, first] + x[rows, np.maximum(first - 1, 0)]) / 2)
    after = np.minimum(last + 1, n_lr - 1)
    high = np.where(grid_high, x[rows, last], (x[rows, last] + x[rows, after]) / 2)
    wall_low, wall_high = (best == first) & ~grid_low, (best == last) & ~grid_high
    return Window(inside, best, low, high, grid_low, grid_high, wall_low, wall_high)


def design(basins: Basins, family: Family) -> FloatArray:
    """(n_batch, n_lr, n_coefficients) powers of log LR or of LR, both relative to the centre."""
    return np.stack(_terms(np.where(np.isfinite(basins.x), basins.x, 0.0), family), axis=2)


def fit_curves(basins: Basins, family: Family, window: Window) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares in every window.

    Returns:
        The coefficients (n_batch, n_draws, n_coefficients), and the inverse normal matrices.
    """
    columns = design(basins, family)
    n_batch, n_lr, n_coef = columns.shape
    response, weights = _fit_scale(basins, family, window)
    products = (columns[..., :, None] * columns[..., None, :]).reshape(n_batch, n_lr, n_coef**2)
    normal = (weights @ products).reshape(n_batch, -1, n_coef, n_coef)
    # The relative ridge only decides windows with fewer points than coefficients, which are not used.
    ridge = 1e-10 * np.einsum("bdii->bdi", normal) + 1e-12
    normal = normal + ridge[..., None] * np.eye(n_coef)
    inverse = np.linalg.inv(normal)
    right = (weights * response) @ columns
    return np.einsum("bdij,bdj->bdi", inverse, right), inverse


def _fit_scale(basins: Basins, family: Family, window: Window) -> tuple[FloatArray, FloatArray]:
    """Response and weights, (n_batch, n_draws, n_lr), on the scale that the family is fitted on."""
    base = np.where(np.isfinite(basins.weights), basins.weights, 0.0)[:, None, :]
    if not family.of_progress:
        return np.where(window.inside, basins.deficit, 0.0), base * window.inside
    progress = np.where(window.inside, basins.progress(), 1.0)
    # sd(q) = q sd(log q): equal relative noise means weights 1 / q^2.
    return progress, base * window.inside * (progress**-2 if basins.log_deficit else 1.0)


def left_out_errors(basins: Basins, family: Family, window: Window) -> FloatArray:
    """(n_batch, n_draws, n_lr) observed minus predicted deficit of each cell when it is left out of its own fit."""
    columns = design(basins, family)
    coefficients, inverse = fit_curves(basins, family, window)
    response, weights = _fit_scale(basins, family, window)
    fitted = np.einsum("bdi,bli->bdl", coefficients, columns)
    leverage = weights * np.einsum("bli,bdij,blj->bdl", columns, inverse, columns)
    predicted = response - (response - fitted) / np.maximum(1.0 - leverage, 1e-6)
    return basins.deficit - _deficit_of(predicted, family, basins.log_deficit)


def find_minima(basins: Basins, family: Family, window: Window, places: FloatArray | None = None) -> Minima:
    """The lowest point of each fitted curve within its window's bounds.

    A curve that is lowest at the end of the grid, or whose best cell is there, has its optimum beyond: +-inf. One
    without a minimum inside takes the vertex of the parabola through the best cell and its neighbours; where one of
    them is in the grid but not usable, all that is known is that the optimum lies between the best cell and it.
    Fewer than three usable learning rates give NaN.

    Args:
        basins, family, window: what to fit, and where.
        places: (n_batch, n_draws) in [0, 1], where between the best cell and an unusable neighbour to put an optimum
            of which no more is known; None for halfway.
    """
    coefficients, _ = fit_curves(basins, family, window)
    turning = _turning_point(coefficients, family)
    inside = (turning > window.low) & (turning < window.high)
    at_low = curve_deficit(coefficients, family, window.low, basins.log_deficit)
    at_high = curve_deficit(coefficients, family, window.high, basins.log_deficit)
    falling = at_low > at_high
    x = np.where(inside, turning, _without_turn(basins, window, falling, places))
    deficit = curve_deficit(coefficients, family, x, basins.log_deficit)
    ends = np.isfinite(basins.x).sum(axis=1)[:, None] - 1
    beyond_low = (window.best == 0) | (~inside & ~falling & window.grid_low)
    beyond_high = (window.best == ends) | (~inside & falling & window.grid_high)
    x = np.where(beyond_low, -np.inf, np.where(beyond_high, np.inf, x))
    usable = np.isfinite(basins.deficit).sum(axis=2) >= 3
    return Minima(np.where(usable, x, np.nan), np.where(usable, deficit, np.nan))


def _without_turn(
    basins: Basins, window: Window, falling: BoolArray, places: FloatArray | None
) -> FloatArray:
    """(n_batch, n_draws) the optimum of curves that do not turn; `falling` ones are lowest at large learning rates."""
    rows = np.arange(basins.x.shape[0])[:, None]
    columns = [np.clip(window.best + side, 0, basins.x.shape[1] - 1) for side in (-1, 0, 1)]
    low, best, high = (basins.x[rows, column] for column in columns)
    z_low, z_best, z_high = (
        np.take_along_axis(basins.deficit, column[..., None], 2)[..., 0] for column in columns
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (z_best - z_low) / (best - low), (z_high - z_best) / (high - best)
        # The slope of the parabola is `left` halfway to the lower neighbour and `right` halfway to the higher one.
        vertex = (low + best) / 2 - left * (high - low) / 2 / (right - left)
    share = 0.5 if places is None else places
    beyond = np.where(falling, window.wall_high, ~window.wall_low & window.wall_high)
    gap = best + share * (np.where(beyond, high, low) - best)
    walled = window.wall_low | window.wall_high
    return np.where(walled, gap, np.where(np.isfinite(vertex), vertex, best))


def curve_deficit(coefficients: FloatArray, family: Family, x: FloatArray, log_deficit: bool) -> FloatArray:
    """The deficit of fitted curves at log LR `x` relative to the centre; shapes (..., n_coefficients) and (...)."""
    value = sum(coefficients[..., i] * term for i, term in enumerate(_terms(x, family)))
    return _deficit_of(np.asarray(value), family, log_deficit)


def _deficit_of(value: FloatArray, family: Family, log_deficit: bool) -> FloatArray:
    if not family.of_progress:
        return value
    return -np.log(np.maximum(value, _LEAST_PROGRESS)) if log_deficit else 1.0 - value


def _terms(x: FloatArray, family: Family) -> list[FloatArray]:
    if family.cliff:
        return [np.ones_like(x), x, np.exp(family.skew * x)]
    variable = np.exp(family.skew * x) if family.skew else x
    return [variable**power for power in family.powers]


def _turning_point(coefficients: FloatArray, family: Family) -> FloatArray:
    """Log LR of the minimum of the deficit; NaN where the curve has none."""
    sign = -1.0 if family.of_progress else 1.0
    by_power = {power: sign * coefficients[..., i] for i, power in enumerate(family.powers)}
    linear, square = by_power[1], by_power[2]
    cube = by_power.get(3, np.zeros_like(square))
    with np.errstate(divide="ignore", invalid="ignore"):
        if family.cliff:
            turn = np.log(-linear / (square * family.skew)) / family.skew
            return np.asarray(np.where(square > 0, turn, np.nan))
        # The root of the derivative where the curve bends upwards, in the form that holds for cube -> 0.
        variable = -linear / (square + np.sqrt(square**2 - 3 * cube * linear))
        return np.asarray(np.log(variable) / family.skew if family.skew else variable)
