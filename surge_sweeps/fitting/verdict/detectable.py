"""The weakest surge that the noise of the optima would let the law comparison see."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.curve_grid import CurveGrid, curve_grids
from surge_sweeps.fitting.laws.law_search import aicc
from surge_sweeps.fitting.laws.likelihood import SCATTER_SDS, Observations, fit_levels
from surge_sweeps.theory import LAWS, mean_field_lr

FloatArray = NDArray[np.float64]

#: By how much the best surge law must beat the best monotone one in AICc to need no further test.
AICC_MARGIN = 6.0
#: The lead in AICc at which the bootstrap against monotone laws calls the better half of surges significant.
DETECTABLE_MARGIN = 2.0
LARGEST_KAPPA = 1000.0

_BISECTIONS = 12
_SCATTERS = SCATTER_SDS[::2]


def minimum_detectable_kappa(observed: Observations, scatter_sd: float) -> float | None:
    """Smallest kappa whose surge would be expected to lead every monotone law by more than `DETECTABLE_MARGIN`.

    The surge is that of the plateau law with its peak at the centre, in log, of the batch sizes with a value; the
    noise is that of the values, plus `scatter_sd`. Each law's extra scatter is fitted anew, as it is to the real
    optima. None if even kappa = 1000 would not do, or AICc is not defined.

    >>> b = 4.0 * 2.0 ** np.arange(11)
    >>> seen = Observations(b, np.zeros(11), np.full(11, 0.05**2), np.zeros(11, np.int8))
    >>> 2 < minimum_detectable_kappa(seen, 0.0) < 9
    True
    """
    use = observed.values
    if use.sum() < 3:
        return None
    values = Observations(
        observed.batch_sizes[use], observed.log_lr[use], observed.variance[use], observed.side[use],
        observed.correlation,
    )  # fmt: skip
    search = _Search(values, scatter_sd)
    if search.margin(LARGEST_KAPPA) <= DETECTABLE_MARGIN:
        return None
    low, high = math.log(1e-3), math.log(LARGEST_KAPPA - 1)  # of kappa - 1
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if search.margin(1 + math.exp(middle)) > DETECTABLE_MARGIN:
            high = middle
        else:
            low = middle
    return 1 + math.exp(high)


class _Search:
    """Expected AICc margin of a surge, over curves that do not depend on the surge tried."""

    def __init__(self, values: Observations, scatter_sd: float) -> None:
        batch_sizes, n = values.batch_sizes, values.batch_sizes.size
        self._values, self._b, self._noise = values, batch_sizes, values.axes.variance + scatter_sd**2
        b_min, b_max = float(batch_sizes[0]), float(batch_sizes[-1])
        self._centre = math.sqrt(b_min * b_max)
        rivals = {name: _thinned(curve_grids(name, b_min, b_max)[0]) for name in LAWS if name != "surge"}
        self._monotone = [
            (grid.curves(batch_sizes), penalty)
            for name, grid in rivals.items()
            if (penalty := _penalty(name, n)) is not None
        ]
        surge = curve_grids("surge", b_min, b_max)[0].curves(batch_sizes)
        self._surge, self._surge_penalty = surge, _penalty("surge", n)
        self._plateau_penalty = _penalty("surge_plateau", n)

    def margin(self, kappa: float) -> float:
        """Expected AICc of the best monotone law minus that of the best surge law; -inf where either is undefined."""
        truth = np.log(mean_field_lr(self._b, 1.0, self._centre * (kappa - 1), kappa))
        surges = []
        if self._surge_penalty is not None:
            surges.append(self._expected(truth, self._surge) + self._surge_penalty)
        if self._plateau_penalty is not None:
            surges.append(self._expected(truth, truth[None]) + self._plateau_penalty)
        if not surges or not self._monotone:
            return -math.inf
        return min(self._expected(truth, curves) + penalty for curves, penalty in self._monotone) - min(
            surges
        )

    def _expected(self, truth: FloatArray, curves: FloatArray) -> float:
        """Expected -2 log likelihood of the best of the curves, before the gain from fitting its parameters."""
        levels = fit_levels(self._values.with_values(truth), curves, _SCATTERS)
        noise = (self._noise[:, None] / (self._values.axes.variance[:, None] + _SCATTERS**2)).sum(axis=0)
        return float((-2 * levels.log_likelihood + noise).min())


def _thinned(grid: CurveGrid) -> CurveGrid:
    """Every other point of the axes: the truths tried here are smooth surges, which no single cell decides."""
    return CurveGrid(grid.law, grid.layout, tuple(axis[::2] for axis in grid.axes))


def _penalty(name: str, n: int) -> float | None:
    """AICc's penalty less the fall of -2 log likelihood that fitting the curve's parameters brings on average."""
    parameters = len(LAWS[name].parameters)
    penalty = aicc(0.0, parameters, n)
    return None if penalty is None else penalty - parameters
