"""One way to MLflow's client: opened quietly, never through fluent state, its failures said as `TrackerError`.

A store that cannot work is refused at once, where MLflow alone would try for minutes or, with a SQLite file that was
deleted under it, write on into the void.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow_uri import absolute_uri, display_uri, probe_server, sqlite_path

#: What to do after a store went away; every trial whose status was written is safe.
KEPT_HINT = "The trials done are kept: once the store can be written, call the same command again and it runs the rest."

_OPEN_HINT = "See that the address is right and the store can be reached, then call the same command again."
_FOLDER_HINT = (
    "MLflow gave up folders of files; move it with: mlflow migrate-filestore --source FOLDER --target "
    "sqlite:///mlflow.db, then use sqlite:///mlflow.db."
)
_NOISY_LOGGERS = ("mlflow.store.db.utils", "alembic", "mlflow.store.tracking.sqlalchemy_store")
_NO_LINKS = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
_PAGE = 1000
_LOCK_WAIT_S = 20.0
_MESSAGE_LIMIT = 300


def connect(uri: str) -> Any:
    """An `MlflowClient` for the store, made ready on first use.

    Raises:
        TrackerError: nothing answers there, or it cannot be opened.
        MissingExtraError: mlflow is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = require("mlflow", "mlflow")
    probe_server(uri)
    path = sqlite_path(uri)
    if path is not None:
        _probe_sqlite(path)
    is_folder = urlsplit(uri).scheme in ("", "file")
    with store_errors(uri, "opened", _FOLDER_HINT if is_folder else _OPEN_HINT):
        return mlflow.MlflowClient(absolute_uri(uri))


def search_all_runs(client: Any, experiment_id: str, query: str = "") -> Iterator[Any]:
    """Every active run of an experiment that the filter `query` lets through, oldest first."""
    token: str | None = None
    seen: set[str] = set()
    while True:
        # Pages are counted by offset: oldest first, so that a run begun meanwhile shifts none of them.
        page = client.search_runs(
            [experiment_id],
            query,
            max_results=_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        for run in page:
            if run.info.run_id not in seen:
                seen.add(run.info.run_id)
                yield run
        token = page.token
        if not token:
            return


def quoted(text: str) -> str:
    """A text as MLflow's run filters take it; raises `TrackerError` where they cannot.

    >>> print(quoted("s1"), quoted("it's"))
    's1' "it's"
    """
    # MLflow's filters know no escape, so a text with both kinds of quote cannot be searched for.
    for quote in ("'", '"'):
        if quote not in text:
            return f"{quote}{text}{quote}"
    raise TrackerError(f"the sweep id {text!r} holds both kinds of quotes.", "Choose another id.")


@contextmanager
def store_errors(uri: str, doing: str, hint: str = KEPT_HINT) -> Iterator[None]:
    """Turn whatever MLflow raises inside into a `TrackerError`, and keep its own log quiet meanwhile.

    Args:
        uri: the store. doing: what failed, as a participle ("opened", "written"). hint: the next thing to do.
    """
    with _quiet():
        try:
            yield
        except _failures() as error:
            raise TrackerError(
                f"the MLflow store {display_uri(uri)} could not be {doing}: {_first_line(error).rstrip('.')}.",
                hint,
            ) from error


def _failures() -> tuple[type[Exception], ...]:
    failures: list[type[Exception]] = [OSError, require("mlflow.exceptions", "mlflow").MlflowException]
    # mlflow-skinny, enough for a server, comes without these two.
    for module, name in (("sqlalchemy.exc", "SQLAlchemyError"), ("alembic.util.exc", "CommandError")):
        try:
            failures.append(getattr(__import__(module, fromlist=[name]), name))
        except ModuleNotFoundError:
            continue
    return tuple(failures)


def _first_line(error: BaseException) -> str:
    # The outer errors wrap SQL statements around the cause; SQLAlchemy keeps the driver's own in `orig`.
    while (cause := getattr(error, "orig", None) or error.__cause__) is not None:
        error = cause
    lines = str(error).strip().splitlines()
    return lines[0][:_MESSAGE_LIMIT] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    # A new store logs its migrations, a locked one a traceback, and a server's client prints a link for every run.
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    before = os.environ.get(_NO_LINKS)
    os.environ[_NO_LINKS] = "true"
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if before is None:
            del os.environ[_NO_LINKS]
        else:
            os.environ[_NO_LINKS] = before


def _probe_sqlite(path: Path) -> None:
    # MLflow tries an unusable file for 100 s before it says so.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        raise TrackerError(
            f"the MLflow store {path} cannot be written: {error}.",
            "See that it is an SQLite file you may write and that no other program holds it, then call again.",
        ) from error


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
            with closing(
                sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=_LOCK_WAIT_S)
            ) as connection:
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
