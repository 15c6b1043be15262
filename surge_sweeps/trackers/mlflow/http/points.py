"""The points of runs as a server sends them: many runs at once where it can, and one run in pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from surge_sweeps.curve_cache import Series
from surge_sweeps.trackers.mlflow.history import Points
from surge_sweeps.trackers.mlflow.http.connection import Server
from surge_sweeps.trackers.mlflow.paging import page_token
from surge_sweeps.trackers.mlflow.runs import restore_infinities

#: The most runs, and the most points over all of them, that a server answers with at once.
BULK_RUNS = 100
BULK_POINTS = 25_000

_BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
_SINGLE = "/api/2.0/mlflow/metrics/get-history"


class BulkAnswer(NamedTuple):
    """What came of a question about several runs.

    Attributes:
        whole: run -> its points, for the runs that came in full.
        again: the runs that the answer had no room for. long: those that alone fill an answer.
    """

    whole: Mapping[str, Points]
    again: tuple[str, ...] = ()
    long: tuple[str, ...] = ()


def read_bulk(server: Server, runs: Sequence[str], metric: str) -> BulkAnswer | None:
    """The points of up to `BULK_RUNS` runs; None where the server has no such route.

    The server stops at `BULK_POINTS` without a word, and sorts by run: the last run of a full answer may lack some of
    its points, and those that are not in it all of them.
    """
    params = [("run_id", run) for run in runs]
    params += [("metric_key", metric), ("max_results", str(BULK_POINTS))]
    found = server.try_route(_BULK, params)
    if found is None:
        return None
    rows = found.get("metrics", [])
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        parts.setdefault(row["run_id"], []).append(row)
    if len(rows) < BULK_POINTS:
        return BulkAnswer({run: to_points(parts.get(run, [])) for run in runs})
    last = rows[-1]["run_id"]
    whole = {run: to_points(part) for run, part in parts.items() if run != last}
    if not whole:
        return BulkAnswer({}, tuple(run for run in runs if run != last), (last,))
    return BulkAnswer(whole, tuple(run for run in runs if run not in whole))


def read_single(server: Server, run: str, metric: str) -> Points:
    """Every point of one run, in as many pages as it takes."""
    pages: list[Points] = []
    token = ""
    while True:
        params = [("run_id", run), ("metric_key", metric), ("max_results", str(BULK_POINTS))]
        found = server.call("GET", _SINGLE, params=params + ([("page_token", token)] if token else []))
        pages.append(to_points(found.get("metrics", [])))
        token = found.get("next_page_token", "")
        if not token:
            return pages[0] if len(pages) == 1 else _without_repeats(pages)


def ends_with(server: Server, run: str, metric: str, held: Series) -> bool:
    """Whether the run's points are exactly those held; False too where the server cannot say.

    A server's pages are in the order of time, step and value, and points are never taken away: if the last of those
    held stands in its place and nothing behind it, then nothing came in between either.
    """
    rows = len(held.step)
    params = [("run_id", run), ("metric_key", metric), ("max_results", "2")]
    if rows > 1:  # from the last of those held on
        params.append(("page_token", page_token(rows - 1)))
    found = server.try_call(_SINGLE, params)
    if found is None:
        return False
    behind = to_points(found.get("metrics", []))
    if rows == 0 or len(behind.step) != 1 or found.get("next_page_token"):
        return rows == len(behind.step) == 0
    # A NaN is stored as 0 and a flag.
    last = np.lexsort((np.nan_to_num(held.value, nan=0.0), held.step, held.timestamp))[-1]
    return bool(
        held.step[last] == behind.step[0]
        and held.timestamp[last] == behind.timestamp[0]
        and np.array_equal(held.value[last : last + 1], behind.value, equal_nan=True)
    )


def to_points(rows: Sequence[Mapping[str, Any]]) -> Points:
    """The rows of a server's answer, in their order."""
    # A NaN comes as text by one route and as itself by the other; a step of 0 may be left away.
    value = np.array([float(row["value"]) for row in rows], dtype=np.float64)
    return Points(
        np.array([int(row.get("step", 0)) for row in rows], dtype=np.int64),
        restore_infinities(value),
        np.array([int(row["timestamp"]) for row in rows], dtype=np.int64),
    )


def _without_repeats(pages: Sequence[Points]) -> Points:
    """The pages one after another; a run that goes on meanwhile may push a point onto the next page as well."""
    step, value, timestamp = (np.concatenate(columns) for columns in zip(*pages, strict=True))
    rows = np.stack([step, value.view(np.int64), timestamp])
    first = np.sort(np.unique(rows, axis=1, return_index=True)[1])
    return Points(step[first], value[first], timestamp[first])
