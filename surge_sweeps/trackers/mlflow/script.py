"""The run of a trial that a user's own program does: it logs by MLflow's fluent interface, told where by environment.

The trial's parameters are written when the program has ended, and only those it did not log itself: MLflow keeps the
first value of a parameter and refuses another, so writing `32` first would stop a program that logs `32.0`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from surge_sweeps.curves import Status
from surge_sweeps.trackers.mlflow.runs import STORED_INFINITY

if TYPE_CHECKING:
    from surge_sweeps.trackers.mlflow.writer import MlflowTracker

_LISTED_METRICS = 10


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
        status = script_status(exit_code, data.metrics, self._loss)
        if exit_code == 0 and status == "crashed":
            self.problem = missing_metric(self._loss, data.metrics)
        missing = {name: text for name, text in self._params.items() if name not in data.params}
        no_points: list[Any] = []
        self._tracker.end_run(self._run_id, no_points, missing, status, {})
        return status


def script_status(exit_code: int | None, newest: Mapping[str, float], loss: str) -> Status:
    """How a program ended, from its exit code (None: killed), the newest value of each metric and the loss's name.

    Where the loss is missing or the program failed, any metric whose name ends in "loss" may say that it diverged:
    a program may stop at its first NaN, before it evaluates.

    >>> script_status(0, {"val_loss": 0.5, "aux_loss": float("nan")}, "val_loss")
    'finished'
    >>> script_status(1, {"train_loss": float("nan")}, "val_loss"), script_status(1, {"val_loss": 0.5}, "val_loss")
    ('diverged', 'crashed')
    >>> script_status(0, {"val_ppl": 3.0}, "val_loss")
    'crashed'
    """
    if exit_code is None:
        return "crashed"
    if exit_code == 0 and loss in newest:
        return "finished" if _is_finite(newest[loss]) else "diverged"
    losses = [value for name, value in newest.items() if name == loss or name.endswith("loss")]
    return "crashed" if all(_is_finite(value) for value in losses) else "diverged"


def missing_metric(loss: str, logged: Iterable[str]) -> str:
    """What a program that did not log its loss did log.

    >>> missing_metric("val_loss", ["val_ppl"])
    "it logged no metric 'val_loss', only: val_ppl"
    """
    names = sorted(logged)
    more = f" and {len(names) - _LISTED_METRICS} more" if len(names) > _LISTED_METRICS else ""
    others = f", only: {', '.join(names[:_LISTED_METRICS])}{more}" if names else " and no other"
    return f"it logged no metric {loss!r}{others}"


def _is_finite(value: float) -> bool:
    return math.isfinite(value) and abs(value) < STORED_INFINITY
