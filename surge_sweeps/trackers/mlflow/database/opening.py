"""Which stores can be read straight from their database, and opening one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.database.sqlite import SqliteStore, open_sqlite
from surge_sweeps.trackers.mlflow.uri import display_uri, sqlite_path


def is_database(uri: str) -> bool:
    """Whether a store is a database that is read directly, without its client.

    >>> is_database("sqlite:///mlflow.db"), is_database("http://localhost:5000")
    (True, False)
    """
    return sqlite_path(uri) is not None


@contextmanager
def open_database(uri: str) -> Iterator[SqliteStore]:
    """Open a store for reading; nothing is written to it.

    Raises:
        TrackerError: it is of another kind (see `is_database`), not there, or no MLflow store.
    """
    path = sqlite_path(uri)
    if path is None:
        raise TrackerError(f"{display_uri(uri)!r} is no database that is read directly.")
    with open_sqlite(path) as store:
        yield store
