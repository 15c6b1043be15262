"""What became of planned trials, told from the runs of a project: the same for every tracker.

A trial may have several runs: one that crashed and one that finished later. The best of them decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.assemble import STALE_AFTER_S
from surge_sweeps.trackers.places import locate
from surge_sweeps.trackers.planned_trials import PlannedTrial
from surge_sweeps.trackers.stored_runs import StoredRun
from surge_sweeps.trackers.trial_runs import missing_metric, script_status

_RANK: Mapping[Status, int] = {**dict.fromkeys(RESULT_STATUSES, 0), "running": 1, "crashed": 2, "stale": 3}


class TrialOutcome(NamedTuple):
    """How a trial stands.

    Attributes:
        status: of its best run. run: the store's id of that run. problem: why a run that ended well is no result.
        is_preempted: the run made room and waits to be taken up by the next agent; its status is then `crashed`.
    """

    status: Status
    run: str
    problem: str = ""
    is_preempted: bool = False

    @property
    def is_result(self) -> bool:
        """Whether the trial is done."""
        return self.status in RESULT_STATUSES


def trial_outcomes(stored: Iterable[StoredRun], losses: Mapping[str, str]) -> dict[str, TrialOutcome]:
    """Trial id -> how it stands, for the trials that have a run.

    A status that this tool wrote is taken as it is. A run of the user's own script is a result if it ended well with
    its loss logged, diverged if that loss is not finite; a script that failed has diverged if its loss, or that of its
    training batches, is not finite.

    Args:
        stored: the project's runs. losses: trial id -> the metric that its run must log; other trials are left out.

    >>> run = StoredRun("r1", None, "finished", 0, 1, {"trial_id": "t1"}, {})
    >>> trial_outcomes([run], {"t1": "eval/loss", "t2": "eval/loss"})["t1"].problem
    "it logged no metric 'eval/loss' and no other"
    """
    found: dict[str, TrialOutcome] = {}
    for run in stored:
        trial = run.params.get("trial_id", "")
        if trial not in losses:
            continue
        outcome = _outcome(run, losses[trial])
        if trial not in found or _RANK[outcome.status] < _RANK[found[trial].status]:
            found[trial] = outcome
    return found


class ProjectOutcomes(NamedTuple):
    """The tracker and the project's whole name, and trial id -> how it stands."""

    tracker: str
    project: str
    outcomes: Mapping[str, TrialOutcome]


def project_outcomes(
    sweep: Sweep,
    planned: Mapping[str, PlannedTrial],
    project: str | None,
    tracker: str | None,
    uri: str | None,
) -> ProjectOutcomes:
    """`trial_outcomes` of a whole project.

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
            raise TrackerError(
                f"there is no W&B project {home.path!r}.",
                "Name another with --project, or launch the sweep first.",
            ) from error
    if kind == "mlflow":
        from surge_sweeps.trackers.mlflow.reader import MlflowReader

        stored = [_stale_if_silent(run) for run in MlflowReader(uri).runs(name)]
        losses = {trial: item.loss for trial, item in planned.items()}
        return ProjectOutcomes(kind, name, trial_outcomes(stored, losses))
    raise SurgeError(
        f"{name!r} is no project that trials are logged to.", "Name a W&B project or an MLflow experiment."
    )


def _stale_if_silent(run: StoredRun) -> StoredRun:
    """MLflow has no heartbeat: a run that is open but has logged nothing for long is taken for dead."""
    is_silent = run.is_silent_since((time.time() - STALE_AFTER_S) * 1000)
    return replace(run, recorded="stale") if run.status == "running" and is_silent else run


def _outcome(run: StoredRun, loss: str) -> TrialOutcome:
    if run.recorded is not None or not (run.failed or run.ended == "finished"):
        return TrialOutcome(run.status, run.run)
    # A value that the store does not tell counts as finite: the program ended well, and its curve tells the rest.
    newest = {name: point.value if point.is_known else 0.0 for name, point in run.metrics.items()}
    status = script_status(1 if run.failed else 0, newest, loss)
    problem = "" if run.failed or status != "crashed" else missing_metric(loss, run.metrics)
    return TrialOutcome(status, run.run, problem)
