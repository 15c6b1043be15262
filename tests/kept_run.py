"""A run as a store keeps it, for tests of training that need no tracker."""

from __future__ import annotations

from collections.abc import Mapping

from surge_sweeps.curves import Status
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.training.preemption import StopRequest


class KeptRun:
    """One run, whoever fills it.

    Attributes:
        rows: step -> metric -> value. ends: how each process left it. summary: of the one that finished it.
    """

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.ends: list[str] = []
        self.summary: dict[str, Scalar] = {}

    def open(self) -> OpenedRun:
        """The run for one process."""
        return OpenedRun(self)


class OpenedRun:
    """The run in one process; implements `ResumableRun`."""

    run_id = "given123"

    def __init__(self, kept: KeptRun) -> None:
        self.kept = kept
        self.logged_step = max(kept.rows, default=-1)
        self.done = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a point that is new."""
        if step > self.logged_step:
            assert step not in self.kept.rows
            self.kept.rows[step] = dict(values)

    def finish(self, status: Status, summary: Mapping[str, Scalar] | None = None) -> None:
        """Close it for good."""
        if not self.done:
            self.kept.summary = dict(summary or {})
        self._end(status)

    def preempt(self) -> None:
        """Close it as one that made room."""
        self._end("preempted")

    def _end(self, how: str) -> None:
        if not self.done:
            self.kept.ends.append(how)
        self.done = True


class StopAfter(StopRequest):
    """Asks for room after some looks at it, one a step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self.steps -= 1
        return self.steps < 0
