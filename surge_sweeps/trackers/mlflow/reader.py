"""Reading an MLflow experiment into `LossCurves`: from the SQLite file where the store is one, else by the client.

The client, and with it mlflow, is imported only in the second case.
"""

from __future__ import annotations

from surge_sweeps.curves import LossCurves
from surge_sweeps.trackers.assemble import Origin, assemble
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.joined import JoinedByStep
from surge_sweeps.trackers.mlflow.database.sqlite import open_sqlite
from surge_sweeps.trackers.mlflow.uri import absolute_uri, display_uri, resolve_uri, sqlite_path
from surge_sweeps.trackers.stored_runs import StoredRun


class MlflowReader:
    """One MLflow store, open for reading; implements `Reader`. A local SQLite store needs no mlflow installed.

    Args:
        uri: the store; default MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the working folder.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._uri = resolve_uri(uri)

    def runs(self, project: str) -> list[StoredRun]:
        """Every run of an experiment that is no parent and no report, without its points; raises as `collect` does."""
        path = sqlite_path(self._uri)
        if path is not None:
            with open_sqlite(path) as store:
                return store.runs(store.experiment_id(project))
        from surge_sweeps.trackers.mlflow.rest import ClientStore

        client = ClientStore(self._uri)
        return client.runs(client.experiment_id(project))

    def collect(self, project: str, options: ReadOptions) -> LossCurves:
        """Read an experiment, written by this tool or by any program that logs flat runs.

        Parameters become typed columns. Runs that cannot be used are named in `problems`. An experiment without runs
        gives an empty table.

        Raises:
            TrackerError: the store is not there, cannot be read, or holds the experiment as deleted.
            UnknownNameError: no such experiment, or a parameter or metric name that no run has.
        """
        path = sqlite_path(self._uri)
        shown = f"mlflow {display_uri(self._uri)}"
        if path is not None:
            with open_sqlite(path) as store:
                number = store.experiment_id(project)
                origin = Origin(
                    project, shown, ("mlflow", absolute_uri(self._uri), str(number)), own_step=True
                )
                return assemble(store.runs(number), JoinedByStep(store), origin, options)
        from surge_sweeps.trackers.mlflow.rest import ClientStore

        client = ClientStore(self._uri)
        experiment = client.experiment_id(project)
        origin = Origin(project, shown, ("mlflow", display_uri(self._uri), experiment), own_step=True)
        return assemble(client.runs(experiment), JoinedByStep(client), origin, options)
