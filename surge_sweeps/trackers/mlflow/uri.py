"""Where an MLflow store lies: the URI a user means, the SQLite file behind it, and how to show it without secrets.

Needs no MLflow, so that a local store can be read where MLflow is not installed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.probe import connection_failure

#: Used when neither the caller nor MLFLOW_TRACKING_URI names a store; the same default as MLflow's own.
DEFAULT_URI = "sqlite:///mlflow.db"

_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///(?P<path>[^?]*)(?:\?.*)?", re.DOTALL)
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9][\w.-]*:\d{1,5}(?:/\S*)?", re.ASCII)
_DATABASE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
#: A password may hold anything but "@", as SQLAlchemy takes it; a host with a port and a path is none.
_CREDENTIALS = re.compile(r"(://)(?:[^\s/?#@:]*:(?!\d+(?:[/?#]|$))[^\s@]*@|[^\s/?#]*@)")


def resolve_uri(uri: str | None) -> str:
    """The URI given, else the environment's MLFLOW_TRACKING_URI, else `DEFAULT_URI`.

    Raises:
        TrackerError: it is the path of a database file, or a host and its port, without the word in front.

    >>> resolve_uri("http://localhost:5000")
    'http://localhost:5000'
    """
    found = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    meant = _meant(found)
    if meant is not None:
        raise TrackerError(f"{found!r} is no address of a store.", f"Did you mean {meant}?")
    return found


def _meant(uri: str) -> str | None:
    """The address that somebody means who leaves away its beginning; MLflow would take the text for a folder.

    >>> _meant("other.db"), _meant("/data/x.db"), _meant("login01:5000"), _meant("mlruns"), _meant("http://h:1/x.db")
    ('sqlite:///other.db', 'sqlite:////data/x.db', 'http://login01:5000', None, None)
    """
    if _HOST_AND_PORT.fullmatch(uri):
        return f"http://{uri}"
    path = Path(uri)
    is_file = path.suffix.lower() in _DATABASE_SUFFIXES or path.is_file()
    return f"sqlite:///{uri}" if "://" not in uri and is_file and not path.is_dir() else None


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite store's file, or None for every other kind of store.

    Raises:
        TrackerError: a SQLite store in memory, which no other process could read.

    >>> sqlite_path("sqlite:////data/mlflow.db").as_posix()
    '/data/mlflow.db'
    >>> sqlite_path("http://localhost:5000") is None
    True
    """
    if not uri.startswith("sqlite"):
        return None
    found = _SQLITE.fullmatch(uri)
    path = found["path"] if found else ""
    if path.startswith("file:"):
        return None
    if path in ("", ":memory:"):
        raise TrackerError(
            f"the store {display_uri(uri)!r} names no file.",
            "Name one, such as sqlite:///mlflow.db (relative) or sqlite:////abs.db.",
        )
    return Path(path).absolute()


def absolute_uri(uri: str) -> str:
    """The same store, independent of the working folder: MLflow keeps its connections by the URI's text."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def display_uri(uri: str) -> str:
    """The URI without user, password and query, for reports and messages.

    >>> display_uri("https://me:secret@host:5000/mlflow?token=x")
    'https://host:5000/mlflow'
    >>> display_uri("sqlite:///mlflow.db")
    'sqlite:///mlflow.db'
    """
    return hide_credentials(uri).partition("?")[0].partition("#")[0]


def hide_credentials(text: str) -> str:
    """A text whose URIs show no user and no password, whatever their scheme.

    >>> hide_credentials("no answer from mysql://me:a/b?c@host/runs, sqlite:////me@home/x.db")
    'no answer from mysql://host/runs, sqlite:////me@home/x.db'
    """
    return _CREDENTIALS.sub(r"\1", text)


def probe_server(uri: str) -> None:
    """Refuse a server that nothing answers for, at once: MLflow itself would try for minutes.

    A server behind a proxy is not probed, and neither is a store of another kind.

    Raises:
        TrackerError: no connection within five seconds.
    """
    if (error := connection_failure(uri)) is not None:
        raise TrackerError(
            f"no MLflow server answers at {display_uri(uri)} ({error}).",
            "Start it, or mend the address (MLFLOW_TRACKING_URI); then call the same command again.",
        ) from error
