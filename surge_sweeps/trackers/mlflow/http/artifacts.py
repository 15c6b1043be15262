"""The history artifact of a run, fetched from its server and believed only where everything about it agrees."""

from __future__ import annotations

from collections import Counter
from threading import Lock

import numpy as np

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.history import Points, decode_history
from surge_sweeps.trackers.mlflow.http.connection import Server, artifact_path
from surge_sweeps.trackers.mlflow.http.listing import StoredHistory
from surge_sweeps.trackers.mlflow.http.points import ends_with
from surge_sweeps.trackers.mlflow.runs import in_order
from surge_sweeps.trackers.stored_runs import LatestPoint, StoredRun

_KEPT_BYTES = 256 * 2**20
_GIVE_UP_AFTER = 5

_ELSEWHERE = "/get-artifact"


class HistoryArtifacts:
    """The history artifacts of an experiment's runs; may be called from several threads.

    Attributes:
        refused: why artifacts could not be used -> how many runs.
    """

    def __init__(self, server: Server) -> None:
        self.refused: Counter[str] = Counter()
        self._server = server
        # A second metric of a run comes from the same file.
        self._kept: dict[str, bytes] = {}
        self._kept_bytes = 0
        self._missing = 0
        self._found_any = False
        self._lock = Lock()

    def promises(self, run: StoredRun, metric: str, history: StoredHistory | None) -> bool:
        """Whether the run's tag says that its artifact holds the metric. A run that goes on has none that is whole."""
        return (
            history is not None
            and run.ended != "running"
            and metric in history.tag.points
            and metric in run.metrics
        )

    def read(self, run: StoredRun, metric: str, history: StoredHistory) -> Points | None:
        """The points of a metric, None where the artifact is not there or not what the tag and the listing say."""
        found = self._examine(run, metric, history)
        if isinstance(found, Points):
            return found
        with self._lock:
            self.refused[found] += 1
        return None

    def _examine(self, run: StoredRun, metric: str, history: StoredHistory) -> Points | str:
        """The points, or why the artifact is not believed."""
        if not self._found_any and self._missing >= _GIVE_UP_AFTER:
            return "were not asked for, since the server gave none"
        content = self._kept.get(run.run) or self._download(run.run, history)
        if content is None:
            self._missing += 1
            return "could not be fetched"
        if not history.tag.holds(content):
            return "differed from their tags"
        try:
            points = decode_history(content).get(metric)
        except TrackerError:
            return "could not be read"
        if points is None or len(points.step) != history.tag.points[metric]:
            return "differed from their tags"
        if not _is_newest(points, run.metrics[metric]):
            return "were older than the newest points"
        # A point that came later below the greatest step leaves the newest one as it is.
        series = in_order(run.run, points.step.astype(np.float64), points.value, points.timestamp)
        if not ends_with(self._server, run.run, metric, series):
            return "did not hold exactly the points that their runs have"
        self._keep(run.run, content)
        return points

    def _download(self, run: str, history: StoredHistory) -> bytes | None:
        path = artifact_path(history.artifact_uri, history.tag.path)
        if path is not None:
            content = self._server.download(path)
        else:
            # Artifacts that a server does not pass on for its clients it still shows on its own pages.
            content = self._server.download(_ELSEWHERE, [("path", history.tag.path), ("run_uuid", run)])
        self._found_any = self._found_any or content is not None
        return content

    def _keep(self, run: str, content: bytes) -> None:
        with self._lock:
            if run not in self._kept and self._kept_bytes + len(content) <= _KEPT_BYTES:
                self._kept[run] = content
                self._kept_bytes += len(content)


def _is_newest(points: Points, latest: LatestPoint) -> bool:
    """Whether the newest point is the one that the store knows as such: that of the greatest step, then time."""
    if len(points.step) == 0:
        return False
    last = np.lexsort((points.timestamp, points.step))[-1]
    return (int(points.step[last]), int(points.timestamp[last])) == (int(latest.step), latest.timestamp_ms)
