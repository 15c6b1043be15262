"""Where a project lies: a table, a folder of runs of ours or of offline W&B runs, a W&B project, an MLflow experiment.

What the user says decides; else what the name looks like and what is configured. Two places that fit are asked about,
never guessed between.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Literal, NamedTuple

from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.trackers.files.layout import is_runs_folder
from surge_sweeps.trackers.tables.file import SUFFIXES, is_table, project_name

Kind = Literal["table", "offline", "files", "wandb", "mlflow"]

#: The trackers there are.
TRACKERS: tuple[str, ...] = ("mlflow", "wandb", "files")

_LOCAL_STORE = Path("mlflow.db")


class Place(NamedTuple):
    """Where a project lies, and why it is taken to lie there (empty where the user said so)."""

    kind: Kind
    why: str = ""


def locate(project: str, tracker: str | None = None, uri: str | None = None) -> Place:
    """Find out where a project lies, without asking any server.

    Args:
        project: what the user calls it. tracker: one of `TRACKERS`. uri: an MLflow store.

    Raises:
        UnknownNameError: no such tracker. SurgeError: options that contradict each other, or two places that fit.

    >>> locate("runs.csv"), locate("digits", uri="sqlite:///mlflow.db").kind, locate("team/digits", "wandb").kind
    (Place(kind='table', why=''), 'mlflow', 'wandb')
    """
    if tracker is not None and tracker not in TRACKERS:
        raise UnknownNameError("tracker", tracker, TRACKERS)
    said = tracker is not None or uri is not None
    if project.endswith(".wandb") and not said:
        return Place("offline")
    if tracker == "files":
        if uri is not None:
            raise SurgeError(
                "--uri names an MLflow store, and runs in a folder are asked for.",
                "Leave it away; --project names the folder.",
            )
        return Place("files")
    if project.lower().endswith(SUFFIXES) or (not said and is_table(project)):
        if said:
            raise SurgeError(
                f"{project!r} is a table, and --tracker or --uri say where an experiment is.",
                "Leave them away, or name an experiment.",
            )
        return Place("table") if project.lower().endswith(SUFFIXES) else _a_file_or_an_experiment(project)
    if tracker == "wandb":
        if uri is not None:
            raise SurgeError(
                "--uri names an MLflow store, and W&B is asked for.",
                "Leave it away; WANDB_BASE_URL names a W&B server of your own.",
            )
        return Place("wandb")
    if said:
        return Place("mlflow")
    if is_runs_folder(project):
        return _a_folder_or_an_experiment(project)
    if _is_offline(project):
        return Place("offline")
    return _by_what_is_configured(project)


def short_name(project: str, kind: Kind) -> str:
    """What a report of the project is called: a table's stem, a folder's name, a W&B project without its entity.

    >>> short_name("team/digits", "wandb"), short_name("team/digits/ab12", "wandb"), short_name("runs.csv", "table")
    ('digits', 'digits-ab12', 'runs')
    """
    if kind == "wandb":
        from surge_sweeps.trackers.wandb.client import parse_project

        found = parse_project(project)
        return found.project if found.sweep is None else f"{found.project}-{found.sweep}"
    return Path(project).resolve().name if kind in ("offline", "files") else project_name(project)


def _is_offline(project: str) -> bool:
    """Whether a path holds runs that W&B wrote. A folder that only shares its name with a project does not count."""
    path = Path(project)
    if not path.is_dir():
        return False
    from surge_sweeps.trackers.wandb.offline.folder import is_offline_folder

    if is_offline_folder(path):
        return True
    if path.is_absolute() or project.startswith("."):
        raise SurgeError(
            f"the folder {project!r} holds no runs: none of --tracker files, and none of W&B (no `.wandb` file).",
            "Name the folder that the runs were written to, or a CSV or Parquet table.",
        )
    return False


def _a_folder_or_an_experiment(project: str) -> Place:
    """A folder of runs, unless its name may as well be meant for an experiment."""
    mlflow = "" if Path(project).is_absolute() or project.startswith(".") else _mlflow_reason()
    if mlflow and _may_be_experiment(project):
        raise SurgeError(
            f"{project!r} could be the folder of runs of that name or an MLflow experiment ({mlflow}).",
            f"Say which: --tracker files (or {shlex.quote(f'./{project}')}) or --tracker mlflow.",
        )
    return Place("files")


def _a_file_or_an_experiment(project: str) -> Place:
    """A file that is not named as a table is one, unless its name may as well be meant for an experiment."""
    mlflow = _mlflow_reason() if Path(project).name == project else ""
    if mlflow and _may_be_experiment(project):
        raise SurgeError(
            f"{project!r} could be the file of that name in this folder or an MLflow experiment ({mlflow}).",
            f"Say which: --tracker mlflow, or for the file {shlex.quote(f'./{project}')}.",
        )
    return Place("table")


def _may_be_experiment(project: str) -> bool:
    """Whether the configured MLflow store may hold an experiment of that name; only a file is looked into."""
    from surge_sweeps.trackers.mlflow.database.sqlite import open_sqlite
    from surge_sweeps.trackers.mlflow.uri import resolve_uri, sqlite_path

    path = sqlite_path(resolve_uri(None))
    if path is None:
        return True
    try:
        with open_sqlite(path) as store:
            store.experiment_id(project)
    except UnknownNameError:
        return False
    except TrackerError:  # one that cannot be read may hold anything
        return True
    return True


def _by_what_is_configured(project: str) -> Place:
    if project.startswith(("http://", "https://")):
        return Place("wandb", "an address")
    mlflow = _mlflow_reason()
    if "/" not in project:
        return Place("mlflow", mlflow)
    from surge_sweeps.trackers.wandb.client import is_configured, parse_project

    try:
        parse_project(project)
    except SurgeError:
        return Place("mlflow", mlflow)
    wandb = "a W&B key is configured" if is_configured() else ""
    if wandb and mlflow:
        raise SurgeError(
            f"{project!r} could be a W&B project ({wandb}) or an MLflow experiment ({mlflow}).",
            "Say which: --tracker wandb or --tracker mlflow.",
        )
    if wandb:
        return Place("wandb", wandb)
    if mlflow:
        return Place("mlflow", mlflow)
    raise SurgeError(
        f"{project!r} looks like a W&B project, but no W&B key is configured; and there is no such folder, table or"
        " MLflow store here.",
        "Log in with `wandb login` (or set WANDB_API_KEY), or name the MLflow store with --uri.",
    )


def _mlflow_reason() -> str:
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return "MLFLOW_TRACKING_URI is set"
    return f"{_LOCAL_STORE} is here" if _LOCAL_STORE.exists() else ""
