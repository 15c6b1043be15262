"""One open run of a trial; the buffering is W&B's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.wandb.client import wandb_errors
from surge_sweeps.trackers.wandb.open_run import close_run
from surge_sweeps.trackers.wandb.record import check_names, summary_values

#: Exit code of a run that was asked to make room: 128 + SIGTERM, as a shell reports it.
PREEMPTED_CODE = 143
_FAILED_CODE = 1


class WandbRun:
    """Implements `RunWriter`.

    Args:
        run: an open run of W&B's client. ended: called once with it when it is closed, and whether it may never be
            opened again.
    """

    def __init__(self, run: Any, ended: Callable[[Any, bool], None]) -> None:
        self._run = run
        self._ended = ended
        self._names: set[str] = set()
        self._step: int | None = None
        self._done = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `RunWriter.log`."""
        if self._done:
            raise TrackerError(
                "the run is finished and takes no more points.", "Open another run for the trial."
            )
        check_names(values.keys() - self._names, "metric")
        self._names |= values.keys()
        with wandb_errors("written"):
            self._run.log({name: float(value) for name, value in values.items()}, step=int(step))
        self._step = int(step)

    def finish(self, status: Status, summary: Mapping[str, Scalar] | None = None) -> None:
        """See `RunWriter.finish`."""
        if self._done:
            return
        self._done = True
        values = summary_values(status, summary or {})
        with wandb_errors("written"):
            if self._step is not None:
                # The client holds the row of the last step back, and the status must not overtake it.
                self._run.log({}, step=self._step, commit=True)
            self._run.summary.update(values)
        self._close(0 if status in RESULT_STATUSES else _FAILED_CODE, final=True)

    def cut_off(self) -> None:
        """End the run without a status."""
        if not self._done:
            self._done = True
            self._close(_FAILED_CODE, final=True)

    def _close(self, exit_code: int, final: bool) -> None:
        close_run(self._run, exit_code)
        self._ended(self._run, final)


class GivenRun(WandbRun):
    """The run that this process was started to fill; implements `ResumableRun`.

    A run that an earlier process began goes on where its rows end: rows that are there already are not logged again.
    """

    @property
    def run_id(self) -> str:
        """See `ResumableRun.run_id`."""
        return str(self._run.id)

    @property
    def logged_step(self) -> int:
        """See `ResumableRun.logged_step`."""
        return int(self._run.starting_step) - 1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `RunWriter.log`; a step that an earlier process logged is passed over."""
        if step > self.logged_step or self._done:
            super().log(step, values)

    def preempt(self) -> None:
        """See `ResumableRun.preempt`."""
        if not self._done:
            self._done = True
            with wandb_errors("written"):
                self._run.mark_preempting()
            self._close(PREEMPTED_CODE, final=False)
