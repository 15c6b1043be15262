"""A run that goes on where an earlier process of the same trial was stopped.

Which run that is: the one that MLFLOW_RUN_ID names, which is MLflow's own way to say it, and which a scheduler may set
to a run of any kind; else the newest run of the same trial that this tool left as one that made room. A run whose
process was killed is not taken up by itself, since nothing tells it from one that is still being written elsewhere.
Processes that are started for one trial at the same time do not share its run, see `claim`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from surge_sweeps.curves import RESULT_STATUSES
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.mlflow.artifact import HistoryArtifacts
from surge_sweeps.trackers.mlflow.buffer import BufferedRun
from surge_sweeps.trackers.mlflow.claim import check_free, claim
from surge_sweeps.trackers.mlflow.client import quoted
from surge_sweeps.trackers.mlflow.experiment import OpenExperiment
from surge_sweeps.trackers.mlflow.record import (
    TAG_KIND,
    TAG_PREEMPTED,
    TAG_STATUS,
    TAG_SWEEP_ID,
    TAG_TRIAL_ID,
    axis_metrics,
    params_text,
)
from surge_sweeps.trackers.stored_runs import as_status
from surge_sweeps.trackers.trial_runs import run_name

RUN_ID_VARIABLE = "MLFLOW_RUN_ID"


class ResumedRun(BufferedRun):
    """A run that a later process may go on with; implements `ResumableRun`.

    Args:
        experiment, run, config, artifacts, ended: see `BufferedRun`. logged: metric -> the last step that earlier
            processes logged of it; points up to there are passed over.
    """

    def __init__(
        self,
        experiment: OpenExperiment,
        run: Any,
        config: Mapping[str, Scalar],
        artifacts: HistoryArtifacts | None,
        ended: Callable[[str], None],
        logged: Mapping[str, int],
    ) -> None:
        super().__init__(experiment, run, config, artifacts, ended)
        self._logged = logged
        # A kill may have come between these and the status.
        self._has_axes = axis_metrics(config).keys() <= logged.keys()

    @property
    def logged_step(self) -> int:
        """See `ResumableRun.logged_step`."""
        return max(self._logged.values(), default=-1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `RunWriter.log`. Each metric goes on after its own last step: a kill may have parted those of a step."""
        new = {name: v for name, v in values.items() if name not in self._logged or step > self._logged[name]}
        if new or self._done:
            super().log(step, new)

    def preempt(self) -> None:
        """See `ResumableRun.preempt`. Until it goes on the run counts as one that was cut off."""
        if not self._done:
            self._experiment.write_batch(self._run_id, self._points, {}, {TAG_PREEMPTED: "yes"})
            self._points = []
            self._experiment.end_run(self._run_id, "KILLED")
            self._close()


def open_resumable(
    experiment: OpenExperiment,
    trial_id: str,
    config: Mapping[str, Scalar],
    artifacts: HistoryArtifacts,
    ended: Callable[[str], None],
) -> ResumedRun:
    """The run to go on with, or a new one where there is none; its parameters are written.

    Raises:
        TrackerError: MLFLOW_RUN_ID names a run that has a result, or is not this trial's, or is not there; or another
            process goes on with the run.
    """
    params = params_text(config, trial_id, None)
    given = os.environ.get(RUN_ID_VARIABLE)

    def find() -> Any | None:
        run = _given_run(experiment, given) if given else _preempted_run(experiment, trial_id)
        if run is not None:
            _check_params(str(run.info.run_id), run.data.params, _of_run(run, params))
        return run

    def take(run: Any) -> None:
        experiment.set_running(run.info.run_id)
        experiment.remove_tags(run.info.run_id, [TAG_PREEMPTED, TAG_STATUS])

    run = claim(experiment, find, take)
    if run is None:
        tags = {TAG_KIND: "trial", TAG_TRIAL_ID: trial_id}
        run = experiment.create_run(tags, run_name(config, trial_id))
        experiment.write_batch(run.info.run_id, [], params)
        return ResumedRun(experiment, run, config, artifacts, ended, {})
    run_id = str(run.info.run_id)
    params = _of_run(run, params)
    missing = {name: text for name, text in params.items() if name not in run.data.params}
    tags = {TAG_KIND: "trial", TAG_TRIAL_ID: params["trial_id"]}
    experiment.write_batch(run_id, [], missing, tags)
    # The public dictionary of newest values lacks their steps.
    logged = {point.key: int(point.step) for point in run.data._metric_objs or []}
    return ResumedRun(experiment, run, config, None if logged else artifacts, ended, logged)


def _given_run(experiment: OpenExperiment, run_id: str) -> Any:
    run = experiment.read_run(run_id)
    unset = f"Unset {RUN_ID_VARIABLE} to train the trial in a run of its own."
    if run.info.lifecycle_stage != "active":
        raise TrackerError(f"{RUN_ID_VARIABLE} names the run {run_id!r}, which is deleted.", unset)
    if run.info.experiment_id != experiment.experiment_id:
        raise TrackerError(
            f"{RUN_ID_VARIABLE} names the run {run_id!r}, which is not of the experiment {experiment.project!r}.",
            f"Name its experiment with --project. {unset}",
        )
    status = as_status(run.data.tags.get(TAG_STATUS))
    if status in RESULT_STATUSES:
        raise TrackerError(
            f"{RUN_ID_VARIABLE} names the run {run_id!r}, which has its result: {status}.", unset
        )
    return run


def _preempted_run(experiment: OpenExperiment, trial_id: str) -> Any | None:
    found = experiment.search(f"tags.`{TAG_KIND}` = 'trial' AND tags.`{TAG_TRIAL_ID}` = {quoted(trial_id)}")
    own = [run for run in found if TAG_STATUS not in run.data.tags and TAG_SWEEP_ID not in run.data.tags]
    for run in own:
        check_free(run)
    left = [run for run in own if run.data.tags.get(TAG_PREEMPTED) == "yes"]
    return left[-1] if left else None


def _of_run(run: Any, params: Mapping[str, str]) -> dict[str, str]:
    """The parameters with the trial's id as a launcher gave it, maybe of more of them than this process was told."""
    return {**params, "trial_id": run.data.tags.get(TAG_TRIAL_ID, params["trial_id"])}


def _check_params(run_id: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    for name, text in ours.items():
        if name in theirs and not _same(theirs[name], text):
            raise TrackerError(
                f"the MLflow run {run_id!r} has {name}={theirs[name]!r}, and this trial has {text!r}.",
                f"A {RUN_ID_VARIABLE} goes with one trial: unset it, or start the trial of that run.",
            )


def _same(one: str, other: str) -> bool:
    try:
        return one == other or float(one) == float(other) or math.isnan(float(one) + float(other))
    except ValueError:
        return False
