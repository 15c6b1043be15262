"""Runs of an engine's tasks: many processes of one sweep at once, each of which may be started again.

A run carries the name of its task. An engine starts a task again only once its process is gone, so the task goes on
with its own run at once, however that was left: made room, killed, or marked as crashed by a launch meanwhile. Runs of
other tasks are never touched, and of the sweep's parent nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from surge_sweeps.curves import RESULT_STATUSES
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.busy import is_busy
from surge_sweeps.trackers.mlflow.artifact import HistoryArtifacts
from surge_sweeps.trackers.mlflow.client import quoted
from surge_sweeps.trackers.mlflow.experiment import OpenExperiment, now_ms
from surge_sweeps.trackers.mlflow.record import (
    TAG_KIND,
    TAG_OWNER,
    TAG_PARENT,
    TAG_PREEMPTED,
    TAG_STATUS,
    TAG_SWEEP_ID,
    TAG_TAKEN_UP,
    TAG_TRIAL_ID,
    params_text,
)
from surge_sweeps.trackers.mlflow.resumed import ResumedRun
from surge_sweeps.trackers.stored_runs import as_status
from surge_sweeps.trackers.trial_runs import run_name


def trial_tags(parent: str, sweep_id: str, trial_id: str, owner: str = "") -> dict[str, str]:
    """What every run of a sweep's trial is tagged with.

    >>> trial_tags("p1", "s1", "t1")["surge.trial_id"], trial_tags("p1", "s1", "t1", "launch/7")["surge.owner"]
    ('t1', 'launch/7')
    """
    tags = {TAG_KIND: "trial", TAG_TRIAL_ID: trial_id, TAG_SWEEP_ID: sweep_id, TAG_PARENT: parent}
    return tags | ({TAG_OWNER: owner} if owner else {})


def owned_run(experiment: OpenExperiment, tags: Mapping[str, str], name: str) -> Any:
    """The run that a task left open, marked as going on, or a new one; as MLflow's client returns it.

    Args:
        tags: as `trial_tags` gives them with an owner. name: of a new run.
    """
    identity = [f"tags.`{tag}` = {quoted(tags[tag])}" for tag in (TAG_KIND, TAG_OWNER, TAG_TRIAL_ID)]
    found = experiment.search(" AND ".join(identity))
    left = [run for run in found if as_status(run.data.tags.get(TAG_STATUS)) not in RESULT_STATUSES]
    if not left:
        return experiment.create_run(tags, name)
    run = left[-1]
    if run.info.status != "RUNNING":
        experiment.set_running(run.info.run_id)
    # Its times are those of the earlier process until it logs.
    experiment.write_batch(run.info.run_id, [], {}, {TAG_TAKEN_UP: str(now_ms())})
    ended = [tag for tag in (TAG_PREEMPTED, TAG_STATUS) if tag in run.data.tags]
    if ended:
        experiment.remove_tags(run.info.run_id, ended)
    return run


def is_busy_run(run: Any, ended: Collection[str]) -> bool:
    """Whether a run without a status is to be taken for one that its task is at work on, or will go on with.

    Args:
        run: as MLflow's client lists it. ended: see `busy`.
    """
    tags = run.data.tags
    # One that was cut off says that it has ended, though without a result.
    if run.info.status != "RUNNING" and TAG_PREEMPTED not in tags:
        return False
    taken_up = tags.get(TAG_TAKEN_UP, "")
    stamps = [run.info.start_time or 0, run.info.end_time or 0, int(taken_up) if taken_up.isdecimal() else 0]
    return is_busy(
        tags.get(TAG_OWNER, ""),
        [*stamps, *(int(point.timestamp) for point in run.data._metric_objs or [])],
        ended,
    )


def open_owned(
    experiment: OpenExperiment,
    tags: Mapping[str, str],
    config: Mapping[str, Scalar],
    artifacts: HistoryArtifacts,
    ended: Callable[[str], None],
) -> ResumedRun:
    """A task's run, open for writing; its parameters are written.

    Raises:
        TrackerError: a name or a value that MLflow refuses, or the store stays away.
    """
    trial_id = tags[TAG_TRIAL_ID]
    params = params_text(config, trial_id, tags[TAG_SWEEP_ID])
    run = owned_run(experiment, tags, run_name(config, trial_id))
    # What the task's earlier process was called with stays, were it another split of the batch: MLflow keeps it.
    missing = {name: text for name, text in params.items() if name not in run.data.params}
    if missing:
        experiment.write_batch(run.info.run_id, [], missing)
    # The public dictionary of newest values lacks their steps.
    logged = {point.key: int(point.step) for point in run.data._metric_objs or []}
    return ResumedRun(experiment, run, config, None if logged else artifacts, ended, logged)


def not_launched(project: str, sweep_id: str) -> TrackerError:
    """The error for a task whose sweep has no parent run: a task makes none."""
    return TrackerError(
        f"the project {project!r} has no sweep {sweep_id!r}.",
        "Open the sweep before its trials: `surge-sweep launch` does, in the same store (--uri, MLFLOW_TRACKING_URI).",
    )
