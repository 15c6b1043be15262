"""Writing sweeps into MLflow: a parent run per sweep, a child run per trial, points in batches.

Only `MlflowClient` is used, so the caller's active run and tracking URI stay as they are. A trial's status is a tag
and the last thing written: a run without it was cut off, and `close_stale` says so. The parent shows as running while
a process that opened the sweep writes runs of it, and as finished else, also while an engine's tasks go on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import UnknownNameError
from surge_sweeps.trackers.base import ResumableRun, RunRecord, RunWriter, Scalar, ScriptRun
from surge_sweeps.trackers.mlflow.artifact import HistoryArtifacts, RunHistory
from surge_sweeps.trackers.mlflow.buffer import BufferedRun
from surge_sweeps.trackers.mlflow.client import quoted
from surge_sweeps.trackers.mlflow.database.sqlite import open_sqlite
from surge_sweeps.trackers.mlflow.database.tables import DatabaseStore
from surge_sweeps.trackers.mlflow.experiment import OpenExperiment, now_ms, record_points
from surge_sweeps.trackers.mlflow.file import is_missing
from surge_sweeps.trackers.mlflow.owned import is_busy_run, not_launched, open_owned, owned_run, trial_tags
from surge_sweeps.trackers.mlflow.record import (
    TAG_KIND,
    TAG_OWNER,
    TAG_STATUS,
    TAG_SWEEP_ID,
    TAG_SWEEP_NAME,
    TAG_TRIAL_ID,
    TAG_WHOLE,
    axis_metrics,
    check_names,
    definition_tags,
    params_text,
    summary_tags,
)
from surge_sweeps.trackers.mlflow.resumed import open_resumable
from surge_sweeps.trackers.mlflow.script import MlflowScriptRun
from surge_sweeps.trackers.mlflow.uri import absolute_uri, resolve_uri, sqlite_path
from surge_sweeps.trackers.stored_runs import as_status
from surge_sweeps.trackers.trial_runs import run_name

#: Finished runs written to a server at a time; a database that is written directly takes one writer best.
SERVER_WRITERS = 4
_T = TypeVar("_T")
_RESULTS = f"tags.`{TAG_KIND}` = 'trial' AND tags.`{TAG_STATUS}` != 'crashed'"


class MlflowTracker:
    """One MLflow experiment, open for writing; implements `Tracker`.

    A server that is killed and comes back within two minutes, or a database that is locked for as long, loses nothing
    and doubles nothing; see `patience`.

    Args:
        project: the experiment's name; it is created on first use.
        uri: the store; default MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the working folder.
    """

    def __init__(self, project: str, uri: str | None = None) -> None:
        self._uri = resolve_uri(uri)
        self._experiment = OpenExperiment(self._uri, project)
        self._artifacts = HistoryArtifacts(self._experiment)
        self._parents: dict[str, str] = {}
        self._opened: set[str] = set()
        self._running: set[str] = set()
        self._open: dict[str, BufferedRun] = {}
        self._scripts: set[str] = set()

    def open_sweep(self, sweep_id: str, name: str, definition: Mapping[str, object]) -> None:
        """Make the sweep's parent run, or find it again; it is marked as running with its first trial."""
        tags = definition_tags(definition) | {TAG_SWEEP_NAME: name}
        parent = self._find_parent(sweep_id)
        if parent is None:
            kind = {TAG_KIND: "sweep", TAG_SWEEP_ID: sweep_id}
            parent = self._experiment.create_run(kind, name)
        changed = {tag: text for tag, text in tags.items() if parent.data.tags.get(tag) != text}
        if changed:
            self._experiment.write_batch(parent.info.run_id, [], {}, changed)
        if parent.info.status == "RUNNING":
            # A new one, or one that a killed launch left so.
            self._running.add(parent.info.run_id)
        self._parents[sweep_id] = parent.info.run_id
        self._opened.add(sweep_id)

    def done_trials(self) -> Mapping[str, Status]:
        """Trial id -> status of every trial of the experiment that ended with a result; makes no store."""
        path = sqlite_path(self._uri)
        if path is not None:
            return self._read_file(path, DatabaseStore.done_trials) or {}
        done: dict[str, Status] = {}
        for run in [] if self._experiment.is_missing() else self._experiment.search(_RESULTS):
            status = run.data.tags.get(TAG_STATUS)
            if status in RESULT_STATUSES and TAG_TRIAL_ID in run.data.tags:
                done.setdefault(run.data.tags[TAG_TRIAL_ID], status)
        return done

    def result_of(self, trial_id: str) -> Status | None:
        """How a trial ended, if it has a result; asks for its own runs alone, and makes no store."""
        path = sqlite_path(self._uri)
        if path is not None:
            return self._read_file(path, lambda store, experiment: store.result_of(experiment, trial_id))
        if self._experiment.is_missing():
            return None
        found = self._experiment.search(f"{_RESULTS} AND tags.`{TAG_TRIAL_ID}` = {quoted(trial_id)}")
        statuses = (as_status(run.data.tags.get(TAG_STATUS)) for run in found)
        return next((status for status in statuses if status in RESULT_STATUSES), None)

    def busy_trials(self, sweep_id: str, ended: Collection[str] = ()) -> Mapping[str, str]:
        """See `Tracker.busy_trials`; makes no store."""
        path = sqlite_path(self._uri)
        if (path is not None and is_missing(path)) or self._experiment.is_missing():
            return {}
        return {
            run.data.tags[TAG_TRIAL_ID]: str(run.info.run_id)
            for run in self._trials(sweep_id, f" AND tags.`{TAG_OWNER}` != ''")
            if TAG_STATUS not in run.data.tags and is_busy_run(run, ended)
        }

    def close_stale(
        self,
        sweep_id: str,
        in_flight: Collection[str] = (),
        ended: Collection[str] = (),
        *,
        only_whole: bool = False,
    ) -> int:
        """Mark the trials that a killed process left open, or that made room, as crashed; see `Tracker.close_stale`."""
        closed = 0
        for run in self._trials(sweep_id, f" AND tags.`{TAG_WHOLE}` = 'yes'" if only_whole else ""):
            run_id, status = run.info.run_id, run.data.tags.get(TAG_STATUS)
            if status is None:
                if run.data.tags[TAG_TRIAL_ID] in in_flight or is_busy_run(run, ended):
                    continue
                self._experiment.write_batch(run_id, [], {}, {TAG_STATUS: "crashed"})
                closed += 1
            if run.info.status == "RUNNING":
                # A kill between the status and the end of the run leaves a result that only looks open.
                self._experiment.end_run(run_id, "FINISHED" if status in RESULT_STATUSES else "KILLED")
        return closed

    def start_run(self, sweep_id: str | None, trial_id: str, config: Mapping[str, Scalar]) -> RunWriter:
        """Open the run of one trial; without a sweep, go on with one that was left to be, see `resumed`."""
        writer: BufferedRun
        if sweep_id is None:
            writer = open_resumable(self._experiment, trial_id, config, self._artifacts, self._ended)
        else:
            params = params_text(config, trial_id, sweep_id)
            run = self._create_trial(sweep_id, trial_id, config)
            self._experiment.write_batch(run.info.run_id, [], params)
            writer = BufferedRun(self._experiment, run, config, self._artifacts, self._ended)
        self._open[writer.run_id] = writer
        return writer

    def resume_run(
        self, sweep_id: str, trial_id: str, config: Mapping[str, Scalar], owner: str
    ) -> ResumableRun:
        """Open the run of one trial for a task of an engine, or go on with the one that it left; see `owned`."""
        tags = trial_tags(self._parent(sweep_id), sweep_id, trial_id, owner)
        writer = open_owned(self._experiment, tags, config, self._artifacts, self._ended)
        self._open[writer.run_id] = writer
        return writer

    def start_script(
        self, sweep_id: str, trial_id: str, config: Mapping[str, Scalar], loss: str, owner: str = ""
    ) -> ScriptRun:
        """Open the run of one trial for a program that logs through MLflow's fluent interface."""
        params = params_text(config, trial_id, sweep_id)
        if owner:
            tags = trial_tags(self._parent(sweep_id), sweep_id, trial_id, owner)
            run_id = str(owned_run(self._experiment, tags, run_name(config, trial_id)).info.run_id)
        else:
            run_id = str(self._create_trial(sweep_id, trial_id, config).info.run_id)
        self._scripts.add(run_id)
        environment = {
            "MLFLOW_TRACKING_URI": absolute_uri(self._uri),
            "MLFLOW_EXPERIMENT_ID": self._experiment.experiment_id,
            "MLFLOW_RUN_ID": run_id,
        }
        return MlflowScriptRun(
            self._experiment, run_id, params, axis_metrics(config), environment, loss, self._scripts.discard
        )

    def write_runs(self, sweep_id: str, records: Sequence[RunRecord]) -> None:
        """Write finished runs, whole, three calls to the store each; to a server several at a time.

        However they are written, they are listed in the order of `records`.
        """
        for record in records:
            check_names(record.metrics, "metric")
            params_text(record.config, record.trial_id, sweep_id)
            summary_tags(record.summary)
        if not records:
            return
        self._running_parent(sweep_id)
        first_ms = now_ms() - len(records)
        if not self._experiment.is_server:
            for index, record in enumerate(records):
                self._write(sweep_id, record, first_ms + index)
            return
        with ThreadPoolExecutor(min(SERVER_WRITERS, len(records))) as pool:
            futures = [
                pool.submit(self._write, sweep_id, record, first_ms + index)
                for index, record in enumerate(records)
            ]
            try:
                # Not one after the other: a later one may fail while an earlier one takes its time.
                ended = wait(futures, return_when=FIRST_EXCEPTION).done
            finally:
                pool.shutdown(cancel_futures=True)
            for future in ended:
                future.result()

    def give_up_when(self, is_given_up: Callable[[], bool]) -> None:
        """See `Tracker.give_up_when`; a call that waits then raises `TrackerError`."""
        self._experiment.is_given_up = is_given_up

    def close(self) -> None:
        """End the runs that are still open, without a status, and the parents that were running.

        A second call does nothing.
        """
        for writer in list(self._open.values()):
            writer.cut_off()
        self._parents.clear()
        self._opened.clear()
        for parent in sorted(self._running):
            self._experiment.end_run(parent, "FINISHED")
        self._running.clear()

    def _trials(self, sweep_id: str, more: str = "") -> list[Any]:
        """The runs of a sweep's trials that this tracker has not open itself. more: end of the query."""
        which = f"tags.`{TAG_KIND}` = 'trial' AND tags.`{TAG_SWEEP_ID}` = {quoted(sweep_id)}{more}"
        mine = {*self._open, *self._scripts}
        found = self._experiment.search(which)
        return [run for run in found if TAG_TRIAL_ID in run.data.tags and run.info.run_id not in mine]

    def _read_file(self, path: Path, read: Callable[[DatabaseStore, int], _T]) -> _T | None:
        """What a reader of the database finds in the experiment; None where it was not made yet."""
        self._experiment.check_file()
        if is_missing(path):
            return None
        with open_sqlite(path) as store:
            try:
                experiment_id = store.experiment_id(self._experiment.project)
            except UnknownNameError:  # made with the first sweep
                return None
            return read(store, experiment_id)

    def _write(self, sweep_id: str, record: RunRecord, start_ms: int) -> None:
        run = self._create_trial(sweep_id, record.trial_id, record.config, start_ms, {TAG_WHOLE: "yes"})
        run_id = str(run.info.run_id)
        points = record_points(record, now_ms())
        tags = summary_tags(record.summary)
        if record.status in RESULT_STATUSES and self._experiment.is_server:
            history = RunHistory()
            history.add(points)
            tags |= self._artifacts.store(run_id, str(run.info.artifact_uri), history.points())
        params = params_text(record.config, record.trial_id, sweep_id)
        self._experiment.end_trial(run_id, points, params, tags, record.status)

    def _create_trial(
        self,
        sweep_id: str,
        trial_id: str,
        config: Mapping[str, Scalar],
        start_ms: int | None = None,
        more_tags: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        tags = {**trial_tags(self._running_parent(sweep_id), sweep_id, trial_id), **more_tags}
        return self._experiment.create_run(tags, run_name(config, trial_id), start_ms)

    def _parent(self, sweep_id: str) -> str:
        """The sweep's parent run, which is only read."""
        if sweep_id not in self._parents:
            found = None if self._experiment.is_missing() else self._find_parent(sweep_id)
            if found is None:
                raise not_launched(self._experiment.project, sweep_id)
            self._parents[sweep_id] = found.info.run_id
        return self._parents[sweep_id]

    def _running_parent(self, sweep_id: str) -> str:
        """The same, marked as running where this process opened the sweep."""
        parent = self._parent(sweep_id)
        if sweep_id in self._opened and parent not in self._running:
            self._experiment.set_running(parent)
            self._running.add(parent)
        return parent

    def _find_parent(self, sweep_id: str) -> Any:
        query = f"tags.`{TAG_KIND}` = 'sweep' AND tags.`{TAG_SWEEP_ID}` = {quoted(sweep_id)}"
        return next(iter(self._experiment.search(query)), None)

    def _ended(self, run_id: str) -> None:
        self._open.pop(run_id, None)
