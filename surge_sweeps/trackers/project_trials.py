"""Which trials a project was launched with, and how they stand: asked of the tracker alone, so from any machine.

A tracker keeps the definition of each sweep that was launched into it; whoever has the sweep files need not be asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import yaml

from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.assemble import STALE_AFTER_S
from surge_sweeps.trackers.places import locate
from surge_sweeps.trackers.planned_trials import PlannedTrial
from surge_sweeps.trackers.stored_runs import StoredRun
from surge_sweeps.trackers.trial_outcomes import TrialOutcome, trial_outcomes


class ProjectOutcomes(NamedTuple):
    """The tracker and the project's whole name, and trial id -> how it stands."""

    tracker: str
    project: str
    outcomes: Mapping[str, TrialOutcome]


class LaunchedTrials(NamedTuple):
    """What a project was launched with, and how it stands.

    Attributes:
        tracker: `mlflow`, `wandb` or `files`. project: its whole name.
        sweeps: as they were launched, oldest first; none stands here whose trials are all of another one.
        outcomes: trial id -> how it stands, for the trials of these that have a run.
        unread: sweeps whose definition this version cannot read.
    """

    tracker: str
    project: str
    sweeps: Sequence[Sweep]
    outcomes: Mapping[str, TrialOutcome]
    unread: int = 0


def planned_trials(sweeps: Iterable[Sweep]) -> dict[str, PlannedTrial]:
    """Trial id -> the trial and the metric that its run must log; a trial of several sweeps stands here once.

    >>> sweep = Sweep(lr=(0.1, 0.2), batch_size=(8,), seed=(0,))
    >>> len(planned_trials([sweep, sweep]))
    2
    """
    found: dict[str, PlannedTrial] = {}
    for sweep in sweeps:
        for trial in sweep.trials():
            found.setdefault(trial.trial_id, PlannedTrial(trial, sweep.loss))
    return found


def project_outcomes(
    sweep: Sweep,
    planned: Mapping[str, PlannedTrial],
    project: str | None,
    tracker: str | None,
    uri: str | None,
) -> ProjectOutcomes:
    """How planned trials stand in a project.

    Args:
        sweep: names the project where none is given, as when launching. planned: trial id -> the trial.
        project, tracker, uri: as in `open_tracker`; without a tracker, what is configured decides.

    Raises:
        SurgeError: this is no project of a tracker. TrackerError, UnknownNameError: it is not there, or cannot be
            read.
    """
    # A follow-up of a W&B sweep carries its project.
    own = [str(sweep.extra[key]) for key in ("entity", "project") if key in sweep.extra]
    name = project or ("/".join(own) if "project" in sweep.extra else sweep.name)
    kind = locate(name, tracker, uri).kind
    if kind == "wandb":
        from surge_sweeps.trackers.wandb.client import connect, with_entity
        from surge_sweeps.trackers.wandb.planned import planned_outcomes
        from surge_sweeps.trackers.wandb.sweeps import home_of

        api = connect()
        home = with_entity(api, home_of(project, sweep))
        try:
            return ProjectOutcomes(kind, home.path, planned_outcomes(api, home, planned))
        except ValueError as error:
            raise _no_wandb_project(home.path) from error
    return ProjectOutcomes(kind, name, _outcomes(_stored(kind, name, uri), planned))


def launched_trials(project: str, tracker: str | None = None, uri: str | None = None) -> LaunchedTrials:
    """What a project was launched with, and how it stands; several calls ask again.

    Args:
        project, tracker, uri: as in `collect`; on W&B one sweep of a project may be named.

    Raises:
        SurgeError: this is no project of a tracker. TrackerError, UnknownNameError: it is not there, or cannot be
            read.
    """
    kind = locate(project, tracker, uri).kind
    if kind == "wandb":
        return _launched_on_wandb(project)
    stored = _stored(kind, project, uri)
    found = [_as_sweep(definition) for definition in _definitions(kind, project, uri)]
    sweeps = _widest([sweep for sweep in found if sweep is not None])
    outcomes = _outcomes(stored, planned_trials(sweeps))
    return LaunchedTrials(kind, project, sweeps, outcomes, found.count(None))


def _launched_on_wandb(text: str) -> LaunchedTrials:
    from surge_sweeps.trackers.wandb.client import connect, parse_project, with_entity
    from surge_sweeps.trackers.wandb.planned import planned_outcomes
    from surge_sweeps.trackers.wandb.sweeps import list_sweeps

    api = connect()
    home = with_entity(api, parse_project(text))
    registered = [sweep for sweep in list_sweeps(api, home) if home.sweep in (None, sweep.id)]
    registered.sort(key=lambda sweep: sweep.created_at)
    # Sweeps of other kinds are everyday work there, and none of ours.
    sweeps = _widest([sweep.definition for sweep in registered if sweep.definition is not None])
    home = home._replace(sweep=None)
    try:
        outcomes = planned_outcomes(api, home, planned_trials(sweeps))
    except ValueError as error:
        raise _no_wandb_project(home.path) from error
    return LaunchedTrials("wandb", home.path, sweeps, outcomes)


def _stored(kind: str, project: str, uri: str | None) -> list[StoredRun]:
    if kind == "mlflow":
        from surge_sweeps.trackers.mlflow.reader import MlflowReader

        return [_stale_if_silent(run) for run in MlflowReader(uri).runs(project)]
    if kind == "files":
        from surge_sweeps.trackers.files.reader import stored_runs

        return [_stale_if_silent(run) for run in stored_runs(Path(project))]
    if Path(project).exists():
        what = "folder" if Path(project).is_dir() else "file"
        raise SurgeError(
            f"{project!r} is a {what} here, and no trials of a sweep are logged to it.",
            "If a project of that name is meant, say where it is: --tracker mlflow, wandb or files.",
        )
    raise SurgeError(
        f"{project!r} is no project that trials are logged to.",
        "Name a W&B project, an MLflow experiment or a folder.",
    )


def _definitions(kind: str, project: str, uri: str | None) -> list[Mapping[str, object] | None]:
    """What the sweeps of a project were launched as, oldest first; None for one that cannot be read."""
    if kind == "mlflow":
        from surge_sweeps.trackers.mlflow.reader import MlflowReader
        from surge_sweeps.trackers.mlflow.record import definition_from_tags

        return [definition_from_tags(tags) for tags in MlflowReader(uri).sweeps(project)]
    from surge_sweeps.trackers.files.layout import RunsFolder

    files = RunsFolder(Path(project)).sweep_file("any").parent.glob("*.yaml")
    return [_definition_in(file) for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]


def _definition_in(file: Path) -> Mapping[str, object] | None:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))["definition"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _outcomes(stored: Iterable[StoredRun], planned: Mapping[str, PlannedTrial]) -> dict[str, TrialOutcome]:
    return trial_outcomes(stored, {trial: item.loss for trial, item in planned.items()})


def _as_sweep(definition: Mapping[str, object] | None) -> Sweep | None:
    """The sweep, or None where another version, or another hand, wrote what cannot be read."""
    try:
        # Not as JSON, in which YAML takes 1e-05 for a text.
        return None if definition is None else Sweep.from_yaml(yaml.safe_dump(definition))
    except SurgeError:
        return None


def _widest(sweeps: Sequence[Sweep]) -> list[Sweep]:
    """The sweeps without those that hold no trial of their own, such as one that ran what was missing of another."""
    trials = [frozenset(planned_trials([sweep])) for sweep in sweeps]
    kept: list[int] = []
    for index in sorted(range(len(sweeps)), key=lambda index: -len(trials[index])):
        if not any(trials[index] <= trials[other] for other in kept):
            kept.append(index)
    return [sweeps[index] for index in sorted(kept)]


def _stale_if_silent(run: StoredRun) -> StoredRun:
    """Neither MLflow nor files have a heartbeat: an open run that has logged nothing for long is taken for dead."""
    is_silent = run.is_silent_since((time.time() - STALE_AFTER_S) * 1000)
    return replace(run, recorded="stale") if run.status == "running" and is_silent else run


def _no_wandb_project(path: str) -> TrackerError:
    return TrackerError(f"there is no W&B project {path!r}.", "Name another, or launch the sweep first.")
