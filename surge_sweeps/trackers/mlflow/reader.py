"""Reading an MLflow experiment into `LossCurves`, by what the store is: a database, a server, or any other.

MLflow's own package is imported only where it is needed, which it is not for a database that is read directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from surge_sweeps.curves import LossCurves
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.trackers.assemble import Origin, SeriesSource, assemble
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.joined import JoinedByStep
from surge_sweeps.trackers.mlflow.database.opening import is_database, open_database
from surge_sweeps.trackers.mlflow.runs import is_empty_trial
from surge_sweeps.trackers.mlflow.uri import absolute_uri, display_uri, resolve_uri, sqlite_path
from surge_sweeps.trackers.stored_runs import StoredRun


class MlflowStore(SeriesSource, Protocol):
    """What each way of reading brings."""

    def experiment_id(self, project: str) -> Any:
        """The store's id of the experiment; raises `UnknownNameError`, or `TrackerError` if it is deleted."""
        ...

    def runs(self, experiment_id: Any) -> list[StoredRun]:
        """Every active run of the experiment that is no parent and no report, oldest first."""
        ...

    def sweep_tags(self, experiment_id: Any) -> list[dict[str, str]]:
        """The tags of every active run that is a sweep's parent, oldest first."""
        ...


class MlflowReader:
    """One MLflow store, open for reading; implements `Reader`. A database needs no mlflow installed.

    Args:
        uri: the store; default MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the working folder.
        progress: told of the runs listed and read so far, where that may take minutes.
    """

    def __init__(self, uri: str | None = None, progress: ProgressCallback = no_progress) -> None:
        self._uri = resolve_uri(uri)
        self._progress = progress

    def runs(self, project: str) -> list[StoredRun]:
        """Every run of an experiment that is no parent and no report, without its points; raises as `collect` does."""
        with self._open() as store:
            return store.runs(store.experiment_id(project))

    def sweeps(self, project: str) -> list[dict[str, str]]:
        """The tags of every sweep opened in an experiment, see `record.definition_from_tags`; raises as `collect`."""
        with self._open() as store:
            return store.sweep_tags(store.experiment_id(project))

    def collect(self, project: str, options: ReadOptions) -> LossCurves:
        """Read an experiment, written by this tool or by any program that logs flat runs.

        Parameters become typed columns. Runs that cannot be used are named in `problems`, but for trials of ours that
        were killed before they had parameters: those are merely missing. An experiment without runs gives an empty
        table.

        Raises:
            TrackerError: the store is not there, cannot be read, or holds the experiment as deleted.
            UnknownNameError: no such experiment, or a parameter or metric name that no run has.
        """
        # Part of what a cache writes down, so without secrets.
        identity = display_uri(self._uri) if sqlite_path(self._uri) is None else absolute_uri(self._uri)
        with self._open() as store:
            number = store.experiment_id(project)
            origin = Origin(
                project, f"mlflow {display_uri(self._uri)}", ("mlflow", identity, str(number)), own_step=True
            )
            runs = [run for run in store.runs(number) if not is_empty_trial(run)]
            return assemble(runs, JoinedByStep(store), origin, options)

    @contextmanager
    def _open(self) -> Iterator[MlflowStore]:
        if is_database(self._uri):
            with open_database(self._uri) as database:
                yield database
        elif urlsplit(self._uri).scheme in ("http", "https"):
            from surge_sweeps.trackers.mlflow.http.store import HttpStore

            yield HttpStore(self._uri, self._progress)
        else:
            from surge_sweeps.trackers.mlflow.client_store import ClientStore

            yield ClientStore(self._uri, self._progress)
