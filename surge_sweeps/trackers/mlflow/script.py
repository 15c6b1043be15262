"""The run of a trial that a user's own program does: it logs by MLflow's fluent interface, told where by environment.

The trial's parameters are written when the program has ended, and only those it did not log itself: MLflow keeps the
first value of a parameter and refuses another, so writing `32` first would stop a program that logs `32.0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.trackers.mlflow.experiment import OpenExperiment, make_points, now_ms
from surge_sweeps.trackers.mlflow.record import TAG_PREEMPTED
from surge_sweeps.trackers.mlflow.runs import STORED_INFINITY
from surge_sweeps.trackers.mlflow.uri import display_uri
from surge_sweeps.trackers.probe import connection_failure
from surge_sweeps.trackers.trial_runs import missing_metric, script_status


class MlflowScriptRun:
    """Implements `ScriptRun`.

    Args:
        experiment: where the run is. run_id: the run. params: the trial's parameters as text. axes: metrics of its
            parameters, see `axis_metrics`. environment: see `ScriptRun`. loss: the metric that says how the program
            did. ended: called once with the run's id when it is closed.

    Attributes:
        problem: after `finish`, why a program that exited with 0 counts as crashed; else empty.
    """

    def __init__(
        self,
        experiment: OpenExperiment,
        run_id: str,
        params: Mapping[str, str],
        axes: Mapping[str, float],
        environment: Mapping[str, str],
        loss: str,
        ended: Callable[[str], None],
    ) -> None:
        self._experiment = experiment
        self._run_id = run_id
        self._params = params
        self._axes = axes
        self._loss = loss
        self._ended = ended
        self.environment = environment
        self.problem = ""

    def finish(self, exit_code: int | None) -> Status:
        """Write the parameters the program left out, then the status, and end the run."""
        data = self._experiment.read_run(self._run_id).data
        newest = {name: _value(stored) for name, stored in data.metrics.items()}
        status = script_status(exit_code, newest, self._loss)
        if exit_code == 0 and status == "crashed":
            self.problem = missing_metric(self._loss, newest)
        missing = {name: text for name, text in self._params.items() if name not in data.params}
        axes = {name: value for name, value in self._axes.items() if name not in newest}
        points = make_points(0, axes if status in RESULT_STATUSES else {}, now_ms())
        self._experiment.end_trial(self._run_id, points, missing, {}, status)
        self._ended(self._run_id)
        return status

    def preempt(self) -> None:
        """See `ScriptRun.preempt`. Until it goes on the run counts as one that was cut off."""
        self._experiment.write_batch(self._run_id, [], {}, {TAG_PREEMPTED: "yes"})
        self._experiment.end_run(self._run_id, "KILLED")
        self._ended(self._run_id)

    def store_is_away(self) -> str:
        """See `ScriptRun.store_is_away`; only a server is asked."""
        uri = self.environment.get("MLFLOW_TRACKING_URI", "")
        if connection_failure(uri) is None:
            return ""
        return (
            f"the MLflow server {display_uri(uri)} does not answer; scripts that log to it wait in MLflow's own"
            " retries, by default up to four minutes"
        )


def _value(stored: float) -> float:
    return math.copysign(math.inf, stored) if abs(stored) >= STORED_INFINITY else stored
