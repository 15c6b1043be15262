"""Where the runs of a launch go, as it may be written to a file: whole, and without any secret."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from surge_sweeps.launch.plan import Plan
from surge_sweeps.trackers.identity import store_id
from surge_sweeps.trackers.mlflow.uri import absolute_uri, display_uri, resolve_uri

_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Target:
    """A project on a tracker.

    Attributes:
        project: as its tracker calls it; a folder of files is absolute. tracker: its name. uri: the store; None where
            the environment of whoever opens it says which. working_folder: where the launch is made, absolute.
        store_id: the same for one store, however its address was given, and telling nothing of it.
    """

    project: str
    tracker: str
    uri: str | None
    working_folder: Path
    store_id: str = ""

    @classmethod
    def of(cls, project: str, tracker: str, uri: str | None = None) -> Target:
        """The target of a launch that is made in the current folder.

        A store's address that comes from the environment, or that holds a password or options, stays in the environment
        (it is put there), which is how it travels to the tasks; no file holds it.

        >>> Target.of("digits", "mlflow", "http://team:5000").uri
        'http://team:5000'
        """
        if tracker == "files":
            return cls(str(Path(project).absolute()), tracker, None, Path.cwd(), store_id(tracker, project))
        if tracker != "mlflow":
            return cls(project, tracker, None, Path.cwd(), store_id(tracker, project))
        inherited = uri is None and bool(os.environ.get(_VARIABLE))
        resolved = absolute_uri(resolve_uri(uri))
        if inherited or display_uri(resolved) != resolved:
            os.environ[_VARIABLE] = resolved
            return cls(project, tracker, None, Path.cwd(), store_id(tracker, project, resolved))
        return cls(project, tracker, resolved, Path.cwd(), store_id(tracker, project, resolved))

    def is_of(self, plan: Plan) -> bool:
        """Whether a plan's runs go to the same project of the same store."""
        return (self.project, self.tracker, self.store_id) == (plan.project, plan.tracker, plan.store_id)
