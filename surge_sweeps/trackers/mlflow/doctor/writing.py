"""How the doctor writes to a database when it mends: one statement at a time, outside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.client import address_errors, store_errors
from surge_sweeps.trackers.mlflow.uri import sqlite_path

MEND_HINT = (
    "See that no other program holds the store and that it can be written, then call the same command again."
)
_LOCK_WAIT_S = 30.0


def write_statement(uri: str, statement: str) -> None:
    """One statement on the store, outside a transaction."""
    path = sqlite_path(uri)
    if path is not None:
        with open_sqlite(path) as connection:
            connection.execute("PRAGMA analysis_limit=0")
            connection.execute(statement)
        return
    sqlalchemy = require("sqlalchemy", "mlflow")
    with store_errors(uri, "mended", MEND_HINT):
        with address_errors(uri):
            engine = sqlalchemy.create_engine(uri, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        finally:
            engine.dispose()


@contextmanager
def open_sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """A SQLite file, to write to; waits half a minute for other writers, and never makes the file."""
    try:
        address = f"{path.as_uri()}?mode=rw"
        with closing(
            sqlite3.connect(address, uri=True, timeout=_LOCK_WAIT_S, isolation_level=None)
        ) as opened:
            yield opened
    except sqlite3.Error as error:
        raise TrackerError(f"the store {path} could not be mended: {error}.", MEND_HINT) from error
