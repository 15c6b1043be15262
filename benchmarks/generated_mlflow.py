"""MLflow stores of any size, made by MLflow and filled by SQL: its client writes some 10,000 points a second.

The points lie as a sweep writes them: every run a batch of 1000 at a time, one metric after the other.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS
from surge_sweeps.trackers.mlflow.client import connect

PROJECT = "bench"
METRICS = (EVAL_LOSS, TRAIN_LOSS)
_BATCH = 1000
_FIRST_MS = 1_700_000_000_000
_STEP_MS = 10

_RUN = (
    "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, "
    "source_version, lifecycle_stage, artifact_uri, experiment_id"
)
_TABLES = {
    "runs": _RUN,
    "params": "key, value, run_uuid",
    "latest_metrics": "key, value, timestamp, run_uuid, step, is_nan",
    "metrics": "key, value, timestamp, run_uuid, step, is_nan",
}


def fill_sqlite(path: Path, runs: int, points: int) -> None:
    """Make a store with one experiment, `PROJECT`, of finished runs with `points` points of each of `METRICS`."""
    experiment = int(connect(f"sqlite:///{path}").create_experiment(PROJECT))
    rng = np.random.default_rng(1)
    names = [uuid.UUID(bytes=rng.bytes(16), version=4).hex for _ in range(runs)]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        _insert(connection, "runs", _runs(names, experiment, points))
        _insert(connection, "params", _params(names))
        _insert(connection, "metrics", _points(names, points))
        _insert(connection, "latest_metrics", _latest(names, points))
        connection.execute("COMMIT")


def copy_to_postgres(path: Path, uri: str) -> None:
    """Copy what `fill_sqlite` made into an empty MLflow store in PostgreSQL."""
    import psycopg

    with closing(sqlite3.connect(path)) as source, psycopg.connect(uri.replace("+psycopg", "")) as target:
        number, where = source.execute(
            "SELECT experiment_id, artifact_location FROM experiments WHERE name = ?", (PROJECT,)
        ).fetchone()
        target.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
            "VALUES (%s, %s, %s, 'active', 'default')",
            (number, PROJECT, where),
        )
        for table, columns in _TABLES.items():
            has_flag = columns.endswith("is_nan")
            rows = source.execute(f"SELECT {columns} FROM {table}")
            with target.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row((*row[:-1], bool(row[-1])) if has_flag else row)


def _insert(connection: sqlite3.Connection, table: str, rows: Iterator[tuple[object, ...]]) -> None:
    columns = _TABLES[table]
    places = ", ".join("?" * (columns.count(",") + 1))
    connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)


def _runs(names: list[str], experiment: int, points: int) -> Iterator[tuple[object, ...]]:
    end = _FIRST_MS + points * _STEP_MS
    for index, run in enumerate(names):
        began = _FIRST_MS + index
        yield (run, run, "LOCAL", "", "", "", "FINISHED", began, end, "", "active", f"/{run}", experiment)


def _params(names: list[str]) -> Iterator[tuple[object, ...]]:
    for index, run in enumerate(names):
        config = {
            "lr": 1e-4 * 2 ** (index % 10),
            "batch_size": 32 * 2 ** (index // 10 % 10),
            "seed": index // 100,
        }
        yield from ((name, str(value), run) for name, value in config.items())


def _points(names: list[str], points: int) -> Iterator[tuple[object, ...]]:
    rng = np.random.default_rng(0)
    for start in range(0, points, _BATCH):
        steps = range(start, min(start + _BATCH, points))
        for index, run in enumerate(names):
            for key in METRICS:
                times = range(_FIRST_MS + start * _STEP_MS + index, 2**62, _STEP_MS)
                values = (2.0 + rng.random(len(steps))).tolist()
                for step, time_ms, value in zip(steps, times, values, strict=False):
                    yield key, value, time_ms, run, step, 0


def _latest(names: list[str], points: int) -> Iterator[tuple[object, ...]]:
    step = points - 1
    for index, run in enumerate(names):
        for key in METRICS:
            yield key, 2.5, _FIRST_MS + step * _STEP_MS + index, run, step, 0
