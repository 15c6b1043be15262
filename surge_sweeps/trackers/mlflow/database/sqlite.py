"""Reading a local MLflow store straight from its SQLite file, read-only, with the standard library alone.

Each run's points are one query by a named index: SQLite by itself takes another one and scans every point of the
metric for every run. This is also up to 1.8 times as fast as one scan over all runs, and it holds the file's lock only
for moments, so that a sweep that is writing is not kept waiting.
"""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from surge_sweeps.curve_cache import Series, join_series
from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.file import cut_off_error
from surge_sweeps.trackers.mlflow.record import NOT_TRIALS, TAG_KIND, TAG_STATUS, TAG_TRIAL_ID
from surge_sweeps.trackers.mlflow.runs import (
    READ_TAGS,
    make_run,
    refuse_axis,
    restore_infinities,
    unknown_experiment,
)
from surge_sweeps.trackers.stored_runs import LatestPoint, StoredRun, as_status

# The better one first; a store made by an older MLflow has only the second.
_INDEXES = ("index_metrics_run_uuid_key_step", "index_metrics_run_uuid")
_POINT = np.dtype([("step", "f8"), ("value", "f8"), ("timestamp", "i8"), ("is_nan", "?")])
_LOCK_WAIT_S = 60.0


@contextmanager
def open_sqlite(path: Path) -> Iterator[SqliteStore]:
    """Open the store for reading.

    Raises:
        TrackerError: there is no such file, or it is no MLflow store, or it is locked for longer than a minute.
    """
    if not path.is_file():
        raise TrackerError(
            f"there is no MLflow store at {path}.",
            "Launch a sweep first, or say where the store is (MLFLOW_TRACKING_URI, such as sqlite:////folder/mlflow.db).",
        )
    try:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, timeout=_LOCK_WAIT_S, isolation_level=None
        )
        with closing(connection):
            yield SqliteStore(connection)
    except sqlite3.Error as error:
        raise cut_off_error(path, str(error)) or TrackerError(
            f"the MLflow store {path} cannot be read: {error}.",
            "See that it is an MLflow database and that no other program holds it, then call again.",
        ) from error


class SqliteStore:
    """The runs and points of an open store."""

    route = "the SQLite file, read-only"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        indexes = {row[1] for row in connection.execute("PRAGMA index_list(metrics)")}
        self._hint = next((f"INDEXED BY {name}" for name in _INDEXES if name in indexes), "")

    def experiment_id(self, project: str) -> int:
        """The id of the experiment of that name; raises `UnknownNameError`, or `TrackerError` if it is deleted."""
        columns = {row[1] for row in self._connection.execute("PRAGMA table_info(experiments)")}
        workspace = os.environ.get("MLFLOW_WORKSPACE") or "default"
        where, values = ("WHERE workspace = ?", [workspace]) if "workspace" in columns else ("", [])
        query = f"SELECT name, experiment_id, lifecycle_stage FROM experiments {where}"
        found = {name: (number, stage) for name, number, stage in self._connection.execute(query, values)}
        number, stage = found.get(project, (None, None))
        if number is None or stage != "active":
            active = [name for name, (_, stage) in found.items() if stage == "active"]
            raise unknown_experiment(project, active, None if number is None else str(number))
        return int(number)

    def runs(self, experiment_id: int) -> list[StoredRun]:
        """Every active run of the experiment that is no parent and no report, oldest first."""
        # One moment's view of all tables; it takes milliseconds.
        self._connection.execute("BEGIN")
        try:
            tags = self._texts("tags", experiment_id, READ_TAGS)
            params = self._texts("params", experiment_id)
            latest = self._latest(experiment_id)
            rows = self._connection.execute(
                "SELECT run_uuid, status, start_time, end_time FROM runs "
                "WHERE experiment_id = ? AND lifecycle_stage = 'active' ORDER BY start_time, run_uuid",
                (experiment_id,),
            ).fetchall()
        finally:
            self._connection.execute("COMMIT")
        return [
            make_run(run, status, start, end, params[run], tags[run], latest[run])
            for run, status, start, end in rows
            if tags[run].get(TAG_KIND) not in NOT_TRIALS
        ]

    def done_trials(self, experiment_id: int) -> dict[str, Status]:
        """Trial id -> status of every active run that ended with a result, the oldest where there are several."""
        query = (
            "SELECT trial.value, status.value FROM runs r "
            "JOIN tags kind ON kind.run_uuid = r.run_uuid AND kind.key = ? AND kind.value = 'trial' "
            "JOIN tags trial ON trial.run_uuid = r.run_uuid AND trial.key = ? "
            "JOIN tags status ON status.run_uuid = r.run_uuid AND status.key = ? "
            "WHERE r.experiment_id = ? AND r.lifecycle_stage = 'active' ORDER BY r.start_time, r.run_uuid"
        )
        done: dict[str, Status] = {}
        for trial, text in self._connection.execute(
            query, (TAG_KIND, TAG_TRIAL_ID, TAG_STATUS, experiment_id)
        ):
            status = as_status(text)
            if status in RESULT_STATUSES:
                done.setdefault(trial, status)
        return done

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """How many points of the metric each run has."""
        query = f"SELECT count(*) FROM metrics {self._hint} WHERE run_uuid = ? AND key = ?"
        return [int(self._connection.execute(query, (run, metric)).fetchone()[0]) for run in runs]

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """Every point of the metric, run after run."""
        refuse_axis(axis)
        query = (
            f"SELECT step, value, timestamp, is_nan FROM metrics {self._hint} WHERE run_uuid = ? AND key = ?"
        )
        parts = []
        for run in runs:
            points = np.fromiter(self._connection.execute(query, (run, metric)), dtype=_POINT)
            value = restore_infinities(points["value"])
            value[points["is_nan"]] = np.nan
            rows = np.array([len(points)], dtype=np.int64)
            parts.append(Series((run,), rows, points["step"], value, points["timestamp"]))
        return join_series(parts)

    def _texts(self, table: str, experiment_id: int, also: str = "") -> Mapping[str, dict[str, str]]:
        query = (
            f"SELECT t.run_uuid, t.key, t.value FROM runs r CROSS JOIN {table} t ON t.run_uuid = r.run_uuid "
            f"WHERE r.experiment_id = ? AND r.lifecycle_stage = 'active' {also}"
        )
        found: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for run, key, value in self._connection.execute(query, (experiment_id,)):
            if value is not None:
                found[run][key] = value
        return found

    def _latest(self, experiment_id: int) -> Mapping[str, dict[str, LatestPoint]]:
        query = (
            "SELECT m.run_uuid, m.key, m.step, m.timestamp, m.value, m.is_nan "
            "FROM runs r CROSS JOIN latest_metrics m ON m.run_uuid = r.run_uuid "
            "WHERE r.experiment_id = ? AND r.lifecycle_stage = 'active'"
        )
        found: defaultdict[str, dict[str, LatestPoint]] = defaultdict(dict)
        for run, key, step, timestamp, value, is_nan in self._connection.execute(query, (experiment_id,)):
            found[run][key] = LatestPoint(step, timestamp or 0, float("nan") if is_nan else value)
        return found
