"""Curves through the responses near their best, for many draws and batch sizes at once.

No one shape fits every basin. By Lemma 1 of Li et al. 2024 (arXiv 2405.14578, eq. 6) the progress of one step is an
exact parabola in the learning rate itself; over many steps it need not be. So there are several shapes and window
widths, and `selection` weighs them by how well they hold and how much they explain.

Two scales of one response: the *deficit* z >= 0 about, to be minimised, and the *progress* q, to be maximised, equal to
1 at the best cell. For steps z = log(S / S_best), q = S_best / S; for gains q = gain / best gain, z = 1 - q.
Arrays are (n_batch, n_draws, n_lr).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.observables.responses import BoolArray, FloatArray

#: Of a fitted progress at or below this share of the best, the logarithm is not taken.
_LEAST_PROGRESS = 1e-3
_FARTHEST = 100.0


class Family(NamedTuple):
    """A shape: a polynomial with these powers in u**skew (in log u for skew 0), u being the relative LR.

    `of_progress` tells which scale it is fitted on. In log LR a quadratic in u**skew goes as x^2 + skew x^3, so
    skew 0 is symmetric, skew > 0 steeper towards large learning rates. A `cliff` has log u and u**skew instead of
    powers: a straight slope that ends in a steep rise, on the side that the sign of its skew says.
    """

    name: str
    powers: tuple[int, ...]
    skew: float
    of_progress: bool
    cliff: bool = False


def _both_signs(*sizes: float) -> tuple[float, ...]:
    return tuple(sign * size for sign in (-1.0, 1.0) for size in sizes)


#: Skews of the quadratics, and how much faster than the learning rate the response rises beyond a cliff's edge. They
#: are close enough that a basin between two of them is told from neither by less than the runs' scatter.
SKEWS = _both_signs(0.2, 0.4, 0.7, 1.0, 1.5, 2.0)
CLIFFS = _both_signs(0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)

_THROUGH_ZERO = "parabola in LR through zero"
FAMILIES: tuple[Family, ...] = (
    Family("quadratic in log LR", (0, 1, 2), 0.0, False),
    *(Family(f"quadratic in LR^{skew:g}", (0, 1, 2), skew, False) for skew in SKEWS),
    Family("cubic in log LR", (0, 1, 2, 3), 0.0, False),
    *(Family(f"slope and LR^{skew:g}", (0, 1, 2), skew, False, cliff=True) for skew in CLIFFS),
    Family("parabola in LR", (0, 1, 2), 1.0, True),
    Family(_THROUGH_ZERO, (1, 2), 1.0, True),
)
#: A window holds the learning rates whose progress is at least this share of the best.
WINDOWS: tuple[float, ...] = (0.75, 0.5, 0.3, 0.15, 0.05, 0.01)


class Scale(Enum):
    """How deficit z and progress q of the responses are tied.

    STEPS: z = -log q. GAIN: z = 1 - q, no gain at LR 0. LOSS: z = 1 - q in an arbitrary unit, a loss at LR 0 too.
    """

    STEPS = "steps"
    GAIN = "gain"
    LOSS = "loss"


class Candidate(NamedTuple):
    """One estimator: a shape and a window."""

    family: Family
    least_progress: float


@cache
def candidates(scale: Scale) -> tuple[Candidate, ...]:
    """The estimators that make sense on a scale; but for steps, deficit and progress differ by the sign alone.

    >>> len(candidates(Scale.STEPS)), len(candidates(Scale.GAIN)), len(candidates(Scale.LOSS))
    (288, 282, 276)
    """
    families = [
        family
        for family in FAMILIES
        if (scale is Scale.STEPS or family.of_progress or family.cliff or family.skew != 1.0)
        and (scale is not Scale.LOSS or family.name != _THROUGH_ZERO)
    ]
    return tuple(Candidate(family, share) for family in families for share in WINDOWS)


@dataclass(frozen=True, eq=False)
class Basins:
    """What the shapes are fitted to.

    Attributes:
        x: (n_batch, n_lr) log LR relative to `centre`; NaN where a batch size has no such learning rate.
        weights: (n_batch, n_lr) inverse variances of the cells' deficits, up to a common factor.
        deficit: (n_batch, n_draws, n_lr) NaN where not usable.
        scale: how deficit and progress are tied.
    """

    x: FloatArray
    weights: FloatArray
    deficit: FloatArray
    scale: Scale

    def progress(self) -> FloatArray:
        """(n_batch, n_draws, n_lr) q of every cell."""
        return np.exp(-self.deficit) if self.scale is Scale.STEPS else 1.0 - self.deficit

    def take(self, draws: NDArray[np.intp]) -> Basins:
        """Only these draws."""
        return Basins(self.x, self.weights, self.deficit[:, draws], self.scale)

    def tolerance(self, least_progress: float) -> float:
        """The deficit that this share of the best progress is."""
        return float(-np.log(least_progress)) if self.scale is Scale.STEPS else 1.0 - least_progress


class Window(NamedTuple):
    """A contiguous stretch of usable learning rates about the best one; all (n_batch, n_draws).

    `best`, `first` and `last` are columns; `low` and `high` bound where the optimum may be sought: half a grid step
    beyond the stretch, or its end where that is the end of the grid, which `grid_low` and `grid_high` tell.
    `wall_low` and `wall_high` tell where no learning rate beyond the best one is usable although the grid goes on.
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
    A learning rate that is not usable ends it only if none beyond is: a run can fail for reasons of its own.
    """
    usable = np.isfinite(basins.deficit)
    deficit = np.where(usable, basins.deficit, np.inf)
    columns = np.arange(deficit.shape[2])
    best = deficit.argmin(axis=2)
    left, right = _usable_neighbours(usable)
    near = deficit <= np.take_along_axis(deficit, best[..., None], 2) + basins.tolerance(least_progress)
    for neighbour in (left, right):
        near |= columns == np.take_along_axis(neighbour, best[..., None], 2)
    far = usable & ~near
    blocked_low = np.where(far & (columns < best[..., None]), columns, -1).max(axis=2)
    blocked_high = np.where(far & (columns > best[..., None]), columns, deficit.shape[2]).min(axis=2)
    inside = usable & (columns > blocked_low[..., None]) & (columns < blocked_high[..., None])
    first = np.where(inside, columns, deficit.shape[2]).min(axis=2).clip(max=deficit.shape[2] - 1)
    last = np.where(inside, columns, 0).max(axis=2)
    padded = np.pad(deficit, ((0, 0), (0, 0), (1, 1)), constant_values=np.inf)
    for _ in range(n_least - 1):
        before = np.take_along_axis(left, first[..., None], 2)
        after = np.take_along_axis(right, last[..., None], 2)
        z_before = np.take_along_axis(padded, before + 1, 2)[..., 0]
        z_after = np.take_along_axis(padded, after + 1, 2)[..., 0]
        short = (inside.sum(axis=2) < n_least) & np.isfinite(np.minimum(z_before, z_after))
        first = np.where(short & (z_before <= z_after), before[..., 0], first)
        last = np.where(short & (z_before > z_after), after[..., 0], last)
        inside = usable & (columns >= first[..., None]) & (columns <= last[..., None])
    return _bounded(basins.x, inside, best, first, last)


def _usable_neighbours(usable: BoolArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For every column the next usable one to its left (-1: none) and to its right (n_lr: none)."""
    n_lr = usable.shape[2]
    columns = np.arange(n_lr)
    up_to = np.maximum.accumulate(np.where(usable, columns, -1), axis=2)
    down_to = np.minimum.accumulate(np.where(usable, columns, n_lr)[..., ::-1], axis=2)[..., ::-1]
    left = np.concatenate([np.full((*usable.shape[:2], 1), -1), up_to[..., :-1]], axis=2)
    right = np.concatenate([down_to[..., 1:], np.full((*usable.shape[:2], 1), n_lr)], axis=2)
    return left, right


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
    response, weights = fit_scale(basins, family, window)
    return _least_squares(design(basins, family), response, weights)


def _least_squares(
    columns: FloatArray, response: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    n_batch, n_lr, n_coef = columns.shape
    products = (columns[..., :, None] * columns[..., None, :]).reshape(n_batch, n_lr, n_coef**2)
    normal = (weights @ products).reshape(n_batch, -1, n_coef, n_coef)
    # The relative ridge only decides windows with fewer points than coefficients, which are not used.
    ridge = 1e-10 * np.einsum("bdii->bdi", normal) + 1e-12
    normal = normal + ridge[..., None] * np.eye(n_coef)
    inverse = np.linalg.inv(normal)
    right = (weights * response) @ columns
    return np.einsum("bdij,bdj->bdi", inverse, right), inverse


def fit_scale(basins: Basins, family: Family, window: Window) -> tuple[FloatArray, FloatArray]:
    """Response and weights, (n_batch, n_draws, n_lr), on the scale that the family is fitted on; weight 0 outside."""
    base = np.where(np.isfinite(basins.weights), basins.weights, 0.0)[:, None, :]
    if not family.of_progress:
        return np.where(window.inside, basins.deficit, 0.0), base * window.inside
    progress = np.where(window.inside, basins.progress(), 1.0)
    # sd(q) = q sd(log q): equal relative noise means weights 1 / q^2.
    return progress, base * window.inside * (
        np.maximum(progress, _LEAST_PROGRESS) ** -2 if basins.scale is Scale.STEPS else 1.0
    )


def misfits(basins: Basins, families: Sequence[Family], window: Window) -> FloatArray:
    """(n_families, n_batch) weighted squared residuals, all families at once.

    Args:
        basins, window: what to fit, of one draw, and where.
        families: of equally many powers, all fitted on the same scale.
    """
    columns = np.concatenate([design(basins, family) for family in families])
    response, weights = fit_scale(basins, families[0], window)
    shape = (len(families), 1, 1)
    tiled_response, tiled_weights = np.tile(response, shape), np.tile(weights, shape)
    coefficients, _ = _least_squares(columns, tiled_response, tiled_weights)
    fitted = np.einsum("bdi,bli->bdl", coefficients, columns)
    residual = tiled_response - fitted
    squares = np.where(tiled_weights > 0, tiled_weights * residual**2, 0.0).sum(axis=(1, 2))
    return np.asarray(squares.reshape(len(families), -1))


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
    at_low = curve_deficit(coefficients, family, window.low, basins.scale)
    at_high = curve_deficit(coefficients, family, window.high, basins.scale)
    falling = at_low > at_high
    x = np.where(inside, turning, _without_turn(basins, window, falling, places))
    deficit = curve_deficit(coefficients, family, x, basins.scale)
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
    rows, n_lr = np.arange(basins.x.shape[0])[:, None], basins.x.shape[1]
    left, right = _usable_neighbours(np.isfinite(basins.deficit))
    at_best = window.best[..., None]
    # Beyond a wall the next learning rate of the grid stands for the one that is not usable.
    before = np.where(window.wall_low, window.best - 1, np.take_along_axis(left, at_best, 2)[..., 0])
    after = np.where(window.wall_high, window.best + 1, np.take_along_axis(right, at_best, 2)[..., 0])
    columns = [np.clip(column, 0, n_lr - 1) for column in (before, window.best, after)]
    low, best, high = (basins.x[rows, column] for column in columns)
    z_low, z_best, z_high = (
        np.take_along_axis(basins.deficit, column[..., None], 2)[..., 0] for column in columns
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        slope_low, slope_high = (z_best - z_low) / (best - low), (z_high - z_best) / (high - best)
        # The slope of the parabola is `slope_low` halfway to the lower neighbour, `slope_high` to the higher one.
        vertex = (low + best) / 2 - slope_low * (high - low) / 2 / (slope_high - slope_low)
    share = 0.5 if places is None else places
    beyond = np.where(falling, window.wall_high, ~window.wall_low & window.wall_high)
    gap = best + share * (np.where(beyond, high, low) - best)
    walled = window.wall_low | window.wall_high
    return np.asarray(np.where(walled, gap, np.where(np.isfinite(vertex), vertex, best)))


def curve_deficit(coefficients: FloatArray, family: Family, x: FloatArray, scale: Scale) -> FloatArray:
    """The deficit of fitted curves at log LR `x` relative to the centre; shapes (..., n_coefficients) and (...)."""
    value = sum(coefficients[..., i] * term for i, term in enumerate(_terms(x, family)))
    return _deficit_of(np.asarray(value), family, scale)


def _deficit_of(value: FloatArray, family: Family, scale: Scale) -> FloatArray:
    if not family.of_progress:
        return value
    return -np.log(np.maximum(value, _LEAST_PROGRESS)) if scale is Scale.STEPS else 1.0 - value


def _terms(x: FloatArray, family: Family) -> list[FloatArray]:
    # No window reaches so far; the bound only keeps squares of learning rates far outside from overflowing.
    variable = np.exp(np.clip(family.skew * x, -_FARTHEST, _FARTHEST)) if family.skew else x
    if family.cliff:
        return [np.ones_like(x), x, variable]
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
