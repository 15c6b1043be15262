"""Growth of a batch size that levels off as the loss falls, weighed against the power law.

The form is B = B_inf / (1 + (L/L_0)^b): it grows as L^-b while L >> L_0 and tends to B_inf below. The power law is its
limit L_0 -> 0, so the two are compared by one parameter's worth of likelihood.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.drift.drift_curves import STEEPEST, DriftFamily, levelling_place
from surge_sweeps.fitting.drift.drift_data import DriftData
from surge_sweeps.fitting.drift.joint_fit import JointModel, fit_jointly, linearise

FloatArray = NDArray[np.float64]

#: Fewest different losses: the levelling form has three parameters of its own.
MIN_FOR_LEVELLING = 4


def levelling_weight(
    data: DriftData, family: DriftFamily, power: JointModel, theta: FloatArray, squares: float, ratio: float
) -> float | None:
    """Akaike weight of growth that levels off, with one parameter more, against the power law.

    None with fewer than four different losses. The drop of the sum of squares is compared with what noise alone would
    bring along the direction between the two fits, from the draws, in which the targets are correlated (a composite
    likelihood ratio: Varin, Reid and Firth 2011, Statistica Sinica 21). Without any drop the weight is 0.27.

    Args:
        data: the targets and their draws. family, power: the curve, and the power law fitted with it. theta: (P, 1)
            its parameters. squares: the weighted sum of squares it leaves. ratio: the Birge ratio of that fit.
    """
    if np.unique(data.log_loss).size < MIN_FOR_LEVELLING:
        return None
    levelled = _levelling_model(data, family)
    fits = fit_jointly(levelled, data.values, data.weights, _levelling_starts(data, theta), 40)
    best = int(np.argmin(fits.squares))
    gain = squares - float(fits.squares[best])
    if gain <= 0:
        return _akaike_weight(0.0)
    straight = linearise(power, data.values, data.weights, theta).residual
    bent = linearise(levelled, data.values, data.weights, fits.parameters[:, [best]]).residual
    direction = (data.weights * (straight - bent))[:, :, 0]
    length = float((data.weights * (straight - bent) ** 2).sum())
    projected = np.tensordot(direction, np.where(data.draw_weights > 0, data.draws, data.values), axes=2)
    noise = ratio**2 * float(np.var(projected)) / length if length > 0 else 0.0
    return _akaike_weight(gain / noise if noise > 0 else 0.0)


def _levelling_model(data: DriftData, family: DriftFamily) -> JointModel:
    low, high = data.place_bounds()
    shape_low, shape_high = family.shape_bounds
    turn_low, turn_high = float(data.log_loss.min()) - 3.0, float(data.log_loss.max()) + 1.0
    return JointModel(
        family.curve, levelling_place, data.log_loss, data.batch_sizes,
        np.array([low, 0.0, turn_low, shape_low]), np.array([high + 3 * STEEPEST, STEEPEST, turn_high, shape_high]),
    )  # fmt: skip


def _levelling_starts(data: DriftData, theta: FloatArray) -> FloatArray:
    """(4, R) starts of the same place at the middle loss as the power law's, for several turns and slopes."""
    turns = np.linspace(data.log_loss.min() - 2.0, data.log_loss.max(), 6)
    slopes = np.maximum(theta[1, 0], 0.5) * np.array([1.0, 2.0, 4.0])
    turn, b = (axis.ravel() for axis in np.meshgrid(turns, slopes, indexing="ij"))
    top = theta[0, 0] + np.logaddexp(0.0, -b * turn)
    return np.stack([top, np.minimum(b, STEEPEST), turn, np.full(turn.size, theta[2, 0])])


def _akaike_weight(likelihood_ratio: float) -> float:
    """Weight of a model with one parameter more, from twice the difference of the log likelihoods."""
    return 1 / (1 + math.exp(min((2.0 - likelihood_ratio) / 2, 700.0)))
