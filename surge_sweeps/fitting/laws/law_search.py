"""From a grid of curves to the best fit of one law, and from the fits of all laws to AICc and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.curve_grid import CurveGrid
from surge_sweeps.fitting.laws.likelihood import SCATTER_SDS, LevelFit, Observations, fit_levels_at
from surge_sweeps.theory import LAWS

FloatArray = NDArray[np.float64]

_MAX_SCATTER_SD = 5.0

# Of the Newton search: in natural logs, and for the extra variance in units of itself plus the smallest variance.
_DIFFERENCE = 1e-4
_CELL = 0.5
_FLATTEST = 1e-6
_NEWTON_STEPS = 40
_SMALLEST_GAIN = 1e-12


class BestFit(NamedTuple):
    """The maximum of one law's likelihood: parameters by name, extra scatter (sd of log LR), log likelihood."""

    parameters: dict[str, float]
    scatter_sd: float
    log_likelihood: float


def polish(observed: Observations, grid: CurveGrid, levels: LevelFit) -> BestFit:
    """Refine the best cell of a grid inside the grid's own bounds; never worse than the cell.

    Newton's method on the likelihood with its level solved for, over the grid's coordinates and the extra variance,
    derivatives by central differences. A step is at most a cell, and half the last one after a step that failed.
    """
    row, column = np.unravel_index(np.argmax(levels.log_likelihood), levels.log_likelihood.shape)
    low = np.array([*(axis[0] for axis in grid.axes), 0.0])
    high = np.array([*(axis[-1] for axis in grid.axes), _MAX_SCATTER_SD**2])
    x = np.array([*grid.points()[row], SCATTER_SDS[column] ** 2])
    reach, smallest = _CELL, float(observed.axes.variance.min())
    best = _Stencil.at(observed, grid, x, smallest)
    for _ in range(_NEWTON_STEPS):
        step = best.step(low, high, reach)
        if best.gain(step) < _SMALLEST_GAIN:
            break
        trial = _Stencil.at(observed, grid, np.clip(best.x + step * best.unit, low, high), smallest)
        if trial.height > best.height:
            best, reach = trial, _CELL
        else:
            reach = 0.5 * min(reach, float(np.abs(step).max()))
    law, shape = LAWS[grid.law], grid.shape_at(best.x[None, :-1])
    found = {
        law.parameters[0]: math.exp(best.level),
        **{name: float(value[0]) for name, value in shape.items()},
    }
    return BestFit(found, math.sqrt(best.x[-1]), best.height)


class _Stencil(NamedTuple):
    """The likelihood about one point: `x` the grid's coordinates and the extra variance, `unit` their scales.

    `height` is the log likelihood at `x` and `level` the log multiplier; `slope` and `bend` are the first and second
    derivatives by x / unit.
    """

    x: FloatArray
    unit: FloatArray
    height: float
    level: float
    slope: FloatArray
    bend: FloatArray

    @classmethod
    def at(cls, observed: Observations, grid: CurveGrid, x: FloatArray, smallest_variance: float) -> _Stencil:
        d = x.size - 1
        unit = np.append(np.ones(d), smallest_variance + x[-1])
        offsets = np.array(list(product((-1.0, 0.0, 1.0), repeat=d))).reshape(3**d, d)
        curves = grid.curves_at(x[:-1] + _DIFFERENCE * offsets, observed.batch_sizes)
        extra = x[-1] + _DIFFERENCE * unit[-1] * np.array([-1.0, 0.0, 1.0])
        fit = fit_levels_at(observed, curves, extra)
        cube, levels = (part.reshape((3,) * (d + 1)) for part in (fit.log_likelihood, fit.level))
        centre = (1,) * (d + 1)
        slope, bend = _derivatives(cube)
        return cls(x, unit, float(cube[centre]), float(levels[centre]), slope, bend)

    def step(self, low: FloatArray, high: FloatArray, reach: float) -> FloatArray:
        """Newton's step in units, uphill also where the likelihood is not concave, none through a bound."""
        free = ~((self.x <= low) & (self.slope <= 0) | (self.x >= high) & (self.slope >= 0))
        step = np.zeros(self.x.size)
        if free.any():
            bends, axes = np.linalg.eigh(self.bend[np.ix_(free, free)])
            step[free] = axes @ (axes.T @ self.slope[free] / np.maximum(np.abs(bends), _FLATTEST))
        step *= min(1.0, reach / max(float(np.abs(step).max()), 1e-300))
        return np.clip(self.x + step * self.unit, low, high) / self.unit - self.x / self.unit

    def gain(self, step: FloatArray) -> float:
        """Rise in log likelihood that the derivatives promise."""
        return float(self.slope @ step)


def _derivatives(cube: FloatArray) -> tuple[FloatArray, FloatArray]:
    """First and second derivatives at the centre of a (3, ..., 3) stencil."""
    dims = cube.ndim
    centre = np.ones(dims, int)
    unit = np.eye(dims, dtype=int)

    def at(offset: NDArray[np.int64]) -> float:
        return float(cube[tuple(centre + offset)])

    slope, bend = np.empty(dims), np.empty((dims, dims))
    for i, one in enumerate(unit):
        slope[i] = (at(one) - at(-one)) / (2 * _DIFFERENCE)
        bend[i, i] = (at(one) - 2 * at(0 * one) + at(-one)) / _DIFFERENCE**2
        for j, other in enumerate(unit[:i]):
            mixed = at(one + other) - at(one - other) - at(other - one) + at(-one - other)
            bend[i, j] = bend[j, i] = mixed / (4 * _DIFFERENCE**2)
    return slope, bend


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
