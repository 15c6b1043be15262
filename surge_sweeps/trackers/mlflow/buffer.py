"""One open run whose points wait until there are enough of them, or until they have waited long enough.

A point's time is fixed when it is logged, so that a batch that is sent twice is one in the store. No thread and no
signal handler is started behind the caller's back: points are sent while `log` is called, and a process that leaves
without finishing the run sends the rest as it leaves. Only SIGKILL, and SIGTERM in a program that does not handle it,
end a process without that: then what was logged in the last `FLUSH_SECONDS` is lost.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.mlflow.artifact import HistoryArtifacts
from surge_sweeps.trackers.mlflow.experiment import OpenExperiment, make_points, now_ms
from surge_sweeps.trackers.mlflow.patience import PATIENCE_S, may_pass
from surge_sweeps.trackers.mlflow.record import axis_metrics, check_names, mlflow_status, summary_tags

FLUSH_POINTS = 1000
FLUSH_SECONDS = 15.0
#: Seconds that the end of a process waits for a store that is away.
EXIT_PATIENCE_S = 10.0

_log = logging.getLogger(__name__)


class BufferedRun:
    """Implements `RunWriter`.

    Args:
        experiment: where the run is. run: the run, as MLflow's client returns it. config: the trial's configuration.
        artifacts: stores its history; None: the run's history is not all of this process. ended: called once with
            the run's id when it is closed.
    """

    def __init__(
        self,
        experiment: OpenExperiment,
        run: Any,
        config: Mapping[str, Scalar],
        artifacts: HistoryArtifacts | None,
        ended: Callable[[str], None],
    ) -> None:
        self._experiment = experiment
        self._run_id = str(run.info.run_id)
        self._artifact_uri = str(run.info.artifact_uri)
        self._config = config
        self._artifacts = artifacts
        self._history = artifacts.new_history() if artifacts else None
        self._ended = ended
        self._points: list[Any] = []
        self._names: set[str] = set()
        self._has_axes = False
        self._process = os.getpid()
        self._tried_s = time.monotonic()
        self._away_since_s: float | None = None
        self._done = False
        # A process that leaves without finishing the run must not lose what it logged.
        atexit.register(self._at_exit)

    @property
    def run_id(self) -> str:
        """The store's own id of the run."""
        return self._run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `RunWriter.log`. While the store is away points are kept, and training goes on, for `PATIENCE_S`."""
        if self._done:
            raise TrackerError(
                "the run is finished and takes no more points.", "Open another run for the trial."
            )
        check_names(values.keys() - self._names, "metric")
        self._names |= values.keys()
        self._add(make_points(step, values, now_ms()))
        waited_s = time.monotonic() - self._tried_s
        full = len(self._points) >= FLUSH_POINTS and self._away_since_s is None
        if full or waited_s >= FLUSH_SECONDS:
            self._try_flush()

    def finish(self, status: Status, summary: Mapping[str, Scalar] | None = None) -> None:
        """See `RunWriter.finish`."""
        if self._done:
            return
        tags = summary_tags(summary or {})
        if status in RESULT_STATUSES:
            if not self._has_axes:
                self._add(make_points(0, axis_metrics(self._config), now_ms()))
                self._has_axes = True
            if self._history is not None and self._artifacts is not None:
                tags |= self._artifacts.store(self._run_id, self._artifact_uri, self._history.points())
        self._experiment.end_trial(
            self._run_id, self._points, {}, tags, status, patience_s=self._patience_s()
        )
        self._points = []
        self._close()

    def cut_off(self, patience_s: float | None = None) -> None:
        """Send what waits and end the run without a status, which counts as crashed. A second call does nothing."""
        if not self._done:
            self.flush(patience_s)
            self._experiment.end_run(self._run_id, mlflow_status("crashed"), patience_s=patience_s)
            self._close()

    def flush(self, patience_s: float | None = None) -> None:
        """Send what waits."""
        self._tried_s = time.monotonic()
        if self._points:
            self._experiment.write_batch(self._run_id, self._points, patience_s=patience_s)
        self._points = []
        self._away_since_s = None

    def _add(self, points: Sequence[Any]) -> None:
        self._points += points
        if self._history is not None:
            self._history.add(points)

    def _close(self) -> None:
        self._done = True
        atexit.unregister(self._at_exit)
        self._ended(self._run_id)

    def _try_flush(self) -> None:
        """Send what waits; a store that is away is asked again later, until it has been away for too long."""
        try:
            self.flush(patience_s=0.0)
        except TrackerError as error:
            if not may_pass(error):
                raise
            now_s = time.monotonic()
            if self._away_since_s is None:
                self._away_since_s = now_s
                _log.warning("%s Points are kept, and sent once it is back.", error.what)
            if now_s - self._away_since_s >= PATIENCE_S:
                raise

    def _patience_s(self) -> float | None:
        """No patience with a store that has used it up already."""
        away = self._away_since_s
        return None if away is None else max(0.0, PATIENCE_S - (time.monotonic() - away))

    def _at_exit(self) -> None:
        if os.getpid() != self._process:
            return  # a fork of the process that writes the run
        try:
            self.cut_off(EXIT_PATIENCE_S)
        except TrackerError as error:
            if self._points:
                _log.warning("the process ends and the last points of a run are lost: %s", error)
