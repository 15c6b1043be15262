"""Writing sweeps into MLflow: a parent run per sweep, a child run per trial, points in batches.

Only `MlflowClient` is used, so the caller's active run and tracking URI stay as they are. A trial's status is a tag
and the last thing written: a run without it was cut off, and `close_stale` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import TrackerError, UnknownNameError
from surge_sweeps.extras import require
from surge_sweeps.trackers.base import RunRecord, RunWriter, Scalar, ScriptRun
from surge_sweeps.trackers.mlflow.buffer import BufferedRun, now_ms
from surge_sweeps.trackers.mlflow.client import connect, quoted, search_all_runs, store_errors
from surge_sweeps.trackers.mlflow.database.sqlite import open_sqlite
from surge_sweeps.trackers.mlflow.file import FileGuard, is_missing
from surge_sweeps.trackers.mlflow.record import (
    TAG_KIND,
    TAG_PARENT,
    TAG_STATUS,
    TAG_SWEEP_ID,
    TAG_SWEEP_NAME,
    TAG_TRIAL_ID,
    check_names,
    definition_tags,
    mlflow_status,
    params_text,
    summary_tags,
)
from surge_sweeps.trackers.mlflow.runs import unknown_experiment
from surge_sweeps.trackers.mlflow.script import MlflowScriptRun
from surge_sweeps.trackers.mlflow.uri import absolute_uri, resolve_uri, sqlite_path
from surge_sweeps.trackers.trial_runs import run_name

_BATCH_ENTITIES = 1000  # metrics, parameters and tags together, in one call
_BATCH_PARAMS = 100


class MlflowTracker:
    """One MLflow experiment, open for writing; implements `Tracker`.

    Args:
        project: the experiment's name; it is created on first use.
        uri: the store; default MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the working folder.
    """

    def __init__(self, project: str, uri: str | None = None) -> None:
        self._project = project
        self._uri = resolve_uri(uri)
        self._parents: dict[str, str] = {}
        self._running: set[str] = set()
        self._open: dict[str, BufferedRun] = {}
        self._scripts: set[str] = set()

    def open_sweep(self, sweep_id: str, name: str, definition: Mapping[str, object]) -> None:
        """Make the sweep's parent run, or find it again; it is marked as running with its first trial."""
        tags = definition_tags(definition) | {TAG_SWEEP_NAME: name}
        entities = require("mlflow.entities", "mlflow")
        with self._writing():
            parent = self._find_parent(sweep_id)
            if parent is None:
                kind = {TAG_KIND: "sweep", TAG_SWEEP_ID: sweep_id}
                parent = self._client.create_run(self._experiment_id, tags=kind, run_name=name)
                self._running.add(parent.info.run_id)
            changed = [item for item in tags.items() if parent.data.tags.get(item[0]) != item[1]]
            if changed:
                run_tags = [entities.RunTag(*item) for item in changed]
                self._client.log_batch(parent.info.run_id, tags=run_tags, synchronous=True)
        self._parents[sweep_id] = parent.info.run_id

    def done_trials(self) -> Mapping[str, Status]:
        """Trial id -> status of every trial of the experiment that ended with a result; makes no store."""
        path = sqlite_path(self._uri)
        if path is not None:
            if "_guard" in self.__dict__:
                self._guard.check()
            return {} if is_missing(path) else _done_in_file(path, self._project)
        done: dict[str, Status] = {}
        with self._writing("read"):
            for run in self._search(f"tags.`{TAG_KIND}` = 'trial' AND tags.`{TAG_STATUS}` != 'crashed'"):
                status = run.data.tags.get(TAG_STATUS)
                if status in RESULT_STATUSES and TAG_TRIAL_ID in run.data.tags:
                    done.setdefault(run.data.tags[TAG_TRIAL_ID], status)
        return done

    def close_stale(self, sweep_id: str) -> int:
        """Mark the trials that a killed process left open as crashed; return how many."""
        closed = 0
        with self._writing():
            for run in self._trials(sweep_id):
                run_id, status = run.info.run_id, run.data.tags.get(TAG_STATUS)
                if run_id in self._open or run_id in self._scripts:
                    continue
                if status is None:
                    self._client.set_tag(run_id, TAG_STATUS, "crashed")
                    closed += 1
                if run.info.status == "RUNNING":
                    # A kill between the status and the end of the run leaves a result that only looks open.
                    self._client.set_terminated(run_id, "FINISHED" if status in RESULT_STATUSES else "KILLED")
        return closed

    def start_run(self, sweep_id: str | None, trial_id: str, config: Mapping[str, Scalar]) -> RunWriter:
        """Open the run of one trial; its points go out every `FLUSH_POINTS` points or `FLUSH_SECONDS`."""
        params = params_text(config, trial_id, sweep_id)
        run_id = self._create_trial(sweep_id, trial_id, config)
        self.write_batch(run_id, [], params)
        writer = BufferedRun(self, run_id)
        self._open[run_id] = writer
        return writer

    def start_script(
        self, sweep_id: str, trial_id: str, config: Mapping[str, Scalar], loss: str
    ) -> ScriptRun:
        """Open the run of one trial for a program that logs through MLflow's fluent interface."""
        params = params_text(config, trial_id, sweep_id)
        run_id = self._create_trial(sweep_id, trial_id, config)
        self._scripts.add(run_id)
        environment = {
            "MLFLOW_TRACKING_URI": absolute_uri(self._uri),
            "MLFLOW_EXPERIMENT_ID": self._experiment_id,
            "MLFLOW_RUN_ID": run_id,
        }
        return MlflowScriptRun(self, run_id, params, environment, loss)

    def write_runs(self, sweep_id: str, records: Sequence[RunRecord]) -> None:
        """Write finished runs, whole, in order: three calls to the store for each."""
        for record in records:
            check_names(record.metrics, "metric")
            params_text(record.config, record.trial_id, sweep_id)
            summary_tags(record.summary)
        for record in records:
            metrics = _record_metrics(record, now_ms())
            params = params_text(record.config, record.trial_id, sweep_id)
            run_id = self._create_trial(sweep_id, record.trial_id, record.config)
            self.end_run(run_id, metrics, params, record.status, record.summary)

    def close(self) -> None:
        """Write what is buffered and end the parent runs that were running. A second call does nothing."""
        for writer in list(self._open.values()):
            writer.flush()
        self._open.clear()
        self._parents.clear()
        if self._running:
            with self._writing():
                for parent in self._running:
                    self._client.set_terminated(parent, "FINISHED")
        self._running.clear()

    def write_batch(
        self,
        run_id: str,
        metrics: Sequence[Any],
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send metrics, then parameters, then tags, in as few calls as MLflow's limits allow; tags land last."""
        entities = require("mlflow.entities", "mlflow")
        param_list = [entities.Param(*item) for item in (params or {}).items()]
        tag_list = [entities.RunTag(*item) for item in (tags or {}).items()]
        with self._writing():
            if (
                len(metrics) + len(param_list) + len(tag_list) <= _BATCH_ENTITIES
                and len(param_list) <= _BATCH_PARAMS
            ):
                self._client.log_batch(run_id, metrics, param_list, tag_list, synchronous=True)
                return
            for start in range(0, len(metrics), _BATCH_ENTITIES):
                self._client.log_batch(run_id, metrics[start : start + _BATCH_ENTITIES], synchronous=True)
            self._client.log_batch(run_id, params=param_list, synchronous=True)
            self._client.log_batch(run_id, tags=tag_list, synchronous=True)

    def end_run(
        self,
        run_id: str,
        metrics: Sequence[Any],
        params: Mapping[str, str],
        status: Status,
        summary: Mapping[str, Scalar],
    ) -> None:
        """Write the last of a run, its status tag after everything else, and end it."""
        self.write_batch(run_id, metrics, params, summary_tags(summary) | {TAG_STATUS: status})
        with self._writing():
            self._client.set_terminated(run_id, mlflow_status(status))
        self._open.pop(run_id, None)
        self._scripts.discard(run_id)

    def read_run(self, run_id: str) -> Any:
        """The run as MLflow's client returns it."""
        with self._writing("read"):
            return self._client.get_run(run_id)

    @cached_property
    def _client(self) -> Any:
        return connect(self._uri)

    @cached_property
    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self._project)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise unknown_experiment(self._project, [], experiment.experiment_id)
        if experiment is not None:
            return str(experiment.experiment_id)
        return str(self._client.create_experiment(self._project))

    @cached_property
    def _guard(self) -> FileGuard:
        experiment_id = self._experiment_id  # makes the file, where there is none yet
        guard = FileGuard(self._uri)
        guard.check_holds(experiment_id)
        return guard

    @contextmanager
    def _writing(self, doing: str = "written") -> Iterator[None]:
        with store_errors(self._uri, doing):
            self._guard.check()
            yield

    def _create_trial(self, sweep_id: str | None, trial_id: str, config: Mapping[str, Scalar]) -> str:
        tags = {TAG_KIND: "trial", TAG_TRIAL_ID: trial_id}
        if sweep_id is not None:
            tags |= {TAG_SWEEP_ID: sweep_id, TAG_PARENT: self._running_parent(sweep_id)}
        with self._writing():
            run = self._client.create_run(self._experiment_id, tags=tags, run_name=run_name(config, trial_id))
        return str(run.info.run_id)

    def _running_parent(self, sweep_id: str) -> str:
        if sweep_id not in self._parents:
            with self._writing("read"):
                found = self._find_parent(sweep_id)
            if found is None:
                raise TrackerError(
                    f"the project {self._project!r} has no sweep {sweep_id!r}.",
                    "Open the sweep before its trials.",
                )
            self._parents[sweep_id] = found.info.run_id
        parent = self._parents[sweep_id]
        if parent not in self._running:
            with self._writing():
                self._client.update_run(parent, status="RUNNING")
            self._running.add(parent)
        return parent

    def _find_parent(self, sweep_id: str) -> Any:
        found = self._search(f"tags.`{TAG_KIND}` = 'sweep' AND tags.`{TAG_SWEEP_ID}` = {quoted(sweep_id)}")
        return next(found, None)

    def _trials(self, sweep_id: str) -> list[Any]:
        which = f"tags.`{TAG_KIND}` = 'trial' AND tags.`{TAG_SWEEP_ID}` = {quoted(sweep_id)}"
        return [run for run in self._search(which) if TAG_TRIAL_ID in run.data.tags]

    def _search(self, query: str) -> Iterator[Any]:
        return search_all_runs(self._client, self._experiment_id, query)


def _done_in_file(path: Path, project: str) -> dict[str, Status]:
    with open_sqlite(path) as store:
        try:
            experiment_id = store.experiment_id(project)
        except UnknownNameError:  # made with the first sweep
            return {}
        return store.done_trials(experiment_id)


def _record_metrics(record: RunRecord, written_ms: int) -> list[Any]:
    metric = require("mlflow.entities", "mlflow").Metric
    return [
        metric(name, float(value), written_ms, int(step))
        for name, series in record.metrics.items()
        for step, value in series
    ]
