"""The run of a trial that a user's own program does: it logs by MLflow's fluent interface, told where by environment.

The trial's parameters are written when the program has ended, and only those it did not log itself: MLflow keeps the
first value of a parameter and refuses another, so writing `32` first would stop a program that logs `32.0`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surge_sweeps.curves import Status
from surge_sweeps.trackers.mlflow.runs import STORED_INFINITY
from surge_sweeps.trackers.trial_runs import missing_metric, script_status

if TYPE_CHECKING:
    from surge_sweeps.trackers.mlflow.writer import MlflowTracker


class MlflowScriptRun:
    """Implements `ScriptRun`.

    Args:
        tracker: the open tracker. run_id: the run. params: the trial's parameters as text. environment: see
            `ScriptRun`. loss: the metric that says how the program did.

    Attributes:
        problem: after `finish`, why a program that exited with 0 counts as crashed; else empty.
    """

    def __init__(
        self,
        tracker: MlflowTracker,
        run_id: str,
        params: Mapping[str, str],
        environment: Mapping[str, str],
        loss: str,
    ) -> None:
        self._tracker = tracker
        self._run_id = run_id
        self._params = params
        self._loss = loss
        self.environment = environment
        self.problem = ""

    def finish(self, exit_code: int | None) -> Status:
        """Write the parameters the program left out, then the status, and end the run."""
        data = self._tracker.read_run(self._run_id).data
        newest = {name: _value(stored) for name, stored in data.metrics.items()}
        status = script_status(exit_code, newest, self._loss)
        if exit_code == 0 and status == "crashed":
            self.problem = missing_metric(self._loss, newest)
        missing = {name: text for name, text in self._params.items() if name not in data.params}
        no_points: list[Any] = []
        self._tracker.end_run(self._run_id, no_points, missing, status, {})
        return status


def _value(stored: float) -> float:
    return math.copysign(math.inf, stored) if abs(stored) >= STORED_INFINITY else stored
