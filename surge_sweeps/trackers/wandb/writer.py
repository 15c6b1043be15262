"""Writing trials into W&B: one run a trial, through W&B's own client.

A trial's status is a key of its run's summary and the last thing written: a run without it was cut off, and
`close_stale` says so. A sweep is no object of its own here: its runs carry its id, and its definition is its file.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.trackers.base import ResumableRun, RunRecord, RunWriter, Scalar, ScriptRun
from surge_sweeps.trackers.stored_runs import StoredRun
from surge_sweeps.trackers.trial_runs import run_name
from surge_sweeps.trackers.wandb import session
from surge_sweeps.trackers.wandb.client import (
    WandbProject,
    connect,
    parse_project,
    with_entity,
)
from surge_sweeps.trackers.wandb.open_run import (
    RunLabels,
    check_config,
    confirm,
    is_given_run,
    is_offline,
    new_run_id,
    open_run,
    owned_run_id,
    process_left_alone,
    run_folder,
)
from surge_sweeps.trackers.wandb.record import (
    JOB_TYPE_TRIAL,
    OWNER,
    SUMMARY,
    WHOLE,
    check_record,
    config_values,
    define_metrics,
    group_name,
    history_rows,
    tags,
)
from surge_sweeps.trackers.wandb.recorded import (
    confirm_offline,
    is_busy_run,
    left_open,
    mark_crashed,
    recorded_offline,
    recorded_online,
)
from surge_sweeps.trackers.wandb.run import GivenRun, WandbRun
from surge_sweeps.trackers.wandb.script import WandbScriptRun

#: Runs written at a time: a run waits for the server most of its time.
WRITERS = 8


class WandbTracker:
    """One W&B project, open for writing; implements `Tracker`.

    Where W&B is set to offline, runs are written to the folder `wandb` and looked for there.

    Args:
        project: `entity/project`, or a project of the default entity; it is made with its first run.

    Raises:
        SurgeError: no name of a project.
    """

    def __init__(self, project: str) -> None:
        self._named = parse_project(project)
        if self._named.sweep is not None:
            raise SurgeError(
                f"{project!r} is one sweep, and runs are written to a project.", "Write entity/project."
            )
        self._sweeps: dict[str, str] = {}
        self._open: dict[str, WandbRun] = {}

    def open_sweep(self, sweep_id: str, name: str, definition: Mapping[str, object]) -> None:
        """Remember the sweep's name for its runs; nothing of a sweep is written but them."""
        self._sweeps[sweep_id] = name

    def done_trials(self) -> Mapping[str, Status]:
        """Trial id -> status of every trial of the project, offline of the folder, that ended with a result."""
        return {
            run.params["trial_id"]: run.status
            for run in self._stored()
            if run.status in RESULT_STATUSES and "trial_id" in run.params
        }

    def result_of(self, trial_id: str) -> Status | None:
        """How a trial ended, if it has a result. A run may name no trial, so all are listed, 500 a request."""
        return self.done_trials().get(trial_id)

    def busy_trials(self, sweep_id: str, ended: Collection[str] = ()) -> Mapping[str, str]:
        """See `Tracker.busy_trials`; a run's last heartbeat tells. Offline nobody sees the runs of others."""
        return {
            run.params["trial_id"]: run.run
            for run in ([] if is_offline() else self._left_open(sweep_id))
            if "trial_id" in run.params and is_busy_run(run, ended)
        }

    def close_stale(
        self,
        sweep_id: str,
        in_flight: Collection[str] = (),
        ended: Collection[str] = (),
        *,
        only_whole: bool = False,
    ) -> int:
        """Mark the trials that a killed process left open as crashed; return how many. Offline files stay."""
        if is_offline():
            return 0
        stale = [
            run.run
            for run in self._left_open(sweep_id)
            if run.params.get("trial_id") not in in_flight
            and (run.is_whole or not only_whole)
            and not is_busy_run(run, ended)
        ]
        for run_id in stale:
            mark_crashed(self._api, f"{self._project.path}/{run_id}")
        return len(stale)

    def start_run(self, sweep_id: str | None, trial_id: str, config: Mapping[str, Scalar]) -> RunWriter:
        """Open the run of one trial. Without a sweep it is the run that this process was given, if there is one."""
        given = sweep_id is None and is_given_run()
        with process_left_alone():
            run = self._open_given(trial_id, config) if given else self._open_new(sweep_id, trial_id, config)
        return self._keep((GivenRun if given else WandbRun)(run, self._ended), run)

    def resume_run(
        self, sweep_id: str, trial_id: str, config: Mapping[str, Scalar], owner: str
    ) -> ResumableRun:
        """Open the run of one trial for a task of an engine, or go on with it: its id is made of the task's name."""
        if is_offline():
            raise TrackerError(
                "W&B is set to offline, where no run can be gone on with.",
                "Unset WANDB_MODE, or use --tracker files, which needs no network.",
            )
        self._check_new()
        values = config_values(config, trial_id, sweep_id)
        labels = self._labels(sweep_id, trial_id, config, is_opened=False)
        with process_left_alone():
            run_id = owned_run_id(owner, trial_id)
            run = open_run(self._project, labels, {}, run_id=run_id, resume=True)
            # What the task's earlier process was called with stays, were it another split of the batch.
            run.config.update({name: value for name, value in values.items() if name not in run.config})
            run.summary.update({OWNER: owner})
            define_metrics(run)
        writer = GivenRun(run, self._ended)
        self._keep(writer, run)
        return writer

    def start_script(
        self, sweep_id: str, trial_id: str, config: Mapping[str, Scalar], loss: str, owner: str = ""
    ) -> ScriptRun:
        """Tell a program that logs through W&B's client which run is the trial's; the client makes the run."""
        if is_offline():
            raise TrackerError(
                "W&B is set to offline, and how a script did is asked of the server.",
                "Unset WANDB_MODE, or use --tracker mlflow, which needs no server.",
            )
        self._check_new()
        values = config_values(config, trial_id, sweep_id)
        labels = self._labels(sweep_id, trial_id, config, is_opened=not owner)
        run_id = owned_run_id(owner, trial_id) if owner else new_run_id()
        return WandbScriptRun(self._api, self._project, labels, values, loss, run_id)

    def write_runs(self, sweep_id: str, records: Sequence[RunRecord]) -> None:
        """Write finished runs, whole, several at a time."""
        for record in records:
            check_record(record, sweep_id)
        if not records:
            return
        self._check_new()
        with process_left_alone(), ThreadPoolExecutor(min(WRITERS, len(records))) as pool:
            futures = [pool.submit(self._write, sweep_id, record) for record in records]
            try:
                written = dict(future.result() for future in futures)
            finally:
                pool.shutdown(cancel_futures=True)
        self._confirm(self._project.path, written)

    def give_up_when(self, is_given_up: Callable[[], bool]) -> None:
        """Changes nothing: how long a server that is away is waited for is up to W&B's own client."""

    def close(self) -> None:
        """End the runs that are still open, without a status. A second call does nothing."""
        for writer in list(self._open.values()):
            writer.cut_off()

    @cached_property
    def _api(self) -> Any:
        return connect()

    @cached_property
    def _project(self) -> WandbProject:
        return self._named if is_offline() else with_entity(self._api, self._named)

    def _check_new(self) -> None:
        """Refuse new runs under an agent: there W&B's client opens the agent's run, whatever it is told."""
        if session.settings().sweep_id:
            raise TrackerError(
                "this runs under a W&B agent, which gives it one run to fill, and it has others to write.",
                "Call it without an agent: unset WANDB_SWEEP_ID.",
            )
        self._check_server()

    def _check_server(self) -> None:
        """Find out what would fail before anything is written: no key, a wrong one, no server."""
        if not is_offline():
            _ = self._project

    def _stored(self) -> list[StoredRun]:
        if is_offline():
            return recorded_offline(Path(session.settings().wandb_dir), self._named)
        return recorded_online(self._api, self._project)

    def _left_open(self, sweep_id: str) -> list[StoredRun]:
        """Of the runs that this tracker has not open itself."""
        return [run for run in left_open(self._stored(), sweep_id) if run.run not in self._open]

    def _keep(self, writer: WandbRun, run: Any) -> WandbRun:
        self._open[run.id] = writer
        # A process that leaves without finishing it must not end it as if all were well, as W&B's client would.
        atexit.register(writer.cut_off)
        return writer

    def _labels(
        self, sweep_id: str | None, trial_id: str, config: Mapping[str, Scalar], *, is_opened: bool = True
    ) -> RunLabels:
        """is_opened: by this process, which then knows the sweep's name; an engine's task does not."""
        if is_opened and sweep_id is not None and sweep_id not in self._sweeps:
            raise TrackerError(
                f"the project {self._named.path!r} has no sweep {sweep_id!r}.",
                "Open the sweep before its trials.",
            )
        marks = tags(config, self._sweeps.get(sweep_id or ""), session.settings().run_tags or ())
        return RunLabels(run_name(config, trial_id), group_name(config), JOB_TYPE_TRIAL, marks)

    def _open_new(
        self, sweep_id: str | None, trial_id: str, config: Mapping[str, Scalar], *, is_whole: bool = False
    ) -> Any:
        """is_whole: the trial has ended; that it was begun here is not asked, as a task writes those of a pack."""
        values = config_values(config, trial_id, sweep_id)
        labels = self._labels(sweep_id, trial_id, config, is_opened=not is_whole)
        self._check_new()
        run = open_run(self._project, labels, values, run_id=new_run_id())
        if is_whole:
            run.summary.update({SUMMARY + WHOLE: True})
        define_metrics(run)
        return run

    def _open_given(self, trial_id: str, config: Mapping[str, Scalar]) -> Any:
        """Open the run that this process was given and complete its configuration, which an agent has begun."""
        sweep_id = session.settings().sweep_id
        values = config_values(config, trial_id, None if sweep_id is None else str(sweep_id))
        labels = self._labels(None, trial_id, config)
        self._check_server()
        run = open_run(self._project, labels, {}, run_id=None)
        check_config(run, values)
        run.config.update({name: value for name, value in values.items() if name not in run.config})
        define_metrics(run)
        return run

    def _write(self, sweep_id: str, record: RunRecord) -> tuple[str, Path]:
        """Write one run; its id and its folder."""
        run = self._open_new(sweep_id, record.trial_id, record.config, is_whole=True)
        writer = WandbRun(run, lambda *_: None)
        try:
            for step, values in history_rows(record.metrics):
                writer.log(step, values)
            writer.finish(record.status, {**record.summary, WHOLE: True})
        finally:
            writer.cut_off()
        return str(run.id), run_folder(run)

    def _ended(self, run: Any, final: bool) -> None:
        """A run was closed: see that it arrived. One that goes on later may do so at once, elsewhere."""
        atexit.unregister(self._open.pop(run.id).cut_off)
        if final:
            self._confirm(f"{run.entity}/{run.project}", {run.id: run_folder(run)})

    def _confirm(self, path: str, runs: Mapping[str, Path]) -> None:
        if is_offline():
            confirm_offline(runs.values())
        else:
            confirm(self._api, path, runs)
