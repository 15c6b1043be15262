"""Curves whose place on the axis of log B is all that moves with the loss, as the joint fits of a drift need them.

Each curve is a function of u = B / B_c, B_c a batch size that marks its place, and of at most one shape parameter.
The place B_c moves with the loss L as a power law, log B_c = a - b log L, or as growth that levels off at small L,
B_c = B_inf / (1 + (L/L_0)^b). All arrays have their batch sizes, targets and fits on axes of this order: (n, J, R).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

FloatArray = NDArray[np.float64]


class CurveValues(NamedTuple):
    """A log curve (up to a level) with its derivatives by log u and by the shape parameter (None without one)."""

    value: FloatArray
    slope: FloatArray
    by_shape: FloatArray | None


def surge_curve(u: FloatArray, log_strength: FloatArray) -> CurveValues:
    """Log optimal LR of the surge laws with and without plateau, u = B / B_crit with B_crit = B_s / (1 + kappa).

    log_strength = log(1 + kappa): the mean-field curve f / (1 + kappa f^2), f^2 = B/(B + B_s), is proportional to
    sqrt(u (u + 1 + kappa)) / (1 + u), which tends to the surge law sqrt(u) / (1 + u) (paper eq 13) as kappa grows.

    >>> from surge_sweeps.theory import mean_field_lr
    >>> b = np.array([1.0, 10.0, 100.0])
    >>> curve = surge_curve(b / (50.0 / 10.0), np.log(10.0)).value
    >>> np.ptp(curve - np.log(mean_field_lr(b, 1.0, 50.0, 9.0))) < 1e-12
    np.True_
    """
    strength = np.exp(log_strength)
    far = u + strength
    near = 1 + u
    share = strength / far
    slope = 1 - 0.5 * share - u / near
    return CurveValues(0.5 * np.log(u * far / near**2), slope, 0.5 * share)


def steps_curve(u: FloatArray, _: FloatArray) -> CurveValues:
    """Log steps to a target, log(1 + 1/u) with u = B / B_crit (paper eq 20); it has no shape parameter.

    >>> steps_curve(np.array([1.0]), np.zeros(1)).value.round(3)
    array([0.693])
    """
    return CurveValues(np.log1p(1 / u), -1 / (1 + u), None)


Curve = Callable[[FloatArray, FloatArray], CurveValues]


class Place(NamedTuple):
    """Log B_c of J targets in R fits, (J, R), and its derivatives by the place's parameters, (P, J, R)."""

    log_scale: FloatArray
    gradient: FloatArray


def power_place(parameters: FloatArray, log_loss: FloatArray) -> Place:
    """log B_c = a - b log L. parameters: (2, R) of a and b. log_loss: (J,).

    >>> power_place(np.array([[3.0], [0.5]]), np.array([0.0, -2.0])).log_scale.ravel()
    array([3., 4.])
    """
    a, b = parameters
    x = log_loss[:, None]
    value = a - b * x
    return Place(value, np.stack([np.ones_like(value), np.broadcast_to(-x, value.shape)]))


def levelling_place(parameters: FloatArray, log_loss: FloatArray) -> Place:
    """B_c = B_inf / (1 + (L/L_0)^b). parameters: (3, R) of log B_inf, b and log L_0. log_loss: (J,).

    It grows as L^-b while L >> L_0 and levels off at B_inf below; the power law is its limit L_0 -> 0.

    >>> levelling_place(np.array([[3.0], [2.0], [0.0]]), np.array([-9.0, 9.0])).log_scale.ravel().round(2)
    array([  3., -15.])
    """
    top, b, turn = parameters
    distance = log_loss[:, None] - turn
    value = top - np.logaddexp(0.0, b * distance)
    share = expit(b * distance)
    return Place(value, np.stack([np.ones_like(value), -share * distance, share * b]))


Placing = Callable[[FloatArray, FloatArray], Place]


def log_peak(log_scale: FloatArray, log_strength: FloatArray) -> FloatArray:
    """Log B_peak of `surge_curve`, B_crit (1 + kappa) / (kappa - 1); NaN for kappa <= 1, which has no peak.

    >>> np.exp(log_peak(np.log([5.0, 5.0]), np.log([10.0, 2.0])))
    array([6.25,  nan])
    """
    strength = np.exp(log_strength)
    with np.errstate(invalid="ignore", divide="ignore"):
        peak = log_scale + log_strength - np.log(np.where(strength > 2, strength - 2, np.nan))
    return np.asarray(peak)


class DriftFamily(NamedTuple):
    """A curve with the bounds and starts of its shape, and the log batch size whose drift is asked for.

    `center` takes the (J, R) log B_c and the (R,) shape.
    """

    curve: Curve
    shape_bounds: tuple[float, float]
    shape_starts: tuple[float, ...]
    center: Callable[[FloatArray, FloatArray], FloatArray]


#: Exponents are sought up to this size.
STEEPEST = 30.0
#: B_peak of the optimal learning rates; the shape is log(1 + kappa), kappa <= 1 being curves without a peak.
PEAK = DriftFamily(
    surge_curve, (math.log(0.1), math.log(1001.0)), (0.0, math.log(4.0), math.log(30.0)), log_peak
)
#: B_crit of the steps.
CRITICAL = DriftFamily(steps_curve, (0.0, 0.0), (0.0,), lambda log_scale, _: log_scale)
