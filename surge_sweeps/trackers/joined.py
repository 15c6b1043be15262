"""Metrics whose points carry a step of their own, put on another metric's axis: `JoinedByStep`.

W&B keeps rows, so that an axis stands beside each value. MLflow keeps each metric for itself; what a program logged in
one call has the same step and nearly the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.curve_cache import Series, join_series
from surge_sweeps.trackers.assemble import SeriesSource


class JoinedByStep:
    """Implements `SeriesSource` by one that knows no axis.

    Args:
        source: where the series come from; only ever asked for the points' own step.
    """

    def __init__(self, source: SeriesSource) -> None:
        self._source = source

    @property
    def route(self) -> str:
        """See `SeriesSource`."""
        return self._source.route

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """See `SeriesSource`."""
        return self._source.count(runs, metric)

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """See `SeriesSource`; `Series.step` is NaN where the axis has no point at the step of a value."""
        series = self._source.fetch(runs, metric, None)
        if axis is None:
            return series
        beside = self._source.fetch(runs, axis, None).split()
        parts = series.split()
        return join_series([replace(part, step=axis_at(part, beside[run])) for run, part in parts.items()])


def axis_at(points: Series, axis: Series) -> NDArray[np.float64]:
    """(n,) the axis's value at the step of each point of the same run, NaN where it has none.

    Of several values at one step, as a resumed run leaves them, the one nearest in time.

    >>> def one_run(step, value, time):
    ...     return Series(("a",), np.array([len(step)]), np.array(step), np.array(value), np.array(time))
    >>> loss = one_run([0.0, 1.0, 1.0, 2.0], [3.0, 2.0, 1.5, 1.0], [10, 20, 31, 40])
    >>> updates = one_run([0.0, 1.0, 1.0], [100.0, 200.0, 180.0], [10, 20, 30])
    >>> axis_at(loss, updates)
    array([100., 200., 180.,  nan])
    """
    order = np.lexsort((axis.value, axis.timestamp, axis.step))
    step, value, time = axis.step[order], axis.value[order], axis.timestamp[order]
    first = np.searchsorted(step, points.step, "left")
    behind = np.searchsorted(step, points.step, "right")
    for index in np.flatnonzero(behind - first > 1):
        apart = np.abs(time[first[index] : behind[index]] - points.timestamp[index])
        first[index] += int(np.argmin(apart))
    found = np.full(len(points.step), np.nan)
    there = behind > first
    found[there] = value[first[there]]
    return found
