"""How B_peak and B_crit move as the loss falls: log B = a - b log L, fitted to all loss targets of one set of runs.

One fit holds every target: the level of each is its own, the shape of the curve (kappa, for the optimal learning rate)
is common, and the place moves with the loss. So a target helps whose own batch size is not pinned down. The targets
share their runs; the draws, which resample whole runs once for all targets, carry that into the interval of b. It
grows by Student's factor for the few batch sizes, and by the Birge ratio where the targets miss the common curve by
more than their draws do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as t_distribution

from surge_sweeps.fitting.drift.drift_curves import CRITICAL, PEAK, STEEPEST, DriftFamily, power_place
from surge_sweeps.fitting.drift.drift_data import MIN_TARGETS, DriftData, DriftTarget, peak_data, steps_data
from surge_sweeps.fitting.drift.joint_fit import JointModel, fit_jointly, linearise
from surge_sweeps.fitting.drift.levelling import levelling_weight
from surge_sweeps.fitting.laws.profile import CONFIDENCE
from surge_sweeps.fitting.result import IntervalStatus, Slope

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Exponent of B_crit ~ L**(-1/0.21) (Kaplan et al. 2020, arXiv 2001.08361; paper eq 21).
KAPLAN_EXPONENT = 1 / 0.21

_MIN_FOR_JACKKNIFE = 5
_START_SLOPES = (-1.5, 0.0, 1.5, 4.0)
_START_PLACES = 6
_FEWEST_VALUES = 3
_SD_FLOOR = 1e-5  # of an exponent: as closely as a fit is driven to its end


def drift_of_peak(targets: Sequence[DriftTarget], *, loss_floor: float = 0.0) -> Slope:
    """Exponent b of B_peak ~ L**(-b), from the optimal learning rates of all targets under the surge laws.

    Targets with fewer than four optima inside their learning-rate grids are left out. The exponent is identified only
    where the joint data close it: a draw that shows no peak (kappa <= 1), or shows it inside the measured batch sizes
    of fewer than two targets, counts at both ends of the interval.

    Args:
        targets: two or more at different losses, from the same runs; row i of every target's draws is the same
            resampling. loss_floor: taken off every loss first, for a drift with L - L_inf; the paper takes L itself.

    Raises:
        SurgeError: `loss_floor` does not lie below every loss.

    >>> from surge_sweeps.fitting.optimum.optima import Optima
    >>> from surge_sweeps.theory import surge_lr
    >>> b, rng, targets = 4.0 * 2.0 ** np.arange(8), np.random.default_rng(0), []
    >>> for loss in (0.8, 0.4, 0.2):
    ...     draws = np.log(surge_lr(b, 0.01, 20.0 / loss)) + 0.03 * rng.standard_normal((200, 8))
    ...     none = np.full(8, np.nan)
    ...     targets.append(DriftTarget(loss, Optima(b, draws[0], ("ok",) * 8, draws, none, draws * np.nan, (4,) * 8)))
    >>> slope = drift_of_peak(targets)
    >>> slope.status, slope.low < 1 < slope.high, slope.p_value < 0.05
    ('identified', True, True)
    """
    data = peak_data(targets, loss_floor)
    return Slope() if data is None else _joint_slope(data, PEAK)


def drift_of_b_crit(targets: Sequence[DriftTarget], *, loss_floor: float = 0.0) -> Slope:
    """Exponent b of B_crit ~ L**(-b), from the steps to all targets: S = S_min (1 + B_crit/B), S_min free for each.

    Targets with steps at fewer than three batch sizes are left out; arguments, errors and identification as for
    `drift_of_peak`, with B_crit in the place of the peak.

    >>> from surge_sweeps.fitting.optimum.optima import Optima
    >>> b, rng, targets = 4.0 * 2.0 ** np.arange(8), np.random.default_rng(0), []
    >>> for loss in (0.8, 0.4, 0.2):
    ...     draws = np.log(50 * (1 + 20.0 / loss / b)) + 0.03 * rng.standard_normal((200, 8))
    ...     none = np.full(8, np.nan)
    ...     targets.append(DriftTarget(loss, Optima(b, none, ("ok",) * 8, draws * np.nan, draws[0], draws, (4,) * 8)))
    >>> slope = drift_of_b_crit(targets)
    >>> slope.status, slope.low < 1 < slope.high, slope.p_value_kaplan < 0.05
    ('identified', True, True)
    """
    data = steps_data(targets, loss_floor)
    return Slope() if data is None else _joint_slope(data, CRITICAL)


def _joint_slope(data: DriftData, family: DriftFamily) -> Slope:
    model = _power_model(data, family)
    fits = fit_jointly(model, data.values, data.weights, _starts(model, family), 40)
    best = int(np.argmin(fits.squares))
    theta, squares = fits.parameters[:, [best]], float(fits.squares[best])
    if not bool(_shown(data, model, family, theta)[0]):
        return Slope()
    if not data.draws.shape[2] or not np.ptp(data.draws, axis=2).any():
        return _slope_by_jackknife(data, model, family, theta)
    refits = fit_jointly(
        model, data.draws, data.draw_weights, np.repeat(theta, data.draws.shape[2], axis=1), 12
    )
    ratio = _birge_ratio(data, model, theta, squares)
    stretch = ratio * _student_factor(data)
    spread = np.clip(theta + stretch * (refits.parameters - theta), model.low[:, None], model.high[:, None])
    exponents = np.where(spread[1] <= -STEEPEST, -np.inf, np.where(spread[1] >= STEEPEST, np.inf, spread[1]))
    exponents[~_shown(data, model, family, spread) | ~_usable(data)] = np.nan
    slope = _slope_from_draws(float(theta[1, 0]), exponents)
    if slope.status != "identified":
        return slope
    weight = levelling_weight(data, family, model, theta, squares, ratio)
    return slope.model_copy(update={"saturating_weight": weight})


def _power_model(data: DriftData, family: DriftFamily) -> JointModel:
    low, high = data.place_bounds()
    shape_low, shape_high = family.shape_bounds
    return JointModel(
        family.curve, power_place, data.log_loss, data.batch_sizes,
        np.array([low, -STEEPEST, shape_low]), np.array([high, STEEPEST, shape_high]),
    )  # fmt: skip


def _starts(model: JointModel, family: DriftFamily) -> FloatArray:
    """(3, R) starts over the measured batch sizes, slopes and strengths."""
    places = np.linspace(np.log(model.batch_sizes[0]), np.log(model.batch_sizes[-1]), _START_PLACES)
    axes = np.meshgrid(places, _START_SLOPES, family.shape_starts, indexing="ij")
    return np.stack([axis.ravel() for axis in axes])


def _shown(data: DriftData, model: JointModel, family: DriftFamily, theta: FloatArray) -> BoolArray:
    """(R,) whether two targets or more have what drifts inside their measured batch sizes."""
    center = family.center(model.placing(theta[:-1], model.log_loss).log_scale, theta[-1])
    inside = (center >= data.low[:, None]) & (center <= data.high[:, None])
    return np.asarray(inside.sum(axis=0) >= MIN_TARGETS)


def _usable(data: DriftData) -> BoolArray:
    """(R,) draws that hold a curve at two targets or more; (1,) where none has a hole."""
    return np.asarray(((data.draw_weights > 0).sum(axis=0) >= _FEWEST_VALUES).sum(axis=0) >= MIN_TARGETS)


def _birge_ratio(data: DriftData, model: JointModel, theta: FloatArray, squares: float) -> float:
    """How much further the values lie from the joint fit than their draws make them, at least 1."""
    known = data.draw_weights > 0
    mean = np.divide(
        np.where(known, data.draws, 0.0).sum(axis=2, keepdims=True),
        np.broadcast_to(known, data.draws.shape).sum(axis=2, keepdims=True).clip(1),
    )
    curve = data.values - linearise(model, data.values, data.weights, theta).residual
    noise = np.where(known, data.draws - mean, 0.0) + curve
    at_fit = linearise(model, noise, data.draw_weights, np.repeat(theta, data.draws.shape[2], axis=1))
    ridge = 1e-9 * np.trace(at_fit.normal[0]) * np.eye(theta.shape[0])
    taken_up = np.linalg.solve(at_fit.normal + ridge, at_fit.slope[:, :, None])[:, :, 0]
    expected = float(np.mean(at_fit.squares - (taken_up * at_fit.slope).sum(axis=1)))
    return math.sqrt(max(1.0, squares / expected)) if expected > 0 else 1.0


def _student_factor(data: DriftData) -> float:
    """Student's 95% point over the normal one, a cluster each batch size: their runs alone are independent."""
    batch_sizes = int((data.weights > 0).any(axis=(1, 2)).sum())
    point = (1 + CONFIDENCE) / 2
    return float(t_distribution.ppf(point, batch_sizes - 1) / norm.ppf(point))


def _slope_from_draws(b: float, exponents: FloatArray) -> Slope:
    """A draw without an exponent (NaN) counts at both ends: it could have been anything."""
    unknown, tail = np.isnan(exponents), (1 - CONFIDENCE) / 2
    low = float(np.quantile(np.where(unknown, -np.inf, exponents), tail, method="lower"))
    high = float(np.quantile(np.where(unknown, np.inf, exponents), 1 - tail, method="higher"))

    def p_value(hypothesis: float) -> float:
        below = np.count_nonzero(unknown | (exponents <= hypothesis))
        above = np.count_nonzero(unknown | (exponents >= hypothesis))
        return min(1.0, 2 * (1 + min(below, above)) / (exponents.size + 1))

    return _slope(b, min(low, b), max(high, b), p_value)


def _slope_by_jackknife(data: DriftData, model: JointModel, family: DriftFamily, theta: FloatArray) -> Slope:
    """Without draws that differ: leave out one batch size at a time, at all targets, since those share its runs."""
    used = np.flatnonzero((data.weights > 0).any(axis=(1, 2)))
    if used.size < _MIN_FOR_JACKKNIFE:
        return Slope()
    weights = np.repeat(data.weights, used.size, axis=2)
    weights[used, :, np.arange(used.size)] = 0.0
    fits = fit_jointly(model, data.values, weights, np.repeat(theta, used.size, axis=1), 40).parameters
    if not bool(_shown(data, model, family, fits).all()):
        return Slope()
    b, free = float(theta[1, 0]), used.size - 2
    sd = max(math.sqrt((used.size - 1) * float(np.var(fits[1]))), _SD_FLOOR)
    half = float(t_distribution.ppf((1 + CONFIDENCE) / 2, free)) * sd
    return _slope(
        b,
        b - half,
        b + half,
        lambda h: min(1.0, 2 * float(t_distribution.sf(abs(b - h) / sd, free))),
    )


def _slope(b: float, low: float, high: float, p_value: Callable[[float], float]) -> Slope:
    known_low, known_high = math.isfinite(low), math.isfinite(high)
    if not (known_low or known_high):
        return Slope()
    status: IntervalStatus = "identified"
    if not (known_low and known_high):
        status = "lower_bound" if known_low else "upper_bound"
    return Slope(
        exponent=b if status == "identified" else None,
        low=low if known_low else None,
        high=high if known_high else None,
        p_value=p_value(0.0),
        status=status,
        p_value_kaplan=p_value(KAPLAN_EXPONENT),
    )
