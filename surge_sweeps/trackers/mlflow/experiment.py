"""One MLflow experiment, open for writing: each call either done, or repeated while the store is away.

Every call here is safe to repeat. Points, parameters and tags that the store has already are not doubled; a run is made
with a mark of its own, by which it is found again where the answer was lost.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.extras import require
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow.client import connect, search_all_runs, store_errors
from surge_sweeps.trackers.mlflow.file import FileGuard, is_missing
from surge_sweeps.trackers.mlflow.patience import keep_trying, wait_it_out
from surge_sweeps.trackers.mlflow.record import TAG_CREATED, TAG_STATUS, axis_metrics, mlflow_status
from surge_sweeps.trackers.mlflow.runs import unknown_experiment
from surge_sweeps.trackers.mlflow.uri import sqlite_path

_BATCH_ENTITIES = 1000  # metrics, parameters and tags together, in one call
_BATCH_PARAMS = 100
_T = TypeVar("_T")


class OpenExperiment:
    """An experiment in a store; both are made with the first call.

    Args:
        uri: the store. project: the experiment's name.

    Every method raises `TrackerError` with the next step when the store stays away or refuses.
    """

    def __init__(self, uri: str, project: str) -> None:
        self.uri = uri
        self.project = project
        #: Whether a store that is away is not to be waited for any longer.
        self.is_given_up: Callable[[], bool] = wait_it_out

    @property
    def is_server(self) -> bool:
        """Whether the store is behind a server, rather than a database that is written directly."""
        return urlsplit(self.uri).scheme in ("http", "https")

    def check_file(self) -> None:
        """Raises `TrackerError` where the store is a file that was opened and is gone or another."""
        if "_guard" in self.__dict__:
            self._guard.check()

    def is_missing(self) -> bool:
        """Whether the store has no such experiment yet; makes neither."""
        path = sqlite_path(self.uri)
        if "_experiment_id" in self.__dict__:
            return False
        if path is not None and is_missing(path):
            return True

        def attempt() -> bool:
            with store_errors(self.uri, "read"):
                return self._client.get_experiment_by_name(self.project) is None

        # A database that is away from the start is an error at once, see `_call`; a locked file is waited for.
        patience_s = None if self.is_server or path is not None else 0.0
        return keep_trying(self.uri, attempt, patience_s, self.is_given_up)

    @cached_property
    def experiment_id(self) -> str:
        """The experiment's id."""
        return self._call(lambda: self._experiment_id)

    def create_run(self, tags: Mapping[str, str], name: str, start_ms: int | None = None) -> Any:
        """Make a run and return it as MLflow's client does; one run, even where the store's answer is lost."""
        mark = uuid.uuid4().hex
        attempts = 0

        def create() -> Any:
            nonlocal attempts
            attempts += 1
            if attempts > 1:
                found = next(self._search(f"tags.`{TAG_CREATED}` = '{mark}'"), None)
                if found is not None:
                    return found
            return self._client.create_run(
                self._experiment_id, start_time=start_ms, tags={**tags, TAG_CREATED: mark}, run_name=name
            )

        return self._call(create)

    def write_batch(
        self,
        run_id: str,
        metrics: Sequence[Any],
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        patience_s: float | None = None,
    ) -> None:
        """Send metrics, then parameters, then tags, in as few calls as MLflow's limits allow; tags land last."""
        entities = require("mlflow.entities", "mlflow")
        param_list = [entities.Param(*item) for item in (params or {}).items()]
        tag_list = [entities.RunTag(*item) for item in (tags or {}).items()]

        def send(metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()) -> None:
            self._call(
                lambda: self._client.log_batch(run_id, metrics, params, tags, synchronous=True),
                patience_s=patience_s,
            )

        fits = len(metrics) + len(param_list) + len(tag_list) <= _BATCH_ENTITIES
        if fits and len(param_list) <= _BATCH_PARAMS:
            send(metrics, param_list, tag_list)
            return
        for start in range(0, len(metrics), _BATCH_ENTITIES):
            send(metrics[start : start + _BATCH_ENTITIES])
        if param_list:
            send(params=param_list)
        if tag_list:
            send(tags=tag_list)

    def end_run(self, run_id: str, ending: str, *, patience_s: float | None = None) -> None:
        """Give a run its end in MLflow's words: FINISHED, FAILED or KILLED."""
        ended_ms = now_ms()
        self._call(lambda: self._client.set_terminated(run_id, ending, ended_ms), patience_s=patience_s)

    def end_trial(
        self,
        run_id: str,
        metrics: Sequence[Any],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        status: Status,
        *,
        patience_s: float | None = None,
    ) -> None:
        """Write the last of a trial's run, its status tag after everything else, and end it."""
        self.write_batch(run_id, metrics, params, {**tags, TAG_STATUS: status}, patience_s=patience_s)
        self.end_run(run_id, mlflow_status(status), patience_s=patience_s)

    def set_running(self, run_id: str) -> None:
        """Mark a run as going on."""
        self._call(lambda: self._client.update_run(run_id, status="RUNNING"))

    def remove_tags(self, run_id: str, tags: Sequence[str]) -> None:
        """Take tags off a run, where it has them."""

        def remove() -> None:
            there = self._client.get_run(run_id).data.tags
            for tag in tags:
                if tag not in there:
                    continue
                try:
                    self._client.delete_tag(run_id, tag)
                except require("mlflow.exceptions", "mlflow").MlflowException as error:
                    # Another process was faster.
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise

        self._call(remove)

    def read_run(self, run_id: str) -> Any:
        """The run as MLflow's client returns it."""
        return self._call(lambda: self._client.get_run(run_id), "read")

    def search(self, query: str) -> list[Any]:
        """The experiment's active runs that the filter lets through, oldest first."""
        return self._call(lambda: list(self._search(query)), "read")

    def log_artifact(self, run_id: str, path: str, folder: str) -> None:
        """Store a file among a run's artifacts; a single attempt."""
        self._call(lambda: self._client.log_artifact(run_id, path, folder), patience_s=0.0)

    def _search(self, query: str) -> Iterator[Any]:
        return search_all_runs(self._client, [self._experiment_id], query)

    def _call(self, work: Callable[[], _T], doing: str = "written", *, patience_s: float | None = None) -> _T:
        def attempt() -> _T:
            with store_errors(self.uri, doing):
                self._guard.check()
                return work()

        if not self.is_server:
            # A database that is away from the start is an error at once, as a server is that nothing listens for.
            with store_errors(self.uri, doing):
                self._guard.check()
        return keep_trying(self.uri, attempt, patience_s, self.is_given_up)

    @cached_property
    def _client(self) -> Any:
        return connect(self.uri)

    @cached_property
    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.project)
        if found is None:
            found = self._create_experiment()
        if found.lifecycle_stage == "deleted":
            raise unknown_experiment(self.project, [], found.experiment_id)
        return str(found.experiment_id)

    def _create_experiment(self) -> Any:
        try:
            self._client.create_experiment(self.project)
        except require("mlflow.exceptions", "mlflow").MlflowException as error:
            # Another process was faster, or an answer was lost.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self._client.get_experiment_by_name(self.project)

    @cached_property
    def _guard(self) -> FileGuard:
        experiment_id = self._experiment_id  # makes the file, where there is none yet
        guard = FileGuard(self.uri)
        guard.check_holds(experiment_id)
        return guard


def make_points(step: int, values: Mapping[str, float], logged_ms: int) -> list[Any]:
    """Values logged at one step, as MLflow takes them; the time in ms since 1970."""
    metric = require("mlflow.entities", "mlflow").Metric
    return [metric(name, float(value), logged_ms, int(step)) for name, value in values.items()]


def record_points(record: RunRecord, written_ms: int) -> list[Any]:
    """The points of a whole run as MLflow takes them, its axes included; the time in ms since 1970."""
    metric = require("mlflow.entities", "mlflow").Metric
    points = [
        metric(name, float(value), written_ms, int(step))
        for name, series in record.metrics.items()
        for step, value in series
    ]
    axes = axis_metrics(record.config) if record.status in RESULT_STATUSES else {}
    return points + make_points(0, axes, written_ms)


def now_ms() -> int:
    """Now, in ms since 1970, as MLflow stamps points."""
    return time.time_ns() // 1_000_000
