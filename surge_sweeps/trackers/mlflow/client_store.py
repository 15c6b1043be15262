"""Reading any MLflow store through its client in this process: the databases that are not read directly, folders.

One query per run and metric by MLflow's own slow way; a cache spares the runs that ended before the last read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surge_sweeps.curve_cache import Series, join_series
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.trackers.mlflow.client import connect, find_experiment, search_all_runs, store_errors
from surge_sweeps.trackers.mlflow.record import NOT_TRIALS, TAG_KIND
from surge_sweeps.trackers.mlflow.runs import make_run, refuse_axis, restore_infinities
from surge_sweeps.trackers.stored_runs import LatestPoint, StoredRun

_HINT = "See that the store can be reached, then call the same command again."


class ClientStore:
    """The runs and points of a store, through `MlflowClient`; a `SeriesSource`.

    Args:
        uri: the store. progress: told of the runs read, metric by metric.
    """

    route = "MLflow's client, run by run"

    def __init__(self, uri: str, progress: ProgressCallback = no_progress) -> None:
        self._uri = uri
        self._progress = progress
        self._client = connect(uri)

    def experiment_id(self, project: str) -> str:
        """The id of the experiment of that name; raises `UnknownNameError`, or `TrackerError` if it is deleted."""
        with store_errors(self._uri, "read", _HINT):
            return str(find_experiment(self._client, project).experiment_id)

    def runs(self, experiment_id: str) -> list[StoredRun]:
        """Every active run of the experiment that is no parent and no report, oldest first."""
        with store_errors(self._uri, "read", _HINT):
            found = list(search_all_runs(self._client, [experiment_id]))
        return [_stored_run(run) for run in found if run.data.tags.get(TAG_KIND) not in NOT_TRIALS]

    def sweep_tags(self, experiment_id: str) -> list[dict[str, str]]:
        """The tags of every active run that is a sweep's parent, oldest first."""
        with store_errors(self._uri, "read", _HINT):
            found = list(search_all_runs(self._client, [experiment_id], f"tags.`{TAG_KIND}` = 'sweep'"))
        return [dict(run.data.tags) for run in found]

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """Unknown: the client tells how many points there are only by sending them."""
        del metric
        return [None] * len(runs)

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """Every point of the metric, run after run."""
        refuse_axis(axis)
        parts = []
        with store_errors(self._uri, "read", _HINT):
            for run in runs:
                parts.append(_series(run, self._client.get_metric_history(run, metric)))
                self._progress(len(parts), len(runs), f"reading {metric}")
        return join_series(parts)


def _series(run: str, points: Sequence[Any]) -> Series:
    return Series(
        (run,),
        np.array([len(points)], dtype=np.int64),
        np.array([point.step for point in points], dtype=np.float64),
        restore_infinities(np.array([point.value for point in points], dtype=np.float64)),
        np.array([point.timestamp for point in points], dtype=np.int64),
    )


def _stored_run(run: Any) -> StoredRun:
    info, data = run.info, run.data
    # The public dictionary of newest values lacks their steps and times.
    latest = {
        point.key: LatestPoint(point.step, point.timestamp, point.value) for point in data._metric_objs or []
    }
    return make_run(
        info.run_id, info.status, info.start_time, info.end_time, dict(data.params), dict(data.tags), latest
    )
