"""The run of a trial that a user's own program does: it logs by MLflow's fluent interface, told where by environment.

The trial's parameters are written when the program has ended, and only those it did not log itself: MLflow keeps the
first value of a parameter and refuses another, so writing `32` first would stop a program that logs `32.0`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surge_sweeps.curves import Status
from surge_sweeps.trackers.mlflow_runs import STORED_INFINITY

if TYPE_CHECKING:
    from surge_sweeps.trackers.mlflow_writer import MlflowTracker


class MlflowScriptRun:
    """Implements `ScriptRun`.

    Args:
        tracker: the open tracker. run_id: the run. params: the trial's parameters as text. environment: see
            `ScriptRun`.
    """

    def __init__(
        self, tracker: MlflowTracker, run_id: str, params: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        self._tracker = tracker
        self._run_id = run_id
        self._params = params
        self.environment = environment

    def finish(self, exit_code: int | None) -> Status:
        """Write the parameters the program left out, then the status, and end the run."""
        data = self._tracker.read_run(self._run_id).data
        status = script_status(exit_code, data.metrics)
        missing = {name: text for name, text in self._params.items() if name not in data.params}
        no_points: list[Any] = []
        self._tracker.end_run(self._run_id, no_points, missing, status, {})
        return status


def script_status(exit_code: int | None, newest: Mapping[str, float]) -> Status:
    """How a program ended, from its exit code (None: killed) and the newest value of each metric.

    >>> script_status(0, {"eval/loss": 0.5}), script_status(1, {"eval/loss": float("nan")})
    ('finished', 'diverged')
    >>> script_status(1, {"eval/loss": 0.5}), script_status(0, {})
    ('crashed', 'crashed')
    """
    losses = [value for name, value in newest.items() if name.endswith("loss")]
    if exit_code is not None and not all(
        math.isfinite(loss) and abs(loss) < STORED_INFINITY for loss in losses
    ):
        return "diverged"
    return "finished" if exit_code == 0 and newest else "crashed"
