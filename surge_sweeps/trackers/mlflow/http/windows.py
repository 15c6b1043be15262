"""The points of runs in windows of steps: the server's route for its charts, which samples unless a window is small.

It takes the index by run, metric and step, where the other routes of a SQLite store read every point of the metric.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from surge_sweeps.trackers.mlflow.history import Points
from surge_sweeps.trackers.mlflow.http.connection import Server, in_threads
from surge_sweeps.trackers.mlflow.http.points import BULK_RUNS, to_points

_ROUTE = "/api/2.0/mlflow/metrics/get-history-bulk-interval"
#: Before, the server read the whole history of every run for every window.
_SINCE = (3, 17)
#: Of a run with fewer points in a window, the answer holds all; it holds this many where it samples.
_SAMPLED = 2500
#: So few that even a sample by steps, as stores of other kinds take, is everything.
_STEPS = _SAMPLED - 1
_ANSWER_POINTS = 50_000
#: Steps travel in 32 bits there.
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


class _Window(NamedTuple):
    runs: tuple[str, ...]
    start: int
    end: int


def has_windows(server: Server) -> bool:
    """Whether the server answers quickly for windows of steps."""
    content = server.download("/version") or b""
    found = re.match(rb"(\d{1,4})\.(\d{1,4})\.", content)
    return found is not None and (int(found[1]), int(found[2])) >= _SINCE


def read_windows(
    server: Server, steps: Mapping[str, int], metric: str, each: float
) -> Iterator[tuple[str, Points]]:
    """The runs' points, a run as soon as it is whole. A run that does not fit into windows is left out.

    Args:
        steps: run -> the step behind its last. each: about how many points runs have a step.
    """
    usable = {run: count for run, count in steps.items() if count < _HIGHEST}
    windows = _windows(usable, each)
    open_windows = Counter({run: _count(count) for run, count in usable.items()})
    parts: dict[str, list[Points]] = {run: [] for run in usable}

    def read(window: _Window) -> dict[str, list[Any]] | None:
        return _read(server, window, metric)

    for window, answer in in_threads(read, lambda: next(windows, None)):
        for run in window.runs:
            rows = None if answer is None else answer.get(run, [])
            if rows is None or len(rows) >= _SAMPLED or (rows and window.end < 0):
                parts.pop(run, None)
            elif run in parts:
                parts[run].append(to_points(rows))
            open_windows[run] -= 1
            if open_windows[run] == 0 and run in parts:
                yield run, Points(*(np.concatenate(columns) for columns in zip(*parts.pop(run), strict=True)))


def _windows(steps: Mapping[str, int], each: float) -> Iterator[_Window]:
    # Runs of one length together, so that few windows reach beyond the end of some.
    runs = sorted(steps, key=lambda run: steps[run])
    size = int(np.clip(_ANSWER_POINTS / (_STEPS * each), 1, BULK_RUNS))
    for first in range(0, len(runs), size):
        batch = runs[first : first + size]
        yield _Window(tuple(batch), _LOWEST, -1)
        for start in range(0, steps[batch[-1]], _STEPS):
            left = tuple(run for run in batch if steps[run] > start)
            yield _Window(left, start, start + _STEPS - 1)


def _count(steps: int) -> int:
    """How many windows a run is in, that of the steps below 0 included."""
    return 1 + -(-steps // _STEPS)


def _read(server: Server, window: _Window, metric: str) -> dict[str, list[Any]] | None:
    params = [("run_ids", run) for run in window.runs]
    params += [("metric_key", metric), ("max_results", str(_SAMPLED))]
    params += [("start_step", str(window.start)), ("end_step", str(min(window.end, _HIGHEST)))]
    found = server.try_route(_ROUTE, params)
    if found is None:
        return None
    rows: dict[str, list[Any]] = {}
    for row in found.get("metrics", []):
        rows.setdefault(row["run_id"], []).append(row)
    return rows


def density(points: Sequence[Points], steps: Sequence[int]) -> float:
    """How many points runs have a step, over all.

    >>> none = np.empty(0)
    >>> density([Points(np.arange(5), none, none), Points(np.arange(7), none, none)], [10, 20])
    0.4
    """
    return sum(len(part.step) for part in points) / max(sum(steps), 1)
