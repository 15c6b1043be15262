"""One way to MLflow's client: opened quietly, never through fluent state, its failures said as `TrackerError`.

A store that cannot work is refused at once, where MLflow alone would try for minutes or, with a SQLite file that was
deleted under it, write on into the void.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from surge_sweeps.errors import MissingExtraError, TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow import paging
from surge_sweeps.trackers.mlflow.access import access_error, without_tls
from surge_sweeps.trackers.mlflow.asked_again import say_when_asked_again
from surge_sweeps.trackers.mlflow.file import KEPT_HINT, cut_off_error, prepare_file
from surge_sweeps.trackers.mlflow.first_opening import one_at_a_time
from surge_sweeps.trackers.mlflow.runs import unknown_experiment
from surge_sweeps.trackers.mlflow.shared_context import SharedContext
from surge_sweeps.trackers.mlflow.uri import (
    absolute_uri,
    display_uri,
    hide_credentials,
    probe_server,
    sqlite_path,
)

_OPEN_HINT = "See that the address is right and the store can be reached, then call the same command again."
_FOLDER_HINT = (
    "MLflow gave up folders of files; move it with: mlflow migrate-filestore --source FOLDER --target "
    "sqlite:///mlflow.db, then use sqlite:///mlflow.db."
)
_NOISY_LOGGERS = ("mlflow.store.db.utils", "alembic", "mlflow.store.tracking.sqlalchemy_store")
_NO_LINKS = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
_MESSAGE_LIMIT = 300
#: Modules that SQLAlchemy imports for a database, and what pip calls them.
_DRIVER_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "pyodbc": "pyodbc",
}


def connect(uri: str) -> Any:
    """An `MlflowClient` for the store, made ready on first use.

    Raises:
        TrackerError: nothing answers there, or it cannot be opened.
        MissingExtraError: mlflow, or the driver of a database, is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = require("mlflow", "mlflow")
    probe_server(uri)
    path = sqlite_path(uri)
    is_folder = urlsplit(uri).scheme in ("", "file")
    hint = _FOLDER_HINT if is_folder else _OPEN_HINT
    if path is not None:
        with store_errors(uri, "made", hint):
            prepare_file(path)
    with store_errors(uri, "opened", hint, path), address_errors(uri), one_at_a_time(uri):
        return mlflow.MlflowClient(absolute_uri(uri))


def find_experiment(client: Any, name: str) -> Any:
    """The active experiment of that name; raises `UnknownNameError`, or `TrackerError` if it is deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        raise unknown_experiment(name, [one.name for one in search_all_experiments(client)], None)
    if found.lifecycle_stage != "active":
        raise unknown_experiment(name, [], str(found.experiment_id))
    return found


def search_all_runs(client: Any, experiment_ids: Sequence[str], query: str = "") -> Iterator[Any]:
    """Every active run of some experiments that the filter `query` lets through, oldest first."""

    def ask(token: str) -> tuple[list[Any], str]:
        # Oldest first, so that a run begun meanwhile shifts no page.
        page = client.search_runs(
            list(experiment_ids),
            query,
            max_results=paging.PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token or None,
        )
        return list(page), paging.token_text(page.token)

    return paging.whole_listing(ask, lambda run: str(run.info.run_id))


def search_all_experiments(client: Any, *, with_deleted: bool = False) -> Iterator[Any]:
    """Every active experiment of the store, and where asked for the deleted ones."""
    kinds = require("mlflow.entities", "mlflow").ViewType
    view = kinds.ALL if with_deleted else kinds.ACTIVE_ONLY

    def ask(token: str) -> tuple[list[Any], str]:
        page = client.search_experiments(view, max_results=paging.PAGE, page_token=token or None)
        return list(page), paging.token_text(page.token)

    return paging.whole_listing(ask, lambda experiment: str(experiment.experiment_id))


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
def store_errors(
    uri: str, doing: str, hint: str = KEPT_HINT, opened_file: Path | None = None
) -> Iterator[None]:
    """Turn whatever MLflow raises inside into a `TrackerError`, and keep its own log quiet meanwhile, and urllib3's.

    Args:
        uri: the store. doing: what failed, as a participle ("opened", "written"). hint: the next thing to do.
        opened_file: a SQLite store's file that is being opened, to say so where its creation was cut off.
    """
    with _quiet(), say_when_asked_again(uri):
        try:
            yield
        except _failures() as error:
            cause = _cause(error, uri).rstrip(".")
            known = cut_off_error(opened_file, cause) if opened_file else _not_let_in(error, uri)
            raise known or TrackerError(
                f"the MLflow store {display_uri(uri)} could not be {doing}: {cause}.", hint
            ) from error


@contextmanager
def address_errors(uri: str) -> Iterator[None]:
    """Turn what SQLAlchemy raises for an address it cannot use into a sentence: bad syntax, or a driver missing."""
    try:
        yield
    except ValueError as error:
        raise TrackerError(
            f"{display_uri(uri)!r} is no address of a store: {_cause(error, uri).rstrip('.')}.",
            "Write it as dialect://user:password@host:port/database.",
        ) from error
    except ImportError as error:
        module = error.name or str(error)
        package = _DRIVER_PACKAGES.get(module)
        raise MissingExtraError(
            f"the database driver {module!r} is not installed.",
            f"Install it with: pip install '{package}'"
            if package
            else "Install the package that holds it, or use another kind of store.",
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


def _not_let_in(error: Exception, uri: str) -> TrackerError | None:
    """The error for a server's refusal to let us in, of which MLflow's client keeps the status."""
    status = getattr(error, "get_http_status_code", None)
    if status is None or urlsplit(uri).scheme not in ("http", "https"):
        return None
    said = hide_credentials(str(error).replace(uri, display_uri(uri)))
    if (plain := without_tls(uri, said)) is not None:
        return plain
    # An answer that is no JSON stands in quotes, behind words of MLflow's own.
    answer = said.partition("Response body: '")[2].rpartition("'")[0] or said
    return access_error(uri, int(status()), shorten(" ".join(answer.split()), _MESSAGE_LIMIT))


def _cause(error: BaseException, uri: str) -> str:
    # The outer errors wrap SQL statements around the cause; SQLAlchemy keeps the driver's own in `orig`.
    while (cause := getattr(error, "orig", None) or error.__cause__) is not None:
        error = cause
    text = hide_credentials(str(error).replace(uri, display_uri(uri))).strip()
    return shorten(text.splitlines()[0], _MESSAGE_LIMIT) if text else type(error).__name__


def shorten(text: str, limit: int) -> str:
    """A text of at most `limit` characters, cut after a sentence where one ends in its second half, else a word.

    >>> shorten("It is full. See http://example.org", 20)
    'It is full.'
    >>> shorten("Detected something odd", 14)
    'Detected ...'
    """
    if len(text) <= limit:
        return text
    end = text.rfind(". ", limit // 2, limit)
    if end >= 0:
        return text[: end + 1]
    return f"{text[: limit - 3].rpartition(' ')[0] or text[: limit - 4]} ..."


@contextmanager
def _without_noise() -> Iterator[None]:
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


_quiet = SharedContext(_without_noise)
