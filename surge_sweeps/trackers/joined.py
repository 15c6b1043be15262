"""Metrics whose points carry a step of their own, put on another metric's axis: `JoinedByStep`.

W&B keeps rows, so that an axis stands beside each value. MLflow keeps each metric for itself; what a program logged in
one call has the same step and nearly the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    @property
    def touched(self) -> Callable[[str, int], set[str] | None] | None:
        """See `Reading`; None where the source has no such thing."""
        return getattr(self._source, "touched", None)

    @property
    def unchanged(self) -> Callable[[Mapping[str, Series], str], set[str]] | None:
        """See `Reading`; None where the source has no such thing."""
        return getattr(self._source, "unchanged", None)

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

    Where a step has several values of the axis, as a resumed run leaves them, point and value go together that are each
    the nearest in time to the other.

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
    found = np.full(len(points.step), np.nan)
    there = behind > first
    found[there] = value[first[there]]
    for start in np.unique(first[behind - first > 1]):
        here = np.flatnonzero((first == start) & there)
        here = here[np.argsort(points.timestamp[here], kind="stable")]
        several = slice(start, behind[here[0]])
        if (value[several] == value[start]).all():
            continue
        to_axis = _nearest(time[several], points.timestamp[here])
        to_point = _nearest(points.timestamp[here], time[several])
        mutual = to_point[to_axis] == np.arange(len(here))
        found[here] = np.where(mutual, value[several][to_axis], np.nan)
    return found


def _nearest(times: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) for each wanted time the position of the nearest of some sorted times."""
    after = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(times) - 1)
    return np.where(np.abs(times[before] - wanted) <= np.abs(times[after] - wanted), before, after)
