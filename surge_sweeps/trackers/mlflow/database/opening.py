"""Which stores can be read straight from their database, and opening one."""

from __future__ import annotations

from contextlib import AbstractContextManager

from surge_sweeps.trackers.mlflow.database.postgres import open_postgres
from surge_sweeps.trackers.mlflow.database.postgres_uri import is_postgres
from surge_sweeps.trackers.mlflow.database.sqlite import open_sqlite
from surge_sweeps.trackers.mlflow.database.tables import DatabaseStore
from surge_sweeps.trackers.mlflow.uri import sqlite_path


def is_database(uri: str) -> bool:
    """Whether a store is a database that is read directly, without MLflow's client.

    >>> [is_database(uri) for uri in ("sqlite:///mlflow.db", "postgresql://host/mlflow", "http://localhost:5000")]
    [True, True, False]
    """
    return sqlite_path(uri) is not None or is_postgres(uri)


def open_database(uri: str) -> AbstractContextManager[DatabaseStore]:
    """Open a store for reading; nothing is written to it.

    Args:
        uri: one for which `is_database` holds.

    Raises:
        TrackerError: it is not there, or cannot be read, or is no MLflow store; some of it only on entering.
        MissingExtraError: it is in PostgreSQL and psycopg is not installed.
    """
    path = sqlite_path(uri)
    return open_postgres(uri) if path is None else open_sqlite(path)
