"""The files of a publication among a run's artifacts: written, and those of an earlier publication removed.

Tables are written in the form of MLflow's own `log_table`, which its UI shows as tables; the client's function would
add the rows to those of the last publication.
"""

from __future__ import annotations

import json
import math
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.mlflow.note import FIGURES, FOLDER
from surge_sweeps.trackers.mlflow.uri import sqlite_path
from surge_sweeps.trackers.publication import Publication, PublishedTable

TABLES = f"{FOLDER}/tables"
#: The tag by which MLflow's UI knows which files are tables.
TABLES_TAG = "mlflow.loggedArtifacts"
#: Of numbers in tables; the files hold all of them.
_DIGITS = 5
#: Files that are looked into around a folder of artifacts.
_MOST_STORES = 20
_MOVE = (
    "For a store that was moved or copied, write the new place into its columns experiments.artifact_location and"
    " runs.artifact_uri."
)
#: Columns that are looked for, in front: the UI has room for four or five before it scrolls.
_FIRST = ("group", "loss", "batch_size", "lr")


def artifacts_of(publication: Publication) -> dict[str, bytes]:
    """Path -> content of everything that is published as a file.

    >>> empty = PublishedTable((), ())
    >>> one = Publication("t", "", "a", "d", {"surge/groups": 1}, empty, empty, {"fit.json": b"{}"})
    >>> list(artifacts_of(one))
    ['surge/fit.json', 'surge/tables/optimal_lr.json', 'surge/tables/key_results.json']
    """
    results = PublishedTable(("result", "value"), tuple(publication.scalars.items()))
    tables = {"optimal_lr": publication.optima, "key_results": results}
    return (
        {f"{FOLDER}/{name}": content for name, content in publication.files.items()}
        | {f"{FIGURES}/{figure.file}": figure.content for figure in publication.figures}
        | {f"{TABLES}/{name}.json": _table_json(table) for name, table in tables.items()}
    )


def write_artifacts(client: Any, run: Any, artifacts: Mapping[str, bytes]) -> tuple[str, ...]:
    """Make the run's folder `FOLDER` hold just these; returns what the artifact store did not let us remove.

    Args:
        client: of the store. run: as the client returned it. artifacts: path -> content, all inside `FOLDER`.

    Raises:
        TrackerError: the artifacts lie in a folder of the server's own host. Whatever the store raises.
    """
    run_id = run.info.run_id
    if artifacts:
        with tempfile.TemporaryDirectory(prefix="surge-publish-") as folder:
            for path, content in artifacts.items():
                file = Path(folder) / Path(path).relative_to(FOLDER)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            client.log_artifacts(run_id, folder, FOLDER)
    stale = [path for path in _files_in(client, run_id, FOLDER) if path not in artifacts]
    if not stale:
        return ()
    registry = require("mlflow.store.artifact.artifact_repository_registry", "mlflow")
    store = registry.get_artifact_repository(run.info.artifact_uri, tracking_uri=client.tracking_uri)
    for path in stale:
        # Not every kind of store can; what is left is looked for below.
        store.delete_artifacts(path)
    return tuple(path for path in _files_in(client, run_id, FOLDER) if path not in artifacts)


def tables_tag(earlier: str, artifacts: Mapping[str, bytes]) -> str:
    """The tag that names a run's tables: ours, and those that others logged.

    >>> tables_tag("", {"surge/tables/a.json": b""})
    '[{"path": "surge/tables/a.json", "type": "table"}]'
    """
    try:
        found = json.loads(earlier or "[]")
    except ValueError:
        found = []
    others = [
        one
        for one in (found if isinstance(found, list) else [])
        if not (isinstance(one, dict) and str(one.get("path", "")).startswith(f"{TABLES}/"))
    ]
    ours = [{"path": path, "type": "table"} for path in artifacts if path.startswith(f"{TABLES}/")]
    return json.dumps([*others, *ours])


def check_artifact_place(tracking_uri: str, location: str) -> None:
    """Refuse artifacts that would be written where nobody sees them, or where they are not this store's.

    That is: a server's that go to a folder which only the server's own host has, since MLflow's client would make a
    folder of that name here; and a store's that was moved or copied, whose experiments still name the old place.

    Args:
        tracking_uri: of the store. location: of an experiment's artifacts, or of a run's without its last two parts.

    Raises:
        TrackerError: with what to do.
    """
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return
    folder = Path(unquote(parts.path))
    if urlsplit(tracking_uri).scheme in ("http", "https"):
        # ROOT/EXPERIMENT, and the root is made with the first artifact.
        if not folder.parent.parent.is_dir():
            raise TrackerError(
                f"the server keeps artifacts in {str(folder)!r}, a folder of its own host that is not on this machine.",
                "Start the server with --artifacts-destination, which takes them over HTTP, or publish on its host.",
            )
        return
    store = sqlite_path(tracking_uri)
    if store is not None and folder.is_relative_to(store.resolve().parent):
        return
    if store is None and not folder.parent.is_dir() and not folder.is_relative_to(Path.cwd()):
        raise TrackerError(
            f"the experiment keeps its artifacts in {str(folder)!r}, and there is no folder {str(folder.parent)!r} on"
            " this machine: MLflow took the folder that the sweep was launched in.",
            "Publish on that machine, or make that folder. For colleagues to see files, launch new sweeps through a"
            " server with --artifacts-destination.",
        )
    if not folder.parent.is_dir() and not folder.is_relative_to(Path.cwd()):
        raise TrackerError(
            f"the experiment keeps its artifacts in {str(folder)!r}, and there is no folder {str(folder.parent)!r}: the"
            " store was moved or copied, or nothing was stored in it yet.",
            f"If that is the right place, make that folder. {_MOVE}",
        )
    original = None if store is None else _original(store, folder, location)
    if original is not None:
        raise TrackerError(
            f"the experiment keeps its artifacts in {str(folder)!r}, as does the same experiment in {str(original)!r}:"
            " this store looks like a copy of that one.",
            f"Publish in that store. {_MOVE}",
        )


def folder_here(tracking_uri: str, location: str) -> str:
    """The folder of this machine that artifacts of a database go to which others may reach from elsewhere; else empty.

    A server serves its artifacts, and the folder of a SQLite store lies beside it.

    >>> folder_here("postgresql://host/mlflow", "file:///work/mlruns/1"), folder_here("postgresql://host/mlflow", "s3://a")
    ('/work/mlruns/1', '')
    >>> folder_here("sqlite:///mlflow.db", "/work/mlruns/1"), folder_here("http://host:5000", "/work/mlruns/1")
    ('', '')
    """
    parts = urlsplit(location)
    is_here = parts.scheme in ("", "file") and urlsplit(tracking_uri).scheme not in ("http", "https")
    return str(Path(unquote(parts.path))) if is_here and sqlite_path(tracking_uri) is None else ""


def _original(store: Path, folder: Path, location: str) -> Path | None:
    """Another SQLite store, beside a folder of artifacts, that holds the same experiment as this one."""
    asked = _experiments_at(store, location)
    for around in (folder.parent, folder.parent.parent):
        for file in sorted(around.glob("*.db"))[:_MOST_STORES]:
            if file.exists() and not file.samefile(store) and asked & _experiments_at(file, location):
                return file
    return None


def _experiments_at(file: Path, location: str) -> set[tuple[str, int]]:
    """Names and times of creation of a store's experiments with that place; none in a file that is no store."""
    query = "SELECT name, creation_time FROM experiments WHERE artifact_location = ?"
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return set(connection.execute(query, (location,)))
    except sqlite3.Error:
        return set()


def _files_in(client: Any, run_id: str, folder: str) -> Iterator[str]:
    for one in client.list_artifacts(run_id, folder):
        if one.is_dir:
            yield from _files_in(client, run_id, one.path)
        else:
            yield one.path


def _table_json(table: PublishedTable) -> bytes:
    """A table as the UI shows it best: what tells rows apart in front, nothing that is empty, digits to read."""
    columns = [(name, [_shown(row[place]) for row in table.rows]) for place, name in enumerate(table.columns)]
    filled = [(name, values) for name, values in columns if any(value is not None for value in values)]
    ordered = sorted(filled, key=lambda column: (len(set(column[1])) == 1, column[0] not in _FIRST))
    found = {
        "columns": [name for name, _ in ordered],
        # The UI would write "null" into the cell.
        "data": list(
            zip(*(["" if one is None else one for one in values] for _, values in ordered), strict=True)
        ),
    }
    return json.dumps(found, allow_nan=False, ensure_ascii=False).encode("utf-8")


def _shown(value: Scalar | None) -> Scalar | None:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
