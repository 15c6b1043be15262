"""What became of a run, from W&B's word for its state and from the status that this tool wrote."""

from __future__ import annotations

from collections.abc import Mapping

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.trackers.stored_runs import as_status
from surge_sweeps.trackers.trial_runs import script_status

#: States of runs that go on or that the server will start again; and those that ended.
GOING_ON = ("running", "pending", "preempting", "preempted")
FAILED = "failed"
FINISHED = "finished"


def recorded_status(text: str | None, state: str) -> Status | None:
    """The status that this tool wrote, unless the run went on since, as after a resume.

    The writer's last act is to end the run, well where there is a result. One that was killed just before that is
    taken for crashed, though it is whole: its trial is done again, which costs time and no truth.

    >>> recorded_status("finished", "finished"), recorded_status("diverged", "failed")
    ('finished', 'diverged')
    >>> recorded_status("finished", "crashed")
    """
    recorded = as_status(text)
    if recorded not in RESULT_STATUSES or state == FINISHED:
        return recorded
    # A script that fails as it diverges is a result too.
    return recorded if state == FAILED and recorded != "finished" else None


def ended_status(state: str, newest: Mapping[str, float | None]) -> Status:
    """What became of a run, from W&B's word for it.

    A program may stop with an error at its first NaN: that is a result of its learning rate, no crash. The loss of its
    training batches tells; any other loss is for whoever knows which one is read, see `StoredRun.failed`.

    >>> ended_status("failed", {"train/loss": float("nan")}), ended_status("failed", {"train/loss": 1.0})
    ('diverged', 'crashed')
    >>> ended_status("preempted", {})
    'running'
    """
    if state in GOING_ON:
        return "running"
    if state == FINISHED:
        return "finished"
    known = {name: value for name, value in newest.items() if value is not None}
    return script_status(1 if state == FAILED else None, known, loss="")
