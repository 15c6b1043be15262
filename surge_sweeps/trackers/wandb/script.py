"""The run of a trial that a user's own program does: it logs by `wandb.init()` and is told which run by environment.

The program's own client makes the run. What the trial's parameters are is written when the program has ended, and only
those that it did not record itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from surge_sweeps.curves import Status
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.trial_runs import missing_metric, script_status
from surge_sweeps.trackers.wandb.client import WandbProject, read_again, wandb_errors
from surge_sweeps.trackers.wandb.offline.run import number
from surge_sweeps.trackers.wandb.open_run import SHOW_TIMEOUT_S, RunLabels
from surge_sweeps.trackers.wandb.record import STATUS

_POLL_S = 0.5


class WandbScriptRun:
    """Implements `ScriptRun`.

    Args:
        api: W&B's public API. project: its entity named. labels: the run's. values: its configuration, ids included.
        loss: the metric that says how the program did. run_id: W&B's id of the run, new or left open by the same task.

    Attributes:
        environment: see `ScriptRun`. problem: after `finish`, why a program that exited with 0 counts as crashed.
    """

    def __init__(
        self,
        api: Any,
        project: WandbProject,
        labels: RunLabels,
        values: Mapping[str, Scalar],
        loss: str,
        run_id: str,
    ) -> None:
        self._api = api
        self._values = values
        self._loss = loss
        self._run_id = run_id
        self._path = f"{project.path}/{self._run_id}"
        self.problem = ""
        self.environment = {
            "WANDB_ENTITY": project.entity,
            "WANDB_PROJECT": project.project,
            "WANDB_RUN_ID": self._run_id,
            "WANDB_RESUME": "allow",
            "WANDB_NAME": labels.name,
            "WANDB_JOB_TYPE": labels.job_type,
            "WANDB_TAGS": ",".join(labels.tags),
            # Else the program would log through this process's client, and lose it with this process.
            "WANDB_SERVICE": "",
        } | ({} if labels.group is None else {"WANDB_RUN_GROUP": labels.group})

    def finish(self, exit_code: int | None) -> Status:
        """Write the parameters the program left out, then the status."""
        run = self._shown(exit_code)
        if run is None:
            if exit_code == 0:
                self.problem = (
                    "it logged into no run of W&B, or into another one than WANDB_RUN_ID says (remove project=, "
                    "entity= and id= from wandb.init)"
                )
            return "crashed"
        newest = _newest(run, self._loss)
        status = script_status(exit_code, newest, self._loss)
        if exit_code == 0 and status == "crashed":
            self.problem = missing_metric(self._loss, newest)
        missing = {name: value for name, value in self._values.items() if name not in run.config}
        with wandb_errors("written"):
            if missing:
                run.config.update(missing)
                run.update()
            run.summary[STATUS] = status
            run.summary.update()
        return status

    def preempt(self) -> None:
        """See `ScriptRun.preempt`: the program's own client has ended the run, or the server soon takes it for dead."""

    def store_is_away(self) -> str:
        """See `ScriptRun.store_is_away`: W&B's client keeps what a program logs on disk, and the program goes on."""
        return ""

    def _shown(self, exit_code: int | None) -> Any:
        """The run as the server shows it, once it shows that it ended; None if there is none."""
        deadline = time.monotonic() + (SHOW_TIMEOUT_S if exit_code == 0 else 0.0)
        while True:
            run = read_again("read", self._read)
            if (run is not None and run.state != "running") or time.monotonic() >= deadline:
                return run
            time.sleep(_POLL_S)

    def _read(self) -> Any:
        self._api.flush()
        project, _, _ = self._path.rpartition("/")
        try:
            found = list(self._api.runs(project, filters={"name": self._run_id}, lazy=False))
        except ValueError:  # no such project: the program made none
            return None
        return found[0] if found else None


def _newest(run: Any, loss: str) -> dict[str, float]:
    """The newest value of every metric that the summary shows, and of the loss even where it shows another one."""
    newest: dict[str, float] = {}
    for name, value in run.summary_metrics.items():
        shown = number(value.get("last") if isinstance(value, Mapping) else value)
        if shown is not None and not name.startswith("_"):
            newest[name] = shown
    if loss not in newest and loss in run.summary_metrics:
        rows = list(run.scan_history(keys=[loss], page_size=max(1, run.lastHistoryStep + 1)))
        last = number(rows[-1][loss]) if rows else None
        newest |= {} if last is None else {loss: last}
    return newest
