"""From arrays to the plain records of `fit.json`: no NaN, no infinity, open ends as None."""

from __future__ import annotations

import math

import numpy as np

from surge_sweeps.fitting.observables.cells import Cells
from surge_sweeps.fitting.observables.responses import FloatArray
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.optimum.search import OptimumSearch
from surge_sweeps.fitting.result import EdgePoint, OptimalLR


def optimal_lr_records(search: OptimumSearch) -> list[OptimalLR]:
    """One record a batch size. At an edge `lr` is the grid's edge, and the interval is open on that side.

    Args:
        search: what the search found; intervals are the central 95% of its draws.
    """
    optima = search.optima
    records = []
    for index, (batch_size, status) in enumerate(zip(optima.batch_sizes, optima.status, strict=True)):
        low, high = _log_interval(optima, index)
        if status == "edge_high":
            low = float(optima.log_lr[index]) - optima.edge_slack
        elif status == "edge_low":
            high = float(optima.log_lr[index]) + optima.edge_slack
        records.append(
            OptimalLR(
                batch_size=int(batch_size),
                lr=exp_or_none(float(optima.log_lr[index])),
                low=None if status == "edge_low" else exp_or_none(low),
                high=None if status == "edge_high" else exp_or_none(high),
                status=status,
                steps=exp_or_none(float(optima.log_steps[index])),
                runs=optima.runs[index],
                flat_band=search.flat_bands[index],
            )
        )
    return records


def stability_edge_records(cells: Cells) -> list[EdgePoint]:
    """The stability edge, one point for each batch size at which anything trains."""
    return [EdgePoint(batch_size=batch_size, lr=lr) for batch_size, lr in cells.stability_edge()]


def exp_or_none(log_value: float) -> float | None:
    """exp of a finite log that fits a float, else None.

    >>> exp_or_none(0.0), exp_or_none(math.inf), exp_or_none(math.nan)
    (1.0, None, None)
    """
    return math.exp(log_value) if math.isfinite(log_value) and abs(log_value) < 700 else None


def _log_interval(optima: Optima, index: int) -> tuple[float, float]:
    """The central 95% of the draws, together with the value: a value outside would be no interval of it."""
    draws: FloatArray = optima.draws[:, index]
    draws = draws[~np.isnan(draws)]
    if not draws.size or not np.isfinite(optima.log_lr[index]):
        return math.nan, math.nan
    low, high = np.quantile(draws, [0.025, 0.975], method="nearest")
    value = float(optima.log_lr[index])
    return min(float(low), value), max(float(high), value)
