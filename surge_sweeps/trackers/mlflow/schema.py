"""A store's database as it stands, opened for reading alone: whether it is there, and which schema it has.

MLflow itself makes a missing database and fills an empty one; nothing here does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.client import address_errors, store_errors
from surge_sweeps.trackers.mlflow.file import is_missing
from surge_sweeps.trackers.mlflow.uri import display_uri, sqlite_path

SchemaAge = Literal["current", "older", "newer", "none"]

READ_HINT = "See that the store can be reached and read, then call the same command again."
_LOCK_WAIT_S = 30
_CONNECT_WAIT_S = 10


def is_server(uri: str) -> bool:
    """Whether the URI is that of a tracking server.

    >>> is_server("http://localhost:5000"), is_server("sqlite:///mlflow.db")
    (True, False)
    """
    return uri.startswith(("http://", "https://"))


@contextmanager
def open_to_read(uri: str) -> Iterator[Any]:
    """A SQLAlchemy connection to a store in a database that refuses every write.

    Raises:
        TrackerError: there is no such store, or it cannot be read. MissingExtraError: a package is not installed.
    """
    path = sqlite_path(uri)
    if urlsplit(uri).scheme in ("", "file"):
        raise TrackerError(
            f"{display_uri(uri)!r} is a folder of files, which MLflow gave up.",
            "Move it: mlflow migrate-filestore --source FOLDER --target sqlite:///mlflow.db, then use that.",
        )
    if path is not None and is_missing(path):
        raise TrackerError(
            f"there is no MLflow store at {path}.",
            "Launch a sweep first, or say where the store is: --uri sqlite:////folder/mlflow.db.",
        )
    sqlalchemy = require("sqlalchemy", "mlflow")
    with store_errors(uri, "read", READ_HINT):
        with address_errors(uri):
            engine = _engine(sqlalchemy, uri, path)
        try:
            with engine.connect() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execution_options(postgresql_readonly=True)
                yield connection
        finally:
            engine.dispose()


def _engine(sqlalchemy: Any, uri: str, path: Path | None) -> Any:
    if path is not None:
        address = sqlalchemy.URL.create("sqlite", database=path.as_uri(), query={"mode": "ro", "uri": "true"})
        return sqlalchemy.create_engine(address, connect_args={"timeout": _LOCK_WAIT_S})
    options = {"connect_timeout": _CONNECT_WAIT_S} if uri.startswith("postgres") else {}
    return sqlalchemy.create_engine(uri, connect_args=options)


def schema_age(connection: Any) -> SchemaAge:
    """How the schema compares with the one of the MLflow installed; `none`: the database is no MLflow store."""
    tables = set(require("sqlalchemy", "mlflow").inspect(connection).get_table_names())
    if not {"alembic_version", "experiments", "runs"} <= tables:
        return "none"
    sqlalchemy = require("sqlalchemy", "mlflow")
    found = {row[0] for row in connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))}
    known = _revisions()
    if found == {known[0]}:
        return "current"
    return "older" if found <= set(known) else "newer"


def check_schema(connection: Any, uri: str) -> None:
    """Raises `TrackerError`, with the next step, where the MLflow installed would refuse the store."""
    age = schema_age(connection)
    shown = display_uri(uri)
    if age == "none":
        raise TrackerError(
            f"the database {shown} holds no MLflow store.",
            "Launch a sweep first, or mend the address (--uri, MLFLOW_TRACKING_URI).",
        )
    if age == "older":
        raise TrackerError(
            f"the store {shown} was made by an older MLflow, and the one installed refuses it.",
            f"Upgrade it: `surge-sweep doctor --uri {shown}` makes a backup first and asks; MLflow's own command is"
            f" `mlflow db upgrade {shown}`. Programs with an older MLflow cannot open it afterwards.",
        )
    if age == "newer":
        raise TrackerError(
            f"the store {shown} was made by a newer MLflow than the one installed.",
            "Install that one: pip install --upgrade mlflow.",
        )


def _revisions() -> list[str]:
    """Every revision of the schema that the MLflow installed knows, the newest first."""
    utils = require("mlflow.store.db.utils", "mlflow")
    script = require("alembic.script", "mlflow").ScriptDirectory
    directory = script.from_config(utils._get_alembic_config(db_url=""))
    return [revision.revision for revision in directory.walk_revisions()]
