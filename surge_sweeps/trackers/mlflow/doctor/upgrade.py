"""The schema of a store: older or newer than the MLflow installed, and its upgrade after a backup."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.client import store_errors
from surge_sweeps.trackers.mlflow.doctor.finding import Finding
from surge_sweeps.trackers.mlflow.doctor.writing import MEND_HINT, open_sqlite
from surge_sweeps.trackers.mlflow.schema import SchemaAge
from surge_sweeps.trackers.mlflow.uri import absolute_uri, display_uri, sqlite_path

#: The backup, and as much again for tables that a migration makes anew, and a little.
_ROOM = 2.2


def schema_finding(uri: str, age: SchemaAge) -> Finding | None:
    """What is wrong with a schema of that age."""
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


def _upgrade(uri: str) -> str:
    path = sqlite_path(uri)
    backup = None if path is None else _back_up(path)
    kept = "" if backup is None else f" The store as it was is {backup}: copy it back over {path}."
    utils = require("mlflow.store.db.utils", "mlflow")
    with store_errors(uri, "upgraded", f"{MEND_HINT}{kept}"):
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
        with open_sqlite(path) as source, closing(sqlite3.connect(temporary)) as target:
            source.backup(target)
        # As private as the store itself.
        shutil.copymode(path, temporary)
        temporary.replace(backup)
    except OSError as error:
        raise TrackerError(f"the backup {backup} cannot be written: {error.strerror}.", MEND_HINT) from error
    finally:
        temporary.unlink(missing_ok=True)
    return backup
