"""`surge-sweep import`: the results of a folder of runs, written where there was no network, into a tracker."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps.cli.console import out, progress_bar, say
from surge_sweeps.cli.launch_options import Quiet, Uri
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.trackers import TRACKERS, locate, open_tracker
from surge_sweeps.trackers.files.importing import ImportResult, import_runs
from surge_sweeps.trackers.files.layout import RunsFolder
from surge_sweeps.trackers.mlflow.uri import display_uri

#: Of files that cannot be read, so many are named.
_NAMED = 10


def import_(
    folder: Annotated[Path, typer.Argument(help="A folder that --tracker files logged to.")],
    tracker: Annotated[str, typer.Option(help="Where the runs go: mlflow or wandb.")],
    project: Annotated[
        str | None,
        typer.Option(
            help="MLflow experiment, or W&B entity/project. Default: the folder's name; on W&B WANDB_PROJECT comes"
            " before it."
        ),
    ] = None,
    uri: Uri = None,
    quiet: Quiet = False,
) -> None:
    """Bring the results of a folder of runs into a tracker; call it again for what has ended since.

    A trial that the tracker has a result of already is left alone, so that nothing is doubled, also after this was
    stopped. Runs without a result (going on, crashed) stay where they are, and so does the folder. The points are
    stamped with the time of the import.
    """
    others = [name for name in TRACKERS if name != "files"]
    if tracker not in others:
        raise UnknownNameError("tracker", tracker, others)
    RunsFolder(folder).check()
    name = (
        project or (os.environ.get("WANDB_PROJECT") if tracker == "wandb" else None) or folder.resolve().name
    )
    locate(name, tracker, uri)
    result = ImportResult()
    try:
        if tracker == "wandb":
            name = _whole_name(name)
        _import(folder, tracker, name, uri, result, quiet=quiet)
    except (SurgeError, KeyboardInterrupt):
        if result.imported:
            _tell(
                f"{result.describe()}, then it was stopped. What was imported stays; call the same command again."
            )
        raise
    finally:
        if tracker == "wandb":
            from surge_sweeps.trackers.wandb import session

            session.end()
    _tell(result.describe())
    for problem in result.problems[:_NAMED]:
        _tell(f"  {problem.what}")
    if len(result.problems) > _NAMED:
        _tell(f"  and {len(result.problems) - _NAMED} more")
    if not quiet and (result.imported or result.there):
        _tell_next(name, tracker, uri)
    if result.problems:
        raise typer.Exit(1)


def _import(
    folder: Path, tracker: str, name: str, uri: str | None, result: ImportResult, *, quiet: bool
) -> None:
    say(f"Importing {folder} into {name} ...", quiet=quiet)
    store = open_tracker(tracker, name, uri)
    try:
        with progress_bar("importing", quiet=quiet, lines=True) as progress:
            import_runs(folder, store, result, progress)
    except BaseException:
        # The first error is the one to tell.
        store.give_up_when(lambda: True)
        with suppress(TrackerError):
            store.close()
        raise
    store.close()


def _whole_name(name: str) -> str:
    """A W&B project with its entity; refuses where the client is set to offline: nothing would be brought anywhere."""
    from surge_sweeps.trackers.wandb.client import connect, parse_project, with_entity
    from surge_sweeps.trackers.wandb.open_run import is_offline

    if is_offline():
        raise SurgeError(
            "W&B is set to offline, and runs are to be brought to its server.", "Unset WANDB_MODE."
        )
    return with_entity(connect(), parse_project(name)).path


def _tell_next(name: str, tracker: str, uri: str | None) -> None:
    # What is printed may end in a log that others read.
    shown = display_uri(uri) if uri else None
    command = ["surge-report", name, "--tracker", tracker, *(["--uri", shown] if shown else [])]
    _tell(f"Next: {shlex.join(command)}")
    if shown != uri:
        _tell("  --uri is shown without user, password and options: give it as you gave it here.")


def _tell(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
