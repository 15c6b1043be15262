"""Profile-likelihood intervals, open-ended where the data set no limit.

Where the noise is learnt from the scatter about the curve, the threshold is the small-sample form: with n optima and
p curve parameters a profile may fall by n log(1 + F / (n - p)) in -2 log likelihood, F the 95% point of the F
distribution with 1 and n - p degrees of freedom. It is exact for a linear model with unknown noise and goes to the
usual 3.84 as n grows. Where the noise is known from the seeds it is that F with the seeds' degrees of freedom; where
both make up the noise, it lies between.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as f_distribution

from surge_sweeps.fitting.result import Interval, IntervalStatus

FloatArray = NDArray[np.float64]

CONFIDENCE = 0.95
_LARGEST_LOG = 700.0
# What a few seeds at each of many batch sizes amount to, after their variances have been drawn to a common trend.
_SEED_FREEDOM = 40
# A step to a larger fall than this is taken as this: the likelihood of hopeless cells is not worked out.
_STEEPEST = 32.0


class Ends(NamedTuple):
    """The two ends of an interval; None where it is open."""

    low: float | None
    high: float | None


def deviance_threshold(n: int, parameters: int, scatter_share: float = 1.0) -> float:
    """Largest fall in 2 log likelihood inside the 95% interval; infinite without a degree of freedom to spare.

    Args:
        n: optima. parameters: of the curve. scatter_share: how much of the noise (of its standard deviation) was
            learnt from the scatter about the curve rather than from the seeds, 0 to 1.

    >>> round(deviance_threshold(12, 3), 2), deviance_threshold(3, 3)
    (5.4, inf)
    >>> round(deviance_threshold(12, 3, 0.0), 2)
    4.08
    """
    free = n - parameters
    if free < 1:
        return math.inf
    from_scatter = n * math.log1p(_f_point(free) / free)
    return scatter_share * from_scatter + (1 - scatter_share) * _f_point(_SEED_FREEDOM)


@lru_cache
def _f_point(free: int) -> float:
    return float(f_distribution.ppf(CONFIDENCE, 1, free))


def pooled_profile(
    values: FloatArray, log_likelihood: FloatArray, width: float = 0.1
) -> tuple[FloatArray, FloatArray]:
    """Profile of a quantity over scattered cells: ascending values, and the best log likelihood near each.

    Cells whose values lie within `width` of each other are pooled, the best of them standing for all.

    >>> pooled_profile(np.array([1.0, 0.0, 1.01]), np.array([-2.0, -3.0, -1.0]))
    (array([0.  , 1.01]), array([-3., -1.]))
    """
    bins = np.round((values - values.min()) / width).astype(np.int64)
    order = np.lexsort((-log_likelihood, bins))
    first = np.concatenate([[True], np.diff(bins[order]) > 0])
    chosen = order[first]
    chosen = chosen[np.argsort(values[chosen], kind="stable")]
    return values[chosen], log_likelihood[chosen]


def profile_ends(values: FloatArray, log_likelihood: FloatArray, best: float, threshold: float) -> Ends:
    """Where a profile, given at ascending values, crosses the threshold below `best`: the outermost crossings.

    An end is None where the profile is still inside at the last value; both are None where it never is.

    >>> ends = profile_ends(np.array([0.0, 1.0, 2.0]), np.array([-8.0, 0.0, -1.0]), 0.0, 4.0)
    >>> ends
    Ends(low=0.5, high=None)
    """
    fall = 2 * (best - log_likelihood)
    inside = np.flatnonzero(fall < threshold)
    if inside.size == 0:
        return Ends(None, None)
    return Ends(
        _crossing(values, fall, int(inside[0]), -1, threshold),
        _crossing(values, fall, int(inside[-1]), 1, threshold),
    )


def _crossing(values: FloatArray, fall: FloatArray, inside: int, step: int, threshold: float) -> float | None:
    outside = inside + step
    if not 0 <= outside < values.size:
        return None
    # A parabola has its root linear in the square root of the fall.
    high, low = (
        math.sqrt(min(fall[outside], max(_STEEPEST, 2 * threshold))),
        math.sqrt(max(fall[inside], 0.0)),
    )
    share = (math.sqrt(threshold) - low) / (high - low)
    return float(values[inside] + share * (values[outside] - values[inside]))


def interval(estimate: float | None, ends: Ends, definition: str) -> Interval:
    """An `Interval` whose status follows from its open ends; only one closed on both sides keeps its estimate.

    >>> interval(8.0, Ends(4.0, None), "B_peak").status
    'lower_bound'
    """
    status: IntervalStatus = "not_identified"
    if ends.low is not None:
        status = "lower_bound" if ends.high is None else "identified"
    elif ends.high is not None:
        status = "upper_bound"
    kept = estimate if status == "identified" else None
    if status == "identified" and kept is None:
        return Interval(definition=definition)
    return Interval(estimate=kept, low=ends.low, high=ends.high, status=status, definition=definition)


def exp_ends(ends: Ends) -> Ends:
    """Ends of a log quantity as ends of the quantity; one beyond every float is open.

    >>> exp_ends(Ends(0.0, None)), exp_ends(Ends(0.0, 1000.0))
    (Ends(low=1.0, high=None), Ends(low=1.0, high=None))
    """
    return Ends(*(None if end is None or abs(end) > _LARGEST_LOG else math.exp(end) for end in ends))


def around(ends: Ends, estimate: float | None) -> Ends:
    """Ends moved, by less than the grid's spacing, so that they hold a polished estimate between them.

    >>> around(Ends(2.0, 4.0), 1.9)
    Ends(low=1.9, high=4.0)
    """
    if estimate is None or (ends.low is None and ends.high is None):
        return ends
    low = None if ends.low is None else min(ends.low, estimate)
    high = None if ends.high is None else max(ends.high, estimate)
    return Ends(low, high)
