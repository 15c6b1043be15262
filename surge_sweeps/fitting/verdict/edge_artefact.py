"""Is the fall beyond a peak only the edge of stability coming down?

A learning rate that a law would put above the largest one that trains cannot be found: the best that trains is. Where
that edge falls with the batch size, optima pressed against it fall with it, whatever the law. Such optima are lower
limits, so a surge must be shown without them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.likelihood import Observations
from surge_sweeps.fitting.verdict.monotonicity import p_value_of_rise

#: An optimum within this factor of the largest learning rate that trains, give or take its noise, may be pressed
#: against it.
PRESSED_WITHIN = 1.2
#: The edge has come down if it is this factor below one at a smaller batch size.
EDGE_FALLS_BY = 1.05

_SIGNIFICANCE = 0.05
_LIKELY_SDS = 1.0  # noise that may have moved an optimum away from the edge


def edge_artefact(
    observed: Observations,
    peak: float,
    scatter_sd: float,
    stability_edge: Mapping[float, float],
    rng: np.random.Generator,
) -> str | None:
    """Why a fall beyond `peak` may be the falling edge of stability, as a sentence; None where it cannot be.

    Args:
        observed: the optima. peak: batch size of the fitted peak. scatter_sd: extra scatter of log LR in the noise.
        stability_edge: batch size -> log of the largest learning rate that trains; some may be missing.
        rng: of the test whether the other optima still fall.

    >>> b = np.array([4.0, 8.0, 16.0, 32.0, 64.0])
    >>> seen = Observations(b, np.array([0.0, 0.35, 0.7, 0.35, 0.0]), np.full(5, 0.001), np.zeros(5, np.int8))
    >>> edge = {4.0: 2.0, 8.0: 1.5, 16.0: 1.0, 32.0: 0.5, 64.0: 0.1}
    >>> edge_artefact(seen, 16.0, 0.0, edge, np.random.default_rng(0))[:35]
    'At batch size 32, 64 the optimum, g'
    >>> edge_artefact(seen, 16.0, 0.0, dict.fromkeys(b, 2.0), np.random.default_rng(0)) is None
    True
    """
    values = observed.values
    batch_sizes, log_lr = observed.batch_sizes[values], observed.log_lr[values]
    covariance = observed.covariance(scatter_sd)
    highest = log_lr + _LIKELY_SDS * np.sqrt(np.diag(covariance))
    pressed = _pressed(batch_sizes, highest, stability_edge) & (batch_sizes > peak)
    if not pressed.any():
        return None
    free = ~pressed
    p = 1.0
    if (free & (batch_sizes > peak)).any():
        p = p_value_of_rise(log_lr[free], covariance[np.ix_(free, free)], rng)
    if p < _SIGNIFICANCE:
        return None
    sizes = ", ".join(f"{b:g}" for b in batch_sizes[pressed])
    return (
        f"At batch size {sizes} the optimum, give or take its noise, lies within a factor of {PRESSED_WITHIN:g} of "
        "the largest learning rate that trains, and that edge comes down as the batch grows: the fall beyond the peak "
        "may be the edge of stability and not a surge. Without these batch sizes no fall is established "
        f"(p = {p:.2g}). Runs that train at larger learning rates there, with longer warm-up or gradient clipping at "
        "every batch size, would tell."
    )


def pressed_by_edge(
    observed: Observations, scatter_sd: float, stability_edge: Mapping[float, float]
) -> set[float]:
    """The batch sizes whose optimum, give or take its noise, is as large as anything that trains there.

    >>> b = np.array([4.0, 8.0])
    >>> seen = Observations(b, np.array([0.0, 0.35]), np.full(2, 1e-4), np.zeros(2, np.int8))
    >>> pressed_by_edge(seen, 0.0, {4.0: 2.0, 8.0: 0.4})
    {8.0}
    """
    values = observed.values
    sd = np.sqrt(np.diag(observed.covariance(scatter_sd)))
    highest = observed.log_lr[values] + _LIKELY_SDS * sd
    near = {
        float(b)
        for b, top in zip(observed.batch_sizes[values], highest, strict=True)
        if top > stability_edge.get(float(b), math.inf) - math.log(PRESSED_WITHIN)
    }
    # Pressed throughout, every optimum is only a limit, and none would be left to fit.
    return near if len(near) < values.sum() else set()


def _pressed(
    batch_sizes: NDArray[np.float64], highest: NDArray[np.float64], stability_edge: Mapping[float, float]
) -> NDArray[np.bool_]:
    """(v,) where an optimum as high as it may be is close under an edge lower than at some smaller batch size."""
    edge = np.array([stability_edge.get(float(b), math.nan) for b in batch_sizes])
    sizes = np.array(sorted(stability_edge))
    heights = np.array([stability_edge[b] for b in sizes])
    before = np.array([heights[sizes < b].max(initial=-math.inf) for b in batch_sizes])
    with np.errstate(invalid="ignore"):
        near = highest > edge - math.log(PRESSED_WITHIN)
        return np.asarray(near & (edge < before - math.log(EDGE_FALLS_BY)))
