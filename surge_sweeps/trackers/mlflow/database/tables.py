"""An experiment's runs by SQL, the same for every database: what each kind of database adds is in its own module.

Nothing here writes, and nothing can: each kind of database opens its connection so that it refuses to.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any

from surge_sweeps.curve_cache import Series
from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.trackers.mlflow.record import NOT_TRIALS, TAG_KIND, TAG_PARENT, TAG_STATUS, TAG_TRIAL_ID
from surge_sweeps.trackers.mlflow.runs import make_run, unknown_experiment
from surge_sweeps.trackers.stored_runs import STUDY_DIRECTION, LatestPoint, StoredRun, as_status

_OURS = "surge.%"
_READ_TAGS = "AND (t.key LIKE ? OR t.key IN (?, ?))"
_ACTIVE = "r.experiment_id = ? AND r.lifecycle_stage = 'active'"


class DatabaseStore(ABC):
    """The runs and points of an MLflow store that is a database; implements `SeriesSource`.

    Args:
        columns: table -> its columns.
    """

    #: By what way points are read, in the words of a report.
    route: str
    #: How a join is written that begins with the table on its left.
    _join = "JOIN"

    def __init__(self, columns: Mapping[str, Set[str]]) -> None:
        self._columns = columns

    @abstractmethod
    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterable[tuple[Any, ...]]:
        """The rows of a query whose places for values are question marks."""

    @abstractmethod
    def _moment(self) -> AbstractContextManager[object]:
        """Inside, all queries see the tables as they are at one moment."""

    @abstractmethod
    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """How many points of the metric each run has; costs a look at each of their index entries."""

    @abstractmethod
    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """Every point of the metric, run after run, of each run in the order of `in_order`."""

    def touched(self, metric: str, since_ms: int) -> set[str]:
        """The runs with a point of the metric stamped at or after `since_ms`, milliseconds since 1970.

        This costs only the points stamped since, so it tells quickly which of many ended runs were written to after
        their end.
        """
        query = "SELECT DISTINCT run_uuid FROM metrics WHERE key = ? AND timestamp >= ?"
        with self._moment():
            return {run for (run,) in self._rows(query, (metric, since_ms))}

    def experiment_id(self, project: str) -> int:
        """The id of the experiment of that name; raises `UnknownNameError`, or `TrackerError` if it is deleted."""
        query = "SELECT name, experiment_id, lifecycle_stage FROM experiments"
        values: list[object] = []
        if "workspace" in self._columns["experiments"]:
            query += " WHERE workspace = ?"
            values.append(os.environ.get("MLFLOW_WORKSPACE") or "default")
        with self._moment():
            found = {name: (number, stage) for name, number, stage in self._rows(query, values)}
        number, stage = found.get(project, (None, None))
        if number is None or stage != "active":
            active = [name for name, (_, stage) in found.items() if stage == "active"]
            raise unknown_experiment(project, active, None if number is None else str(number))
        return int(number)

    def runs(self, experiment_id: int) -> list[StoredRun]:
        """Every active run of the experiment that is no parent and no report, oldest first."""
        with self._moment():
            tags = self._texts("tags", experiment_id, _READ_TAGS, _OURS, TAG_PARENT, STUDY_DIRECTION)
            params = self._texts("params", experiment_id)
            latest = self._latest(experiment_id)
            rows = list(
                self._rows(
                    "SELECT r.run_uuid, r.status, r.start_time, r.end_time FROM runs r "
                    f"WHERE {_ACTIVE} ORDER BY r.start_time, r.run_uuid",
                    (experiment_id,),
                )
            )
        return [
            make_run(run, status, start, end, params[run], tags[run], latest[run])
            for run, status, start, end in rows
            if tags[run].get(TAG_KIND) not in NOT_TRIALS
        ]

    def sweep_tags(self, experiment_id: int) -> list[dict[str, str]]:
        """The tags of every active run that is a sweep's parent, oldest first."""
        query = (
            "SELECT t.run_uuid, t.key, t.value FROM runs r "
            "JOIN tags kind ON kind.run_uuid = r.run_uuid AND kind.key = ? AND kind.value = 'sweep' "
            f"JOIN tags t ON t.run_uuid = r.run_uuid WHERE {_ACTIVE} ORDER BY r.start_time, r.run_uuid"
        )
        found: dict[str, dict[str, str]] = {}
        with self._moment():
            for run, key, value in self._rows(query, (TAG_KIND, experiment_id)):
                found.setdefault(run, {})[key] = value or ""
        return list(found.values())

    def done_trials(self, experiment_id: int) -> dict[str, Status]:
        """Trial id -> status of every active run that ended with a result, the oldest where there are several."""
        query = (
            "SELECT trial.value, status.value FROM runs r "
            "JOIN tags kind ON kind.run_uuid = r.run_uuid AND kind.key = ? AND kind.value = 'trial' "
            "JOIN tags trial ON trial.run_uuid = r.run_uuid AND trial.key = ? "
            "JOIN tags status ON status.run_uuid = r.run_uuid AND status.key = ? "
            f"WHERE {_ACTIVE} ORDER BY r.start_time, r.run_uuid"
        )
        done: dict[str, Status] = {}
        with self._moment():
            for trial, text in self._rows(query, (TAG_KIND, TAG_TRIAL_ID, TAG_STATUS, experiment_id)):
                status = as_status(text)
                if status in RESULT_STATUSES:
                    done.setdefault(trial, status)
        return done

    def result_of(self, experiment_id: int, trial_id: str) -> Status | None:
        """How a trial ended, by the oldest of its active runs that has a result; None where none has."""
        query = (
            "SELECT status.value FROM runs r "
            "JOIN tags trial ON trial.run_uuid = r.run_uuid AND trial.key = ? AND trial.value = ? "
            "JOIN tags kind ON kind.run_uuid = r.run_uuid AND kind.key = ? AND kind.value = 'trial' "
            "JOIN tags status ON status.run_uuid = r.run_uuid AND status.key = ? "
            f"WHERE {_ACTIVE} ORDER BY r.start_time, r.run_uuid"
        )
        with self._moment():
            found = self._rows(query, (TAG_TRIAL_ID, trial_id, TAG_KIND, TAG_STATUS, experiment_id))
            statuses = [as_status(text) for (text,) in found]
        return next((status for status in statuses if status in RESULT_STATUSES), None)

    def _texts(
        self, table: str, experiment_id: int, also: str = "", *values: str
    ) -> Mapping[str, dict[str, str]]:
        query = (
            f"SELECT t.run_uuid, t.key, t.value FROM runs r {self._join} {table} t ON t.run_uuid = r.run_uuid "
            f"WHERE {_ACTIVE} {also}"
        )
        found: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for run, key, value in self._rows(query, (experiment_id, *values)):
            if value is not None:
                found[run][key] = value
        return found

    def _latest(self, experiment_id: int) -> Mapping[str, dict[str, LatestPoint]]:
        query = (
            "SELECT m.run_uuid, m.key, m.step, m.timestamp, m.value, m.is_nan "
            f"FROM runs r {self._join} latest_metrics m ON m.run_uuid = r.run_uuid WHERE {_ACTIVE}"
        )
        found: defaultdict[str, dict[str, LatestPoint]] = defaultdict(dict)
        for run, key, step, timestamp, value, is_nan in self._rows(query, (experiment_id,)):
            found[run][key] = LatestPoint(step, timestamp or 0, float("nan") if is_nan else value)
        return found
