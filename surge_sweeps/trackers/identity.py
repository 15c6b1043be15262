"""What tells one store from another, however its address is given."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit

from surge_sweeps.trackers.mlflow.uri import absolute_uri, display_uri, resolve_uri, sqlite_path


def store_id(tracker: str, project: str, uri: str | None = None) -> str:
    """12 hex digits of a tracker's store, which tell nothing of its address; the project counts for a folder alone.

    Of MLflow: of the file that the store is, else of its address without user, password and options.

    Args:
        tracker, project: see `open_tracker`. uri: an MLflow store, default as MLflow's.

    Raises:
        TrackerError: the uri is none.

    >>> store_id("mlflow", "x", "http://me:secret@Team:5000/") == store_id("mlflow", "y", "http://team:5000")
    True
    >>> [store_id("files", "runs") == store_id("files", name) for name in ("./x/../runs", "other")]
    [True, False]
    """
    if tracker == "files":
        return _id(str(Path(project).resolve()))
    if tracker != "mlflow":
        return _id(os.environ.get("WANDB_BASE_URL", "").rstrip("/"))
    store = absolute_uri(resolve_uri(uri))
    path = sqlite_path(store)
    if path is not None:
        return _id(f"sqlite:{path.resolve()}")
    parts = urlsplit(display_uri(store))
    return _id(f"{parts.scheme}://{parts.netloc.casefold()}{parts.path.rstrip('/')}")


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
