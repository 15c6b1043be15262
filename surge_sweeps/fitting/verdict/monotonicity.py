"""Do the optima rise and fall, whatever the law? Isotonic regression against unimodal regression.

The statistic is how much a curve that rises, then falls, reduces the weighted sum of squares of a curve that only
rises (or only falls). Its p-value is a parametric bootstrap from the fitted monotone curve. All prefixes of all
replicates are solved in one pass of pooling adjacent violators, from which every unimodal fit follows (Stout 2008,
"Unimodal regression via prefix isotonic regression").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

REPLICATES = 499


class MonotonicityTest(NamedTuple):
    """p-values of "the curve only rises" and "the curve only falls", each against "it rises, then falls"."""

    p_rising: float
    p_falling: float


def isotonic_fits(values: FloatArray, weights: FloatArray) -> FloatArray:
    """(R, n) best non-decreasing curve for each row of `values`, with (n,) weights (min-max formula).

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


def prefix_squares(values: FloatArray, weights: FloatArray) -> FloatArray:
    """(R, n) weighted sum of squares of the best non-decreasing curve through the first 1, 2, ... n values of a row.

    >>> prefix_squares(np.array([[1.0, 3.0, 2.0, 4.0]]), np.ones((1, 4)))
    array([[0. , 0. , 0.5, 0.5]])
    """
    rows, n = values.shape
    means, masses = np.empty((n, rows)), np.empty((n, rows))  # of the blocks, the last one at `top`
    top = np.full(rows, -1)
    squares, result = np.zeros(rows), np.empty((rows, n))
    index = np.arange(rows)
    for column in range(n):
        top += 1
        means[top, index], masses[top, index] = values[:, column], weights[:, column]
        pool = index
        while True:
            pool = pool[top[pool] > 0]
            level = top[pool]
            pool = pool[means[level - 1, pool] > means[level, pool]]
            if not pool.size:
                break
            level = top[pool]
            left, right = masses[level - 1, pool], masses[level, pool]
            total = left + right
            low, high = means[level, pool], means[level - 1, pool]
            squares[pool] += left * right / total * (high - low) ** 2
            means[level - 1, pool] = (left * high + right * low) / total
            masses[level - 1, pool] = total
            top[pool] -= 1
        result[:, column] = squares
    return result


def monotonicity_test(
    values: FloatArray, covariance: FloatArray, rng: np.random.Generator
) -> MonotonicityTest:
    """Test n optima for a rise and a fall.

    Args:
        values: (n,). covariance: (n, n) of their noise, or (n,) variances; the fits weigh by the variances, the
            replicates have the whole covariance. rng: of the replicates.

    >>> rng = np.random.default_rng(0)
    >>> monotonicity_test(np.array([0.0, 1.0, 2.0, 1.0, 0.0]), np.full(5, 0.01), rng)
    MonotonicityTest(p_rising=0.002, p_falling=0.002)
    """
    turned = covariance[::-1] if covariance.ndim == 1 else covariance[::-1, ::-1]
    # Against a falling curve the batch axis is turned round: unimodal curves stay unimodal.
    return MonotonicityTest(
        p_value_of_rise(values, covariance, rng), p_value_of_rise(values[::-1], turned, rng)
    )


def p_value_of_rise(values: FloatArray, covariance: FloatArray, rng: np.random.Generator) -> float:
    """p-value of "the (n,) values only rise" against "they rise, then fall"; arguments as `monotonicity_test`.

    >>> p_value_of_rise(np.array([0.0, 1.0, 2.0, 3.0]), np.full(4, 0.01), np.random.default_rng(0))
    1.0
    """
    variance = covariance if covariance.ndim == 1 else np.diag(covariance)
    null = isotonic_fits(values[None], 1 / variance)
    noise = rng.standard_normal((REPLICATES, values.size))
    noise = noise * np.sqrt(variance) if covariance.ndim == 1 else noise @ np.linalg.cholesky(covariance).T
    gains = _gains(np.concatenate([values[None], null + noise]), 1 / variance)
    return float(1 + np.count_nonzero(gains[1:] >= gains[0] - 1e-9)) / (REPLICATES + 1)


def _gains(values: FloatArray, weights: FloatArray) -> FloatArray:
    """(R,) weighted sum of squares of the isotonic fit minus that of the best unimodal fit."""
    rows = values.shape[0]
    both_ways = np.concatenate([values, values[:, ::-1]])
    masses = np.repeat([weights, weights[::-1]], rows, axis=0)
    squares = prefix_squares(both_ways, masses)
    rising, falling = squares[:rows], squares[rows:, ::-1]  # up to, and from, each value
    unimodal = np.minimum((rising[:, :-1] + falling[:, 1:]).min(axis=1), rising[:, -1])
    return np.asarray(rising[:, -1] - unimodal)
