"""How far the optima rise to a peak, and how far they fall from it, without trusting the law that placed the peak.

On each side of the peak the optima are regressed on the shape that the law gives them there. If the truth never rises
(or never falls) along that side, the expected slope is not positive, whatever its form: the weights rise with the
shape (Chebyshev's sum inequality). So a positive slope is evidence without the law; the law only makes it sharp.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.likelihood import Observations
from surge_sweeps.fitting.result import LawFit
from surge_sweeps.theory import LAWS

FloatArray = NDArray[np.float64]


class Contrast(NamedTuple):
    """Log of the optimal LR at the peak over that at one end of the batch sizes: estimate and standard deviation.

    `sd` is infinite where fewer than two values lie on that side.
    """

    estimate: float
    sd: float

    def low(self, quantile: float = 1.96) -> float:
        """The estimate less `quantile` standard deviations; -inf where the standard deviation is infinite."""
        return self.estimate - quantile * self.sd


class Contrasts(NamedTuple):
    """The rise from the smallest batch size to the peak, and the fall from there to the largest."""

    rise: Contrast
    fall: Contrast


def contrasts_about_peak(observed: Observations, law: LawFit, peak: float, scatter_sd: float) -> Contrasts:
    """Rise and fall of the values about the one nearest to `peak`, which belongs to both sides.

    Args:
        observed: the optima; bounds are left out. law: the fitted law that peaks at batch size `peak`.
        scatter_sd: extra scatter of log LR in the noise.

    >>> b = np.array([4.0, 8.0, 16.0, 32.0, 64.0])
    >>> seen = Observations(b, -np.abs(np.log(b / 16)), np.full(5, 0.01), np.zeros(5, np.int8))
    >>> law = LawFit(name="surge", parameters={"eps_max": 1.0, "b_noise": 16.0}, aicc=None, weight=None)
    >>> [round(float(np.exp(side.estimate)), 1) for side in contrasts_about_peak(seen, law, 16.0, 0.0)]
    [3.6, 3.6]
    """
    use = observed.values
    batch_sizes, log_lr = observed.batch_sizes[use], observed.log_lr[use]
    shape = np.log(LAWS[law.name].evaluate(batch_sizes, **law.parameters))
    covariance = observed.covariance(scatter_sd)
    near = int(np.argmin(np.abs(np.log(batch_sizes / peak))))
    sides = (slice(0, near + 1), slice(near, batch_sizes.size))
    return Contrasts(*(_contrast(log_lr[side], shape[side], covariance[side, side]) for side in sides))


def _contrast(log_lr: FloatArray, shape: FloatArray, covariance: FloatArray) -> Contrast:
    weights = 1 / np.diag(covariance)
    centred = shape - weights @ shape / weights.sum()
    coefficients = weights * centred
    size = float(coefficients @ centred)
    if log_lr.size < 2 or size <= 0:
        return Contrast(0.0, math.inf)
    height = float(np.ptp(shape))
    sd = math.sqrt(float(coefficients @ covariance @ coefficients))
    return Contrast(float(coefficients @ log_lr) / size * height, sd / size * height)
