"""The database itself: its index and statistics, how it keeps its journal; with its schema and its disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.trackers.mlflow.doctor.disk import file_system, is_network, network_finding
from surge_sweeps.trackers.mlflow.doctor.finding import Finding
from surge_sweeps.trackers.mlflow.doctor.points import INDEX
from surge_sweeps.trackers.mlflow.doctor.upgrade import schema_finding
from surge_sweeps.trackers.mlflow.doctor.writing import MEND_HINT, open_sqlite, write_statement
from surge_sweeps.trackers.mlflow.schema import schema_age
from surge_sweeps.trackers.mlflow.uri import sqlite_path

#: Below this many points a scan takes no time.
FEW_POINTS = 20_000


def database_findings(connection: Any, uri: str, writers: int) -> list[Finding]:
    """What is wrong with the database.

    Args:
        connection: open to read. uri: the store. writers: how many runs are being written now.
    """
    age = schema_age(connection)
    found = [schema_finding(uri, age)]
    points = count_points(connection)
    # An upgrade makes the index; what is said of the statistics holds before and after.
    if age != "older":
        found.append(_index(connection, uri))
    if points is not None and points >= FEW_POINTS:
        found.append(_statistics(connection, uri, points))
    path = sqlite_path(uri)
    if path is not None:
        system = file_system(path)
        journal = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
        found += [network_finding(system, journal), _journal(path, system, journal, writers)]
    return [finding for finding in found if finding is not None]


def count_points(connection: Any) -> int | None:
    """About how many points the store holds, without counting them; None for a database that cannot say."""
    if connection.dialect.name == "sqlite":
        return int(connection.exec_driver_sql("SELECT max(rowid) FROM metrics").scalar() or 0)
    if connection.dialect.name == "postgresql":
        query = "SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'metrics'::regclass"
        return int(connection.exec_driver_sql(query).scalar() or 0)
    return None


def _index(connection: Any, uri: str) -> Finding | None:
    indexes = require("sqlalchemy", "mlflow").inspect(connection).get_indexes("metrics")
    if any(index["name"] == INDEX for index in indexes):
        return None

    def mend(_progress: ProgressCallback) -> str:
        write_statement(uri, f"CREATE INDEX IF NOT EXISTS {INDEX} ON metrics (run_uuid, key, step)")
        return f"the index {INDEX} is there"

    return Finding(
        "missing-index",
        f"The table of points lacks the index {INDEX}.",
        "MLflow makes it in every new store; without it charts and reports are many times slower.",
        "Make it. That takes about a minute for every 10 million points, and writers wait meanwhile.",
        mend=mend,
    )


def _statistics(connection: Any, uri: str, points: int) -> Finding | None:
    if connection.dialect.name == "sqlite":
        if _sqlite_knows(connection):
            return None
        meaning = (
            "Without them SQLite takes the wrong index: for one run's curve it walks through the points of all runs,"
            " and MLflow's charts are about 12 times slower, more with every run."
        )
        remedy = (
            "Run ANALYZE, about a second for every million points; writers wait meanwhile. Start servers anew"
            " afterwards: they read the statistics when they connect."
        )
        mend = "ANALYZE"
    elif connection.dialect.name == "postgresql":
        query = (
            "SELECT last_analyze IS NULL AND last_autoanalyze IS NULL FROM pg_stat_user_tables"
            " WHERE relid = 'metrics'::regclass"
        )
        if not connection.exec_driver_sql(query).scalar():
            return None
        meaning = (
            "PostgreSQL may choose slow ways to read without them."
            " Its autovacuum should have made them: is it off?"
        )
        remedy, mend = "Run ANALYZE on MLflow's tables, a matter of seconds; nobody waits.", "ANALYZE"
    else:
        return None

    def analyze(_progress: ProgressCallback) -> str:
        write_statement(uri, mend)
        return "the statistics are there"

    return Finding(
        "no-statistics",
        f"The database has no statistics of its {points:,} points (about).",
        meaning,
        remedy,
        mend=analyze,
    )


def _sqlite_knows(connection: Any) -> bool:
    # The table is made by the first ANALYZE.
    query = "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'"
    if connection.exec_driver_sql(query).first() is None:
        return False
    query = "SELECT idx FROM sqlite_stat1 WHERE tbl = 'metrics'"
    known = {row[0] for row in connection.exec_driver_sql(query)}
    indexes = require("sqlalchemy", "mlflow").inspect(connection).get_indexes("metrics")
    return bool(known) and {index["name"] for index in indexes} <= known


def _journal(path: Path, system: str, journal: str, writers: int) -> Finding | None:
    if journal.lower() == "wal" or is_network(system) or writers < 2:
        return None

    def mend(_progress: ProgressCallback) -> str:
        with open_sqlite(path) as connection:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if str(mode).lower() != "wal":
            raise TrackerError("SQLite stayed in its old journal mode.", MEND_HINT)
        return "the store is in WAL mode"

    return Finding(
        "no-wal",
        f"{writers:,} runs are being written at once, and SQLite keeps its journal in {journal!r} mode.",
        "In WAL mode eight writers were 1.6 times as fast, and reading does not make writers wait.",
        "Switch to WAL mode. It stays in the file; then two more files lie beside the store (-wal, -shm) while it is"
        " open, and copying the store takes all three. Only for a local disk.",
        is_fault=False,
        mend=mend,
    )
