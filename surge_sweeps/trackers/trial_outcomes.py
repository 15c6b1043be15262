"""What became of planned trials, told from the runs of a project: the same for every tracker.

A trial may have several runs: one that crashed and one that finished later. The best of them decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.trackers.base import EXAMPLES
from surge_sweeps.trackers.stored_runs import StoredRun
from surge_sweeps.trackers.trial_runs import missing_metric, script_status

_RANK: Mapping[Status, int] = {**dict.fromkeys(RESULT_STATUSES, 0), "running": 1, "crashed": 2, "stale": 3}


class TrialOutcome(NamedTuple):
    """How a trial stands.

    Attributes:
        status: of its best run. run: the store's id of that run. problem: why a run that ended well is no result.
        is_preempted: the run made room and waits to be taken up by the next agent; its status is then `crashed`.
        start_ms, end_ms: of the run, milliseconds since 1970, None where unknown. examples: seen by its newest point,
            NaN where it does not tell.
    """

    status: Status
    run: str
    problem: str = ""
    is_preempted: bool = False
    start_ms: int | None = None
    end_ms: int | None = None
    examples: float = math.nan

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


def _outcome(run: StoredRun, loss: str) -> TrialOutcome:
    examples = run.metrics[EXAMPLES].value if EXAMPLES in run.metrics else math.nan
    status, problem = _status(run, loss)
    return TrialOutcome(status, run.run, problem, start_ms=run.start_ms, end_ms=run.end_ms, examples=examples)


def _status(run: StoredRun, loss: str) -> tuple[Status, str]:
    """What became of a run, and why one that ended well is no result."""
    if run.recorded is not None or not (run.failed or run.ended == "finished"):
        return run.status, ""
    # A value that the store does not tell counts as finite: the program ended well, and its curve tells the rest.
    newest = {name: point.value if point.is_known else 0.0 for name, point in run.metrics.items()}
    status = script_status(1 if run.failed else 0, newest, loss)
    return status, "" if run.failed or status != "crashed" else missing_metric(loss, run.metrics)
