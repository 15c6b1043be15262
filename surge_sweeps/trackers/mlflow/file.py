"""The SQLite file of a local MLflow store: made whole or not at all, probed before MLflow opens it, watched after.

MLflow makes a new store by some forty migrations that are not one transaction, and a file cut off among them can
never be opened again. So a new store is made under a temporary name in the same folder and then moved into place.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.processes import is_alive
from surge_sweeps.trackers.mlflow.uri import sqlite_path

#: What to do after a store went away; every trial whose status was written is safe.
KEPT_HINT = "The trials done are kept: once the store can be written, call the same command again and it runs the rest."

_LOCK_WAIT_S = 60.0
_MAKING = threading.Lock()
_ATTEMPTS = itertools.count()
#: Tables in which MLflow itself leaves rows when it makes a store.
_OWN_ROWS = {"alembic_version": None, "experiments": "experiment_id <> 0", "workspaces": "name <> 'default'"}


def prepare_file(path: Path) -> None:
    """Make the store's file where there is none or an empty one, and see that it can be written.

    Raises:
        TrackerError: it cannot be made or written. Whatever MLflow raises while it makes the schema.
    """
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    if is_missing(target):
        with _MAKING:
            _make_store(target)
    _probe(target, path)


def is_missing(path: Path) -> bool:
    """Whether there is no file, or one of no bytes, which SQLite takes for a new database."""
    try:
        return path.stat().st_size == 0
    except FileNotFoundError:
        return True
    except OSError:
        return False


def cut_off_error(path: Path, cause: str) -> TrackerError | None:
    """The error for a store that cannot be opened and holds nothing; None where it does, or where that is not sure."""
    try:
        with _read_only(path) as connection:
            holds_nothing = _holds_nothing(connection)
    except sqlite3.Error:
        return None
    if not holds_nothing:
        return None
    return TrackerError(
        f"the MLflow store {path} cannot be opened ({cause}) and holds no runs: its creation was probably cut off.",
        "Delete that file, which loses nothing since it holds no runs, then call the same command again.",
    )


class FileGuard:
    """Notices that a SQLite store's file was deleted or replaced; SQLite itself would write on into the void."""

    def __init__(self, uri: str) -> None:
        self._path = sqlite_path(uri)
        self._identity = self._look()

    def check(self) -> None:
        """Raises `TrackerError` when the file is no longer the one that was opened."""
        if self._path is not None and (self._identity is None or self._look() != self._identity):
            raise TrackerError(
                f"the MLflow store {self._path} was deleted or replaced while it was being written.",
                "Put it back, or call the same command again: it runs every trial that is not in the store.",
            )

    def check_holds(self, experiment_id: str) -> None:
        """Raises `TrackerError` when MLflow writes to a file other than the one at the path.

        MLflow keeps its connections for the life of a process, so after a deletion it may hold the old file.
        """
        if self._path is None:
            return
        self.check()
        try:
            with _read_only(self._path) as connection:
                query = "SELECT 1 FROM experiments WHERE experiment_id = ?"
                found = connection.execute(query, (experiment_id,)).fetchone()
        except sqlite3.Error as error:
            raise TrackerError(
                f"the MLflow store {self._path} cannot be read: {error}.", KEPT_HINT
            ) from error
        if found is None:
            raise TrackerError(
                f"the MLflow store {self._path} was replaced and MLflow still holds the old file.",
                "Call the same command again in a new Python process (in a notebook: restart the kernel).",
            )

    def _look(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _make_store(path: Path) -> None:
    prefix = f".{path.name}.{re.sub('[^A-Za-z0-9-]', '_', socket.gethostname())}-"
    _remove_leftovers(path.parent, prefix)
    # Numbered, since after a stop MLflow's engine for a name still holds the file that was removed.
    temporary = path.with_name(f"{prefix}{os.getpid()}-{next(_ATTEMPTS)}.tmp")
    _remove(temporary)
    try:
        _probe(temporary, path)
        tracking = require("mlflow.store.tracking", "mlflow")
        stores = require("mlflow.store.tracking.sqlalchemy_store", "mlflow")
        # The place of artifacts is MLflow's own default and has nothing to do with the file's name.
        store = stores.SqlAlchemyStore(
            f"sqlite:///{temporary}", tracking.DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
        )
        # MLflow keeps the engine for good; with its connections closed nothing holds the file.
        store.engine.dispose()
        try:
            _move_into_place(temporary, path)
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(path, error) from error
    finally:
        _remove(temporary)


def _move_into_place(temporary: Path, path: Path) -> None:
    """Give the new store its name, unless another process has made one meanwhile: then that one stays."""
    if path.exists():
        if is_missing(path):
            _replace_empty(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:
        # A file system without hard links.
        if not path.exists():
            temporary.rename(path)


def _replace_empty(temporary: Path, path: Path) -> None:
    # Under the lock of the empty file, so that of two processes only one replaces it.
    with closing(sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        if is_missing(path):
            temporary.replace(path)


def _remove_leftovers(folder: Path, prefix: str) -> None:
    # The host is part of the name, since process ids say nothing about another machine's processes.
    for found in folder.iterdir():
        match = re.fullmatch(re.escape(prefix) + r"(\d{1,10})-\d+\.tmp(-journal)?", found.name)
        if match and not is_alive(int(match[1])):
            found.unlink(missing_ok=True)


def _remove(temporary: Path) -> None:
    for name in (temporary.name, f"{temporary.name}-journal"):
        temporary.with_name(name).unlink(missing_ok=True)


def _probe(file: Path, shown: Path) -> None:
    # MLflow tries an unusable file for 100 s before it says so.
    try:
        with closing(sqlite3.connect(file, timeout=_LOCK_WAIT_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        raise _unwritable(shown, error) from error


def _unwritable(path: Path, error: Exception) -> TrackerError:
    return TrackerError(
        f"the MLflow store {path} cannot be written: {error}.",
        "See that it is an SQLite file you may write and that no other program holds it, then call again.",
    )


def _holds_nothing(connection: sqlite3.Connection) -> bool:
    """Whether the file is an MLflow store in whose tables nobody has written anything."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    tables = {row[0] for row in connection.execute(query)}
    if not tables & {"experiments", "alembic_version"}:
        return False
    for table in tables:
        name = table.replace('"', '""')
        where = _OWN_ROWS.get(table, "1")
        if where and connection.execute(f'SELECT 1 FROM "{name}" WHERE {where} LIMIT 1').fetchone():
            return False
    return True


@contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_LOCK_WAIT_S)) as connection:
        yield connection
