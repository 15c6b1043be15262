"""Likelihood of optimal learning rates under a law: what is observed, and how well a curve explains it.

An optimum inside its learning-rate grid is a value; the values have the covariance of the bootstrap draws. One at the
grid's edge is a bound and enters by the probability of lying beyond it. Every curve is free in its level (the log of
its first parameter) and every law has one extra scatter, a standard deviation that adds to the noise of every optimum,
so that a law that is only nearly right is not judged by precision it cannot have. Both are solved for on whole grids
of curves at once: in the eigenvectors of the covariance the values are independent, whatever the extra scatter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from surge_sweeps.fitting.laws.noise import draw_correlation, moderated_variance
from surge_sweeps.fitting.optimum.optima import Optima

FloatArray = NDArray[np.float64]

#: Smallest standard deviation of a log LR: seeds alone can agree by chance, and then the fit would hang on them.
SD_FLOOR = 0.005

#: Extra scatters (standard deviations of log LR) that are tried: none, then from 0.01 to 3 in equal ratios.
SCATTER_SDS: FloatArray = np.concatenate([[0.0], np.geomspace(0.01, 3.0, 30)])

_NEWTON_STEPS = 8
_LEVEL_TOLERANCE = 1e-7
_STRIDE = 5
_LOG_TAU = math.log(2 * math.pi)
# A curve this much less likely than the best one (in log likelihood) is not worth an exact treatment of the bounds.
_HOPELESS = 16.0


class NoiseAxes(NamedTuple):
    """The v values in coordinates where their noise is independent: y -> y @ `rotation`.

    `variance` (v,) of each coordinate; `rotation` (v, v) orthogonal; `ones` (v,) what a shift of all values by 1 is.
    """

    variance: FloatArray
    rotation: FloatArray
    ones: FloatArray


@dataclass(frozen=True, eq=False)
class Observations:
    """The optima that say something, ascending in batch size.

    Attributes:
        batch_sizes: (n,). log_lr: (n,) the value, or the bound. variance: (n,) of `log_lr` from the draws.
        side: (n,) 0 where `log_lr` is a value, +1 where the optimum is at or above it, -1 at or below.
        correlation: (v, v) of the noise of the v values; None where it is independent. Bounds are independent.
    """

    batch_sizes: FloatArray
    log_lr: FloatArray
    variance: FloatArray
    side: NDArray[np.int8]
    correlation: FloatArray | None = None

    @property
    def values(self) -> NDArray[np.bool_]:
        """(n,) where `log_lr` is a value."""
        return np.asarray(self.side == 0)

    def median_sd(self) -> float:
        """Median standard deviation of log LR over the values, NaN without any."""
        return float(np.median(np.sqrt(self.variance[self.values]))) if self.values.any() else math.nan

    @cached_property
    def axes(self) -> NoiseAxes:
        """The coordinates of independent noise, no variance below `SD_FLOOR` squared."""
        variance = self.variance[self.values]
        if self.correlation is None:
            return NoiseAxes(variance, np.eye(variance.size), np.ones(variance.size))
        sd = np.sqrt(variance)
        found, rotation = np.linalg.eigh(self.correlation * np.outer(sd, sd))
        return NoiseAxes(np.maximum(found, SD_FLOOR**2), rotation, rotation.sum(axis=0))

    def covariance(self, scatter_sd: float = 0.0) -> FloatArray:
        """(v, v) covariance of the values, an extra scatter included."""
        variance, rotation, _ = self.axes
        return np.asarray(rotation * (variance + scatter_sd**2) @ rotation.T)

    def without(self, index: int) -> Observations:
        """All but one of the n optima."""
        keep = np.arange(self.side.size) != index
        correlation = self.correlation
        if correlation is not None and self.values[index]:
            rest = keep[self.values]
            correlation = correlation[np.ix_(rest, rest)]
        return Observations(
            self.batch_sizes[keep], self.log_lr[keep], self.variance[keep], self.side[keep], correlation
        )

    def with_values(self, log_lr: FloatArray) -> Observations:
        """Other (v,) values with the same noise."""
        moved = self.log_lr.copy()
        moved[self.values] = log_lr
        return replace(self, log_lr=moved)


@dataclass(frozen=True, eq=False)
class LevelFit:
    """The best level of each of G curves at each of K extra scatters, all (G, K).

    Attributes:
        level: log of the multiplier. log_likelihood: at that level.
    """

    level: FloatArray
    log_likelihood: FloatArray


def observe(optima: Optima) -> Observations:
    """Turn optima into values and bounds, with the noise that their draws show (`noise`).

    A value of which more than a sixth of the draws lie beyond the grid is a bound too, at its open side: one standard
    deviation short of it, as far as that is known. Values without draws get the smallest variance, `SD_FLOOR` squared.

    >>> none = np.full((0, 2), np.nan)
    >>> optima = Optima(np.array([4.0, 8.0]), np.log([0.1, 0.2]), ("ok", "edge_high"), none,
    ...                 np.full(2, np.nan), none, (3, 3))
    >>> observe(optima).side.tolist()
    [0, 1]
    """
    sd = optima.log_lr_sd()
    drawn = np.isfinite(sd)
    sd = np.where(np.isnan(sd), SD_FLOOR, np.maximum(sd, SD_FLOOR))
    log_lr, side = optima.log_lr.copy(), np.zeros(sd.shape, np.int8)
    keep = np.zeros(sd.shape, bool)
    for index, status in enumerate(optima.status):
        if status in ("edge_high", "edge_low"):
            side[index], sd[index], keep[index] = (1 if status == "edge_high" else -1), np.nan, True
            log_lr[index] -= side[index] * optima.edge_slack
        elif status in ("ok", "given"):
            keep[index] = True
            if not np.isfinite(sd[index]):
                log_lr[index], side[index] = _as_bound(optima.draws[:, index])
                sd[index], keep[index] = np.nan, bool(np.isfinite(log_lr[index]))
    values = keep & (side == 0)
    batch_sizes = optima.batch_sizes.astype(float)
    sd[values & drawn] = np.sqrt(moderated_variance(sd[values & drawn] ** 2, batch_sizes[values & drawn]))
    sd[np.isnan(sd)] = np.median(sd[values]) if values.any() else SD_FLOOR
    correlation = draw_correlation(np.where(drawn, optima.draws, np.nan)[:, values])
    return Observations(batch_sizes[keep], log_lr[keep], sd[keep] ** 2, side[keep], correlation)


def draws_of_values(optima: Optima, observed: Observations) -> FloatArray:
    """(n_draws, v) draws of the optima that `observed` holds as values; no rows where a value has no draws.

    >>> nothing, draws = np.full(2, np.nan), np.zeros((5, 2))
    >>> optima = Optima(np.array([4.0, 8.0]), np.zeros(2), ("ok", "edge_high"), draws, nothing, draws, (3, 3))
    >>> draws_of_values(optima, observe(optima)).shape
    (5, 1)
    """
    draws = optima.draws[:, np.isin(optima.batch_sizes, observed.batch_sizes[observed.values])]
    return draws if np.isfinite(draws).any(axis=0).all() else draws[:0]


def _as_bound(draws: FloatArray) -> tuple[float, int]:
    low, high = np.quantile(draws[~np.isnan(draws)], [0.1587, 0.8413], method="nearest")
    if np.isfinite(low):
        return float(low), 1
    return (float(high), -1) if np.isfinite(high) else (math.nan, 0)


def fit_levels(observed: Observations, curves: FloatArray, scatter_sds: FloatArray = SCATTER_SDS) -> LevelFit:
    """Solve the level of every curve at every extra scatter.

    Args:
        observed: n optima, at least one of them a value.
        curves: (G, n) log of each curve with multiplier 1, at the observed batch sizes.
        scatter_sds: (K,).

    With values alone the level is generalised least squares; bounds take some Newton steps from there, which
    converge because the log likelihood is concave in the level.
    """
    return fit_levels_at(observed, curves, scatter_sds**2)


def fit_levels_at(observed: Observations, curves: FloatArray, extra_variance: FloatArray) -> LevelFit:
    """As `fit_levels`, at (K,) extra variances; they may be a little below zero, which derivatives need."""
    use, axes = observed.values, observed.axes
    weights = 1 / (axes.variance[:, None] + extra_variance)  # (v, K)
    gaps = observed.log_lr[use] - curves[:, use]  # (G, v)
    centre = gaps.mean(axis=1, keepdims=True)  # keeps squares small, which their differences need
    residuals = (gaps - centre) @ axes.rotation
    total = axes.ones**2 @ weights
    level = (residuals * axes.ones) @ weights / total
    chi2 = np.maximum(residuals**2 @ weights - level**2 * total, 0.0)
    log_likelihood = -0.5 * (chi2 - np.log(weights).sum(axis=0) + use.sum() * _LOG_TAU)
    fit = LevelFit(level + centre, log_likelihood)
    if not use.all():
        _add_bounds(observed, curves, extra_variance, total, fit)
    return fit


def _add_bounds(
    observed: Observations, curves: FloatArray, extra_variance: FloatArray, total: FloatArray, fit: LevelFit
) -> None:
    """Take the bounds into `fit`, in place. A bound only lowers the likelihood, so hopeless cells are left alone.

    `total` (K,) is minus the second derivative by the level of the log likelihood of the values.
    """
    start = _likely_start(observed, curves, extra_variance, fit)
    rows, columns = np.nonzero(fit.log_likelihood > start - _HOPELESS)
    kept_curves, scatters = curves[rows], extra_variance[columns]
    center = fit.level[rows, columns]
    level = center.copy()
    for _ in range(_NEWTON_STEPS):
        _, slope, bend = _bound_terms(observed, kept_curves, scatters, level)
        slope = slope - total[columns] * (level - center)
        step = slope / (total[columns] + bend)
        level = level + step
        if np.abs(step).max() < _LEVEL_TOLERANCE:
            break
    terms, _, _ = _bound_terms(observed, kept_curves, scatters, level)
    gain = terms - 0.5 * total[columns] * (level - center) ** 2
    hopeless = np.ones(fit.level.shape, bool)
    hopeless[rows, columns] = False
    fit.log_likelihood[hopeless] = -np.inf
    fit.log_likelihood[rows, columns] += gain
    fit.level[rows, columns] = level


def _likely_start(
    observed: Observations, curves: FloatArray, extra_variance: FloatArray, fit: LevelFit
) -> float:
    """A log likelihood, bounds included, that the best cell surely reaches: the best at the levels of the values."""
    rows, columns = (part.ravel() for part in np.indices(fit.level.shape)[:, ::_STRIDE, ::_STRIDE])
    terms, _, _ = _bound_terms(observed, curves[rows], extra_variance[columns], fit.level[rows, columns])
    return float((fit.log_likelihood[rows, columns] + terms).max())


def _bound_terms(
    observed: Observations, curves: FloatArray, extra_variance: FloatArray, level: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(M,) log probability of all bounds, its derivative by the level, and minus its second derivative."""
    bounds = ~observed.values
    sd = np.sqrt(observed.variance[bounds] + extra_variance[:, None])
    side = observed.side[bounds]
    z = side * (level[:, None] + curves[:, bounds] - observed.log_lr[bounds]) / sd
    log_probability = log_ndtr(z)
    hazard = np.exp(-0.5 * z**2 - 0.5 * _LOG_TAU - log_probability)
    bend = hazard * (z + hazard) / sd**2
    return log_probability.sum(axis=1), (side * hazard / sd).sum(axis=1), bend.sum(axis=1)


def log_likelihood(observed: Observations, log_curve: FloatArray, scatter_sd: float) -> float:
    """Log likelihood of one whole curve, level included.

    >>> seen = Observations(np.array([1.0]), np.array([0.0]), np.array([1.0]), np.array([0], np.int8))
    >>> round(log_likelihood(seen, np.array([0.0]), 0.0), 4)
    -0.9189
    """
    use, axes = observed.values, observed.axes
    residual = observed.log_lr - log_curve
    variance = axes.variance + scatter_sd**2
    rotated = residual[use] @ axes.rotation
    normal = -0.5 * (rotated**2 / variance + np.log(variance) + _LOG_TAU)
    spread = np.sqrt(observed.variance[~use] + scatter_sd**2)
    beyond = log_ndtr(-observed.side[~use] * residual[~use] / spread)
    return float(normal.sum() + beyond.sum())
