"""From a grid of curves to the best fit of one law, and from the fits of all laws to AICc and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from surge_sweeps.fitting.curve_grid import CurveGrid
from surge_sweeps.fitting.likelihood import SCATTER_SDS, LevelFit, Observations, log_likelihood
from surge_sweeps.theory import LAWS

FloatArray = NDArray[np.float64]

_MAX_SCATTER_SD = 5.0


class BestFit(NamedTuple):
    """The maximum of one law's likelihood: parameters by name, extra scatter (sd of log LR), log likelihood."""

    parameters: dict[str, float]
    scatter_sd: float
    log_likelihood: float


def polish(observed: Observations, grid: CurveGrid, levels: LevelFit) -> BestFit:
    """Refine the best cell of a grid inside the grid's own bounds (L-BFGS-B); never worse than the cell."""
    row, column = np.unravel_index(np.argmax(levels.log_likelihood), levels.log_likelihood.shape)
    law, shape_values = LAWS[grid.law], grid.shape()
    names = tuple(shape_values)
    shapes = [_forward(name, shape_values[name]) for name in names]

    def parameters(x: FloatArray) -> dict[str, float]:
        shape = {name: _backward(name, float(value)) for name, value in zip(names, x[1:-1], strict=True)}
        return {law.parameters[0]: math.exp(x[0]), **shape}

    def loss(x: FloatArray) -> float:
        curve = np.log(
            np.broadcast_to(law.evaluate(observed.batch_sizes, **parameters(x)), observed.log_lr.shape)
        )
        return -log_likelihood(observed, curve, float(x[-1]))

    start = np.array([levels.level[row, column], *(shape[row] for shape in shapes), SCATTER_SDS[column]])
    bounds = [(start[0] - 10, start[0] + 10), *((s.min(), s.max()) for s in shapes), (0.0, _MAX_SCATTER_SD)]
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    x = found.x if found.fun < loss(start) else start
    return BestFit(parameters(x), float(x[-1]), -loss(x))


def _forward(name: str, values: FloatArray) -> FloatArray:
    if name == "alpha":
        return values
    return np.log1p(values) if name == "kappa" else np.log(values)


def _backward(name: str, value: float) -> float:
    if name == "alpha":
        return value
    return math.expm1(value) if name == "kappa" else math.exp(value)


def aicc(log_likelihood_max: float, curve_parameters: int, n: int) -> float | None:
    """Corrected Akaike criterion, the extra scatter counting as one more parameter; None unless n > k + 1.

    >>> round(aicc(-3.0, 1, 10), 3), aicc(-3.0, 3, 5)
    (11.714, None)
    """
    k = curve_parameters + 1
    if n <= k + 1:
        return None
    return -2 * log_likelihood_max + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def akaike_weights(criteria: Mapping[str, float | None]) -> dict[str, float | None]:
    """Weights that sum to 1 over the laws with a criterion; None for the others.

    >>> akaike_weights({"a": 1.0, "b": 1.0, "c": None})
    {'a': 0.5, 'b': 0.5, 'c': None}
    """
    known = {name: value for name, value in criteria.items() if value is not None}
    if not known:
        return dict.fromkeys(criteria)
    best = min(known.values())
    total = sum(math.exp((best - value) / 2) for value in known.values())
    return {
        name: None if value is None else math.exp((best - value) / 2) / total
        for name, value in criteria.items()
    }
