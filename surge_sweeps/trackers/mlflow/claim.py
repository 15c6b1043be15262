"""One process at a time goes on with a run that was left to be, without a lock, which MLflow has not.

A process marks the run with a text of its own, waits, and looks whether the mark is still there: of several that start
together the last to mark it goes on, and the others find its mark. This holds where the store takes less than
`SETTLE_S` to answer two requests; a process for which it took longer does not go on. A process that comes when the
run is marked and running is refused, unless the run has been silent for `SILENT_S` or the process that marked it ran
on this machine and is gone. So two processes share a run only if one of them was stopped by the system for seconds
just before it marked the run, or wrote nothing for `SILENT_S` and yet lives.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.experiment import OpenExperiment, now_ms
from surge_sweeps.trackers.mlflow.processes import is_alive
from surge_sweeps.trackers.mlflow.record import TAG_CLAIM, TAG_PREEMPTED

#: Seconds between the mark and the look at it.
SETTLE_S = 3.0
#: Seconds without a point after which a run that shows as running counts as left: points are sent every 15 s.
SILENT_S = 60.0

_HINT = (
    "One process does a trial: end this one or the other. If the other has ended, call again in a minute; it then goes "
    "on where the run stopped."
)


class Claim(NamedTuple):
    """Who goes on with a run: a text of its own, the machine, the process, and since when (ms since 1970).

    >>> Claim.parse(Claim("a", "node1", 7, 1000).text()) == Claim("a", "node1", 7, 1000)
    True
    >>> Claim.parse("something else") is None
    True
    """

    mark: str
    machine: str
    process: int
    since_ms: int

    @classmethod
    def new(cls) -> Claim:
        """A claim of this process."""
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid(), now_ms())

    @classmethod
    def parse(cls, text: str) -> Claim | None:
        """The claim that `text` wrote; None for any other text."""
        parts = text.split(" ")
        if len(parts) != 4 or not (parts[2].isdecimal() and parts[3].isdecimal()):
            return None
        return cls(parts[0], parts[1], int(parts[2]), int(parts[3]))

    def text(self) -> str:
        """As it is kept in a tag."""
        return f"{self.mark} {self.machine} {self.process} {self.since_ms}"

    @property
    def is_of_the_dead(self) -> bool:
        """Whether its process ran on this machine and is gone, or is this very process, whose earlier run has ended."""
        if self.machine != socket.gethostname():
            return False
        return self.process == os.getpid() or not is_alive(self.process)


def check_free(run: Any) -> None:
    """Raises `TrackerError` where another process goes on with the run now, as far as the run tells."""
    other = Claim.parse(run.data.tags.get(TAG_CLAIM, ""))
    if other is None or run.info.status != "RUNNING" or other.is_of_the_dead:
        return
    newest_ms = max([other.since_ms, *(int(point.timestamp) for point in run.data._metric_objs or [])])
    if now_ms() - newest_ms < 1000 * SILENT_S:
        raise _taken(str(run.info.run_id), other)


def claim(
    experiment: OpenExperiment, find: Callable[[], Any | None], take: Callable[[Any], None]
) -> Any | None:
    """The run to go on with, for this process alone; None where there is none.

    Args:
        experiment: where the run is. find: reads the run from the store. take: marks it as one that goes on, and no
            longer as one that was left to be.

    Raises:
        TrackerError: another process goes on with it, or the store is too slow to tell.
    """
    experiment.experiment_id  # noqa: B018  # opens the store, which takes seconds
    asked_s = time.monotonic()
    run = find()
    if run is None:
        return None
    check_free(run)
    run_id, mine = str(run.info.run_id), Claim.new()
    experiment.write_batch(run_id, [], {}, {TAG_CLAIM: mine.text()}, patience_s=0.0)
    if time.monotonic() - asked_s > SETTLE_S:
        raise TrackerError(
            f"the MLflow store is too slow to tell whether another process goes on with the run {run_id!r}.",
            "Call the same command again.",
        )
    take(run)
    # A run that a launcher has just made waits for one process only.
    if run.data.metrics or TAG_PREEMPTED in run.data.tags:
        time.sleep(SETTLE_S)
    last = Claim.parse(experiment.read_run(run_id).data.tags.get(TAG_CLAIM, ""))
    if last != mine:
        raise _taken(run_id, last)
    return run


def _taken(run_id: str, other: Claim | None) -> TrackerError:
    where = "" if other is None else f" (process {other.process} on {other.machine!r})"
    return TrackerError(
        f"another process{where} goes on with the MLflow run {run_id!r} of this trial.", _HINT
    )
