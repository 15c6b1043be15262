"""The database itself: its schema, its statistics, how it keeps its journal, and the disk that it lies on."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.trackers.mlflow.client import address_errors, store_errors
from surge_sweeps.trackers.mlflow.doctor.finding import Finding
from surge_sweeps.trackers.mlflow.doctor.points import INDEX
from surge_sweeps.trackers.mlflow.schema import SchemaAge, schema_age
from surge_sweeps.trackers.mlflow.uri import absolute_uri, display_uri, sqlite_path

#: Below this many points a scan takes no time.
FEW_POINTS = 20_000
_LOCK_WAIT_S = 30.0
#: The backup, and as much again for tables that a migration makes anew, and a little.
_ROOM = 2.2
_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|lustre|gpfs|beegfs|ceph|afs|9p|fuse\.(sshfs|ceph|glusterfs|beegfs)"
)
_HINT = (
    "See that no other program holds the store and that it can be written, then call the same command again."
)


def database_findings(connection: Any, uri: str, writers: int) -> list[Finding]:
    """What is wrong with the database.

    Args:
        connection: open to read. uri: the store. writers: how many runs are being written now.
    """
    age = schema_age(connection)
    found = [_schema(uri, age)]
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
        found += [_network(path, system, journal), _journal(path, system, journal, writers)]
    return [finding for finding in found if finding is not None]


def count_points(connection: Any) -> int | None:
    """About how many points the store holds, without counting them; None for a database that cannot say."""
    if connection.dialect.name == "sqlite":
        return int(connection.exec_driver_sql("SELECT max(rowid) FROM metrics").scalar() or 0)
    if connection.dialect.name == "postgresql":
        query = "SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'metrics'::regclass"
        return int(connection.exec_driver_sql(query).scalar() or 0)
    return None


def file_system(path: Path, mounts: str | None = None) -> str:
    """The kind of file system that a file lies on, such as `ext4`; empty where this is not known.

    Args:
        path: the file. mounts: what /proc/self/mountinfo says, which Linux alone has.

    >>> file_system(Path("/data/mlflow.db"), "1 0 0:1 / / rw - ext4 /dev/a rw\\n2 1 0:2 / /data rw - nfs4 server:/x rw")
    'nfs4'
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(errors="replace")
        except OSError:
            return ""
        path = path.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split()
        if len(fields) < 5 or not tail.split():
            continue
        # Spaces in a mount point are written as \040.
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        # A later mount on the same place covers an earlier one.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), tail.split()[0]
    return kind


def is_network(system: str) -> bool:
    """Whether several machines share a file system of this kind.

    >>> is_network("nfs4"), is_network("ext4"), is_network("fuse.sshfs")
    (True, False, True)
    """
    return _NETWORK.fullmatch(system) is not None


def _schema(uri: str, age: SchemaAge) -> Finding | None:
    shown = display_uri(uri)
    if age == "newer":
        return Finding(
            "newer-schema",
            "The store was made by a newer MLflow than the one installed.",
            "The MLflow installed refuses to open it.",
            "Install that one: pip install --upgrade mlflow.",
        )
    if age != "older":
        return None
    path = sqlite_path(uri)
    backup = (
        f"Copy the file to {path.name}.backup-DATE beside it, then do"
        if path is not None
        else "Make a backup first, with pg_dump or your database's own tool. This does"
    )
    return Finding(
        "older-schema",
        "The store was made by an older MLflow than the one installed.",
        "The MLflow installed refuses to open it, for writing and for its UI.",
        f"{backup} what `mlflow db upgrade {shown}` does. Stop servers and launches first. Programs with an older"
        " MLflow cannot open the store afterwards.",
        mend=lambda _progress: _upgrade(uri),
    )


def _index(connection: Any, uri: str) -> Finding | None:
    indexes = require("sqlalchemy", "mlflow").inspect(connection).get_indexes("metrics")
    if any(index["name"] == INDEX for index in indexes):
        return None

    def mend(_progress: ProgressCallback) -> str:
        _write(uri, f"CREATE INDEX IF NOT EXISTS {INDEX} ON metrics (run_uuid, key, step)")
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
        _write(uri, mend)
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


def _network(path: Path, system: str, journal: str) -> Finding | None:
    if not is_network(system):
        return None
    wal = journal.lower() == "wal"
    return Finding(
        "network-disk",
        f"The SQLite file lies on a network file system ({system})"
        + (" and is in WAL mode, which does not work there." if wal else "."),
        "SQLite's locks do not hold there between machines: two that write at once can damage the file.",
        "Write from one machine alone; for several start a server (`surge-sweep ui --host`) on one of them, or use"
        f" PostgreSQL.{' Leave WAL mode: sqlite3 FILE PRAGMA journal_mode=DELETE.' if wal else ''}",
        is_fault=True,
    )


def _journal(path: Path, system: str, journal: str, writers: int) -> Finding | None:
    if journal.lower() == "wal" or is_network(system) or writers < 2:
        return None

    def mend(_progress: ProgressCallback) -> str:
        with _sqlite(path) as connection:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if str(mode).lower() != "wal":
            raise TrackerError("SQLite stayed in its old journal mode.", _HINT)
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


def _write(uri: str, statement: str) -> None:
    """One statement on the store, outside a transaction."""
    path = sqlite_path(uri)
    if path is not None:
        with _sqlite(path) as connection:
            connection.execute("PRAGMA analysis_limit=0")
            connection.execute(statement)
        return
    sqlalchemy = require("sqlalchemy", "mlflow")
    with store_errors(uri, "mended", _HINT):
        with address_errors(uri):
            engine = sqlalchemy.create_engine(uri, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        finally:
            engine.dispose()


@contextmanager
def _sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        address = f"{path.as_uri()}?mode=rw"  # never make the file
        with closing(
            sqlite3.connect(address, uri=True, timeout=_LOCK_WAIT_S, isolation_level=None)
        ) as opened:
            yield opened
    except sqlite3.Error as error:
        raise TrackerError(f"the store {path} could not be mended: {error}.", _HINT) from error


def _upgrade(uri: str) -> str:
    path = sqlite_path(uri)
    backup = None if path is None else _back_up(path)
    kept = "" if backup is None else f" The store as it was is {backup}: copy it back over {path}."
    utils = require("mlflow.store.db.utils", "mlflow")
    with store_errors(uri, "upgraded", f"{_HINT}{kept}"):
        engine = utils.create_sqlalchemy_engine_with_retry(absolute_uri(uri))
        try:
            utils._upgrade_db(engine)
        finally:
            engine.dispose()
    return "the store is upgraded" + ("" if backup is None else f"; the old one is kept as {backup.name}")


def _back_up(path: Path) -> Path:
    """Copy the store, whole, while others may read it; raises `TrackerError` where there is no room for it."""
    size = path.stat().st_size
    free = shutil.disk_usage(path.parent).free
    if free < _ROOM * size:
        raise TrackerError(
            f"the disk of {path} has {free / 1e9:.1f} GB free, and a backup with the upgrade takes"
            f" {_ROOM * size / 1e9:.1f} GB.",
            "Make room, or copy the store to another disk and upgrade it there: mlflow db upgrade URI.",
        )
    backup = path.with_name(f"{path.name}.backup-{time.strftime('%Y%m%d-%H%M%S')}")
    temporary = backup.with_name(f".{backup.name}.tmp")
    try:
        with _sqlite(path) as source, closing(sqlite3.connect(temporary)) as target:
            source.backup(target)
        # As private as the store itself.
        shutil.copymode(path, temporary)
        temporary.replace(backup)
    except OSError as error:
        raise TrackerError(f"the backup {backup} cannot be written: {error.strerror}.", _HINT) from error
    finally:
        temporary.unlink(missing_ok=True)
    return backup
