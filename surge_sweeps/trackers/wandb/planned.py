"""How the planned trials of a W&B project stand: the one answer of `surge-sweep launch` and `surge-sweep missing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from surge_sweeps.trackers.planned_trials import PlannedTrial, match_planned
from surge_sweeps.trackers.trial_outcomes import TrialOutcome, trial_outcomes
from surge_sweeps.trackers.wandb.client import WandbProject
from surge_sweeps.trackers.wandb.runs import Listing, list_runs
from surge_sweeps.trackers.wandb.sweep_runs import REQUEUED


def planned_outcomes(
    api: Any, project: WandbProject, planned: Mapping[str, PlannedTrial]
) -> dict[str, TrialOutcome]:
    """Trial id -> how it stands, for the planned trials that have a run in the project.

    A run that names no trial did the one that its sweep's definition says; where that sweep is deleted, or where it
    belongs to none, the one that its configuration says.

    Raises:
        TrackerError: the server is away or refuses. ValueError: there is no such project.
    """
    listing = list_runs(api, project)
    preempted = {run for run, listed in listing.runs.items() if str(listed.handle.state) in REQUEUED}
    # Such a run counts as going on for whoever reads its curve, but nothing runs.
    stored = [replace(run, recorded="crashed") if run.run in preempted else run for run in listing.stored]
    stored = match_planned(stored, planned, _of_living_sweeps(listing))
    found = trial_outcomes(stored, {trial: item.loss for trial, item in planned.items()})
    return {
        trial: outcome._replace(is_preempted=outcome.run in preempted) for trial, outcome in found.items()
    }


def _of_living_sweeps(listing: Listing) -> frozenset[str]:
    """The runs whose sweep is there: its definition has told which trial they did, or that it is none of ours."""
    gone = listing.sweeps.gone
    names = {run: listed.handle.sweep_name for run, listed in listing.runs.items()}
    return frozenset(run for run, sweep in names.items() if sweep and str(sweep) not in gone)
