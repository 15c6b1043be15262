"""Weighted least squares of one curve family to several loss targets at once, for many data sets side by side.

The level of every target is free and solved for; the place of the curve moves with the loss, and its shape is common
to all targets. Fits are damped Gauss-Newton (Levenberg-Marquardt) with bounds, all data sets (a bootstrap draw each)
in step with one another, which makes thousands of them cheap. The arithmetic is the same whatever the number of
cores, so the same data give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.drift.drift_curves import Curve, Placing

FloatArray = NDArray[np.float64]

_BLOCK = 256  # data sets fitted at once: their arrays should stay in the cache
_FLATTEST = 1e-12
_TOLERANCE = 1e-5  # parameters are logs and exponents


@dataclass(frozen=True, eq=False)
class JointModel:
    """What is fitted: P parameters, those of the place, then that of the shape (idle for a curve without one).

    Attributes:
        curve, placing: see `drift_curves`. log_loss: (J,). batch_sizes: (n,). low, high: (P,) bounds.
    """

    curve: Curve
    placing: Placing
    log_loss: FloatArray
    batch_sizes: FloatArray
    low: FloatArray
    high: FloatArray


class JointFits(NamedTuple):
    """(P, R) parameters and the (R,) weighted sums of squares that they leave."""

    parameters: FloatArray
    squares: FloatArray


class Linearised(NamedTuple):
    """The fit's residuals (n, J, R) at the best levels, sum of squares (R,), normal matrix (R, P, P), slope (R, P)."""

    residual: FloatArray
    squares: FloatArray
    normal: FloatArray
    slope: FloatArray


def fit_jointly(
    model: JointModel, values: FloatArray, weights: FloatArray, starts: FloatArray, iterations: int
) -> JointFits:
    """Fit R data sets, each from its own start.

    Args:
        values, weights: (n, J, R), or (n, J, 1) where all data sets share them; a value of weight 0 is not used, but
            must be finite. starts: (P, R) within the bounds. iterations: at most this many steps.

    >>> from surge_sweeps.fitting.drift.drift_curves import power_place, steps_curve
    >>> b, x = np.array([4.0, 32.0, 256.0, 2048.0]), np.array([-1.0, 0.0, 1.0])
    >>> values = np.log1p(np.exp(4.0 - 0.5 * x) / b[:, None])[:, :, None]
    >>> model = JointModel(steps_curve, power_place, x, b, np.zeros(3), np.array([9.0, 9.0, 0.0]))
    >>> fits = fit_jointly(model, values, np.ones_like(values), np.array([[3.0], [0.0], [0.0]]), 20)
    >>> fits.parameters.ravel().round(4)
    array([4. , 0.5, 0. ])
    """
    count = starts.shape[1]
    blocks = [slice(first, first + _BLOCK) for first in range(0, count, _BLOCK)]
    fits = [
        _fit_block(model, _part(values, block), _part(weights, block), starts[:, block], iterations)
        for block in blocks
    ]
    return JointFits(
        np.concatenate([fit.parameters for fit in fits], axis=1),
        np.concatenate([fit.squares for fit in fits]),
    )


def _part(array: FloatArray, block: slice) -> FloatArray:
    return array if array.shape[2] == 1 else array[:, :, block]


def _fit_block(
    model: JointModel, values: FloatArray, weights: FloatArray, starts: FloatArray, iterations: int
) -> JointFits:
    theta, damping = starts.copy(), np.full(starts.shape[1], 1e-3)
    here = linearise(model, values, weights, theta)
    for _ in range(iterations):
        trial = np.clip(theta + _steps(model, here, theta, damping), model.low[:, None], model.high[:, None])
        there = linearise(model, values, weights, trial)
        better = there.squares <= here.squares
        moved = float(np.abs(trial - theta).max())
        theta = np.where(better, trial, theta)
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-9, 1e9)
        here = Linearised(
            here.residual,
            np.where(better, there.squares, here.squares),
            np.where(better[:, None, None], there.normal, here.normal),
            np.where(better[:, None], there.slope, here.slope),
        )
        if moved < _TOLERANCE:
            break
    return JointFits(theta, here.squares)


def _steps(model: JointModel, here: Linearised, theta: FloatArray, damping: FloatArray) -> FloatArray:
    """(P, R) damped steps; a parameter at a bound that the slope pushes against stays there."""
    held = (theta <= model.low[:, None]) & (here.slope.T < 0)
    held |= (theta >= model.high[:, None]) & (here.slope.T > 0)
    free = (~held).T
    index = np.arange(theta.shape[0])
    normal = np.where(free[:, :, None] & free[:, None, :], here.normal, 0.0)
    diagonal = here.normal[:, index, index]
    normal[:, index, index] = np.where(free, diagonal * (1 + damping[:, None]) + _FLATTEST, 1.0)
    slope = np.where(free, here.slope, 0.0)
    return np.asarray(np.linalg.solve(normal, slope[:, :, None])[:, :, 0].T)


def linearise(model: JointModel, values: FloatArray, weights: FloatArray, theta: FloatArray) -> Linearised:
    """Residuals and normal equations at the (P, R) parameters; values and weights as for `fit_jointly`."""
    place = model.placing(theta[:-1], model.log_loss)
    curve = model.curve(model.batch_sizes[:, None, None] * np.exp(-place.log_scale), theta[-1])
    total = np.maximum(weights.sum(axis=0), np.finfo(float).tiny)

    def centred(array: FloatArray) -> FloatArray:
        return np.asarray(array - (weights * array).sum(axis=0) / total)

    residual, tilt = centred(values - curve.value), centred(curve.slope)
    weighted = weights * residual
    count, fits = model.low.size, theta.shape[1]
    normal, slope = np.zeros((fits, count, count)), np.zeros((fits, count))
    bend = (weights * tilt**2).sum(axis=0)
    normal[:, :-1, :-1] = np.einsum("pjr,qjr,jr->rpq", place.gradient, place.gradient, bend)
    slope[:, :-1] = -(place.gradient * (weighted * tilt).sum(axis=0)).sum(axis=1).T
    if curve.by_shape is not None:
        shape = centred(curve.by_shape)
        cross = -(place.gradient * (weights * tilt * shape).sum(axis=0)).sum(axis=1).T
        normal[:, :-1, -1] = normal[:, -1, :-1] = cross
        normal[:, -1, -1] = (weights * shape**2).sum(axis=(0, 1))
        slope[:, -1] = (weighted * shape).sum(axis=(0, 1))
    return Linearised(residual, (weighted * residual).sum(axis=(0, 1)), normal, slope)
