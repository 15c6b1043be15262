"""The noise of the optimal learning rates, from their bootstrap draws: a variance each and the correlations.

Draws share what the optima share (the choice of an estimator, runs in common), so their errors are correlated. Spread
and correlation are both robust: an edge in some draws, or a wild one, must not decide them. A spread that a few seeds
give is itself uncertain, and a weight of one over a variance that is too small by chance is what misleads a fit, so
variances far from the trend over the batch sizes are drawn towards it (as in Smyth 2004 for gene expression).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: How far, in log, a variance below the trend over the batch sizes is moved up to it, and one above it down.
RAISED, LOWERED = 0.8, 0.5

#: Variances within this, in log, of the trend are near it: a factor 4, as of 4 degrees of freedom.
_NEAR = 1.4
_CLIP = 2.5
_MIN_FOR_LEVEL, _MIN_FOR_TREND = 3, 6


def moderated_variance(variance: FloatArray, batch_sizes: FloatArray) -> FloatArray:
    """(n,) variances drawn towards their trend, a straight line in log variance over log batch size.

    Fewer than six have their median as the trend, fewer than three are left alone. Small ones are moved more than
    large ones: a large spread may be real (few learning rates at one batch size), and to weigh such an optimum too
    little costs less than to weigh one too much. The mean of those near the trend never falls.

    >>> moderated_variance(np.array([1.0, 1.0, 0.01, 1.0]), np.array([4.0, 8.0, 16.0, 32.0])).round(3)
    array([1.   , 1.   , 0.398, 1.   ])
    """
    if variance.size < _MIN_FOR_LEVEL:
        return variance
    logs = np.log(variance)
    trend = np.full(logs.shape, np.median(logs))
    if logs.size >= _MIN_FOR_TREND:
        trend = np.polyval(np.polyfit(np.log(batch_sizes), logs, 1), np.log(batch_sizes))
    gap = logs - trend
    moved = np.exp(trend + gap * np.where(gap < 0, 1 - RAISED, 1 - LOWERED))
    # A few wide ones (a cell that failed beside the optimum) say nothing about the noise of the others.
    near = np.abs(gap) < _NEAR
    kept = float(variance[near].mean() / moved[near].mean()) if near.any() else 1.0
    return np.asarray(moved * max(1.0, kept))


def draw_correlation(draws: FloatArray) -> FloatArray:
    """(n, n) correlation of the columns of the (n_draws, n) draws, shrunk towards none for their finite number.

    Every column is centred and scaled by its central 68% and cut off at 2.5 standard deviations, beyond-the-grid
    draws included; missing draws count as the centre. The shrinkage is that of Schaefer and Strimmer (2005).

    >>> common = np.random.default_rng(0).standard_normal((2000, 1))
    >>> own = np.random.default_rng(1).standard_normal((2000, 3))
    >>> draw_correlation(common + own)[0].round(1), draw_correlation(own)[0].round(1)
    (array([1. , 0.5, 0.5]), array([1., 0., 0.]))
    """
    n_draws, n = draws.shape
    if n_draws < 3 or n < 2:
        return np.eye(n)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, centre, high = np.nanquantile(draws, [0.1587, 0.5, 0.8413], axis=0, method="nearest")
        scores = np.clip((draws - centre) / ((high - low) / 2), -_CLIP, _CLIP)
    scores = np.where(np.isnan(scores), 0.0, scores)
    scores = scores - scores.mean(axis=0)
    norms = np.sqrt((scores**2).sum(axis=0))
    found = scores.T @ scores / np.maximum(np.outer(norms, norms), 1e-300)
    np.fill_diagonal(found, 0.0)
    squares = float((found**2).sum())
    doubt = float(((1 - found**2) ** 2).sum() - n) / (n_draws - 1)
    share = 1 - min(1.0, doubt / squares) if squares > 0 else 0.0
    return np.asarray(share * found + np.eye(n))
