"""One open run whose points wait until there are enough of them, or until they have waited long enough."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surge_sweeps.curves import Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.mlflow.record import check_names

if TYPE_CHECKING:
    from surge_sweeps.trackers.mlflow.writer import MlflowTracker

FLUSH_POINTS = 1000
FLUSH_SECONDS = 15.0


class BufferedRun:
    """Implements `RunWriter`.

    Args:
        tracker: the open tracker. run_id: the run.
    """

    def __init__(self, tracker: MlflowTracker, run_id: str) -> None:
        self._tracker = tracker
        self._run_id = run_id
        self._points: list[Any] = []
        self._names: set[str] = set()
        self._flushed_s = time.monotonic()
        self._done = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `RunWriter.log`."""
        if self._done:
            raise TrackerError(
                "the run is finished and takes no more points.", "Open another run for the trial."
            )
        check_names(values.keys() - self._names, "metric")
        self._names |= values.keys()
        metric = require("mlflow.entities", "mlflow").Metric
        logged_ms = now_ms()
        self._points += [metric(name, float(value), logged_ms, int(step)) for name, value in values.items()]
        if len(self._points) >= FLUSH_POINTS or time.monotonic() - self._flushed_s >= FLUSH_SECONDS:
            self.flush()

    def finish(self, status: Status, summary: Mapping[str, Scalar] | None = None) -> None:
        """See `RunWriter.finish`."""
        if self._done:
            return
        self._tracker.end_run(self._run_id, self._points, {}, status, summary or {})
        self._points = []
        self._done = True

    def flush(self) -> None:
        """Send what waits."""
        if self._points:
            self._tracker.write_batch(self._run_id, self._points)
        self._points = []
        self._flushed_s = time.monotonic()


def now_ms() -> int:
    """Now, in ms since 1970, as MLflow stamps points."""
    return time.time_ns() // 1_000_000
