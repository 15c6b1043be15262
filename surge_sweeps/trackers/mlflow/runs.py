"""What both ways of reading MLflow share: its statuses, its infinities, and its experiments' names.

The tags that the writer keeps (ids, status, where a run started) are put back among the parameters here, so that
nothing further on knows of tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.curve_cache import Series
from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError, did_you_mean
from surge_sweeps.trackers.mlflow.record import (
    TAG_PARENT,
    TAG_STATUS,
    TAG_SUMMARY,
    TAG_SWEEP_ID,
    TAG_TRIAL_ID,
    TAG_WHOLE,
)
from surge_sweeps.trackers.stored_runs import STUDY_DIRECTION, LatestPoint, StoredRun, as_status

#: MLflow stores plus and minus infinity as these.
STORED_INFINITY = 1.797e308
_LISTED_EXPERIMENTS = 20

_ENDED: dict[str, Status] = {"FINISHED": "finished", "FAILED": "crashed", "KILLED": "crashed"}
#: Settings that are kept in tags: by the writer, and by Optuna.
_FROM_TAGS = {
    "trial_id": TAG_TRIAL_ID,
    "sweep_id": TAG_SWEEP_ID,
    "start_checkpoint": f"{TAG_SUMMARY}start_checkpoint",
    "start_loss": f"{TAG_SUMMARY}start_loss",
    STUDY_DIRECTION: STUDY_DIRECTION,
}


def make_run(
    run: str,
    status: str,
    start_ms: int | None,
    end_ms: int | None,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    metrics: Mapping[str, LatestPoint],
) -> StoredRun:
    """A run from MLflow's own fields.

    >>> make_run("a", "FAILED", 0, 1, {"lr": "0.1"}, {"surge.trial_id": "t1"}, {}).params
    {'trial_id': 't1', 'lr': '0.1'}
    """
    from_tags = {name: tags[tag] for name, tag in _FROM_TAGS.items() if tag in tags}
    ended = _ENDED.get(status, "running")
    if TAG_WHOLE in tags and ended != "running":
        start_ms = None
    return StoredRun(
        run,
        as_status(tags.get(TAG_STATUS)),
        ended,
        start_ms,
        end_ms,
        from_tags | dict(params),
        metrics,
        failed=status == "FAILED",
        parent=tags.get(TAG_PARENT),
    )


def is_empty_trial(run: StoredRun) -> bool:
    """Whether it is a trial of ours without a result and without parameters, as one is that was killed at its start.

    >>> is_empty_trial(make_run("a", "RUNNING", 0, None, {}, {"surge.trial_id": "t1", "surge.status": "crashed"}, {}))
    True
    >>> is_empty_trial(make_run("a", "FAILED", 0, 1, {}, {}, {}))
    False
    """
    is_trial = "trial_id" in run.params and run.params.keys() <= _FROM_TAGS.keys()
    return is_trial and run.status not in RESULT_STATUSES


def restore_infinities(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values with what MLflow stores for infinity turned back into it; a copy.

    >>> restore_infinities(np.array([1.0, 1.7976931348623157e308, -1.7976931348623157e308]))
    array([  1.,  inf, -inf])
    """
    return np.where(np.abs(value) >= STORED_INFINITY, np.copysign(np.inf, value), value)


def in_order(
    run: str, step: NDArray[np.float64], value: NDArray[np.float64], timestamp: NDArray[np.int64]
) -> Series:
    """A run's points by step, then by time, then by value with NaN last: the same whatever order a store gives.

    No store tells which of two points of one step and one millisecond was logged last. Whoever takes the last one
    takes the greater, as MLflow's own newest value does, and no NaN stays hidden.

    >>> in_order("a", np.array([2.0, 1, 1]), np.array([5.0, np.nan, 4]), np.array([7, 8, 8])).value
    array([ 4., nan, 5.])
    """
    rows = np.array([len(step)], dtype=np.int64)
    if len(step) > 1 and not (np.diff(step) > 0).all():
        order = np.lexsort((value, timestamp, step))
        step, value, timestamp = step[order], value[order], timestamp[order]
    return Series((run,), rows, step, value, timestamp)


def unknown_experiment(project: str, active: Sequence[str], deleted_id: str | None) -> SurgeError:
    """The error for an experiment that is deleted or does not exist; names the nearest of those that do.

    >>> str(unknown_experiment("digit", ["other", "digits"], None))
    "unknown MLflow experiment 'digit'. Valid, nearest first: digits, other. Did you mean 'digits'?"
    """
    if deleted_id is not None:
        return TrackerError(
            f"the MLflow experiment {project!r} is deleted.",
            f"Restore it with: mlflow experiments restore --experiment-id {deleted_id}, or choose another project.",
        )
    return UnknownExperimentError(project, active)


class UnknownExperimentError(UnknownNameError):
    """There is no experiment of that name; the nearest of those that there are come first, and not all are shown."""

    def __init__(self, project: str, active: Sequence[str]) -> None:
        super().__init__("MLflow experiment", project, active)
        asked = project.casefold()
        nearest = sorted(self.valid, key=lambda name: -SequenceMatcher(None, asked, name.casefold()).ratio())
        shown = ", ".join(nearest[:_LISTED_EXPERIMENTS])
        more = len(nearest) - _LISTED_EXPERIMENTS
        end = f" and {more} more" if more > 0 else ""
        SurgeError.__init__(
            self, self.what, f"Valid, nearest first: {shown or 'none'}{end}.{did_you_mean(project, nearest)}"
        )


def refuse_axis(axis: str | None) -> None:
    """Points in MLflow carry their step.

    Raises:
        SurgeError: another metric is asked for as the step.
    """
    if axis is not None:
        raise SurgeError(
            f"points in MLflow carry their own step, and {axis!r} is asked for instead.",
            "Leave --step-column away.",
        )
