"""Do the optima rise and fall, whatever the law? Isotonic regression against unimodal regression.

The statistic is how much a curve that rises, then falls, reduces the weighted sum of squares of a curve that only
rises (or only falls). Its p-value is a parametric bootstrap from the fitted monotone curve. Isotonic regression uses
the min-max formula (Barlow et al. 1972), which runs on all bootstrap replicates at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

REPLICATES = 999


class MonotonicityTest(NamedTuple):
    """p-values of "the curve only rises" and "the curve only falls", each against "it rises, then falls"."""

    p_rising: float
    p_falling: float


def isotonic_fits(values: FloatArray, weights: FloatArray) -> FloatArray:
    """(R, n) best non-decreasing curve for each row of `values`, with (n,) weights.

    >>> isotonic_fits(np.array([[1.0, 3.0, 2.0, 4.0]]), np.ones(4))
    array([[1. , 2.5, 2.5, 4. ]])
    """
    n = values.shape[1]
    sums = np.concatenate([np.zeros((values.shape[0], 1)), np.cumsum(values * weights, axis=1)], axis=1)
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    first, last = np.tril_indices(n)[::-1]  # every block first..last, first <= last
    means = np.full((values.shape[0], n, n), np.inf)
    means[:, first, last] = (sums[:, last + 1] - sums[:, first]) / (mass[last + 1] - mass[first])
    least = np.minimum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
    least[:, np.tril(np.ones((n, n), bool), -1)] = -np.inf
    return np.asarray(least.max(axis=1))


def monotonicity_test(values: FloatArray, variance: FloatArray, rng: np.random.Generator) -> MonotonicityTest:
    """Test the (n,) optima, with their (n,) noise variances, for a rise and a fall.

    >>> rng = np.random.default_rng(0)
    >>> monotonicity_test(np.array([0.0, 1.0, 2.0, 1.0, 0.0]), np.full(5, 0.01), rng)
    MonotonicityTest(p_rising=0.001, p_falling=0.001)
    """
    weights = 1 / variance
    # Against a falling curve the batch axis is turned round: unimodal curves stay unimodal.
    return MonotonicityTest(
        _p_value(values, weights, rng), _p_value(np.ascontiguousarray(values[::-1]), weights[::-1], rng)
    )


def _p_value(values: FloatArray, weights: FloatArray, rng: np.random.Generator) -> float:
    observed = float(_gain(values[None], weights)[0])
    null = isotonic_fits(values[None], weights)
    replicates = null + rng.standard_normal((REPLICATES, values.size)) / np.sqrt(weights)
    beyond = int(np.count_nonzero(_gain(replicates, weights) >= observed - 1e-9))
    return (1 + beyond) / (REPLICATES + 1)


def _gain(values: FloatArray, weights: FloatArray) -> FloatArray:
    """(R,) weighted sum of squares of the isotonic fit minus that of the best unimodal fit."""
    n = values.shape[1]
    rising = [_squares(values[:, : m + 1], weights[: m + 1]) for m in range(n)]
    falling = [_squares(values[:, :m:-1], weights[:m:-1]) for m in range(n - 1)]
    unimodal = np.min([up + down for up, down in zip(rising[:-1], falling, strict=True)], axis=0)
    return np.asarray(rising[-1] - np.minimum(unimodal, rising[-1]))


def _squares(values: FloatArray, weights: FloatArray) -> FloatArray:
    residual = values - isotonic_fits(values, weights)
    return np.asarray((residual**2) @ weights)
