"""How the tasks of a launch on this machine stand: one board that its threads write and the launching process reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from surge_sweeps.curves import Status
from surge_sweeps.launch.base import IN_FLIGHT, TaskState
from surge_sweeps.launch.scripts import MAX_FIRST_FAILURES

_CANCELLED = "it was cancelled before it began"
_MIDWAY = "it was cancelled midway"


class Board:
    """States of tasks, by number; every method may be called from any thread.

    Args:
        tasks: how many. on_end: called with each task that has ended and how, in the thread that tells it.

    Attributes:
        results: trial id -> how it ended, of the trials that this launch brought to a result.
    """

    def __init__(
        self, tasks: int, on_end: Callable[[int, TaskState], object] = lambda task, state: None
    ) -> None:
        self._on_end = on_end
        self._lock = threading.Lock()
        self._states = dict.fromkeys(range(tasks), TaskState("waiting"))
        self._cancelled: set[int] = set()
        self._error: BaseException | None = None
        self.results: dict[str, Status] = {}

    @property
    def states(self) -> Mapping[int, TaskState]:
        """How the tasks stand now."""
        with self._lock:
            return dict(self._states)

    def take(self, tasks: Sequence[int]) -> int | None:
        """The next of some tasks that waits, which now runs; None if none does."""
        with self._lock:
            task = next((task for task in tasks if self._states[task].state == "waiting"), None)
            if task is not None:
                self._states[task] = TaskState("running")
            return task

    def again(self, task: int) -> None:
        """A task that ran made room, and waits again; one that was cancelled has ended."""
        with self._lock:
            is_over = task in self._cancelled
            self._states[task] = TaskState("failed", _MIDWAY) if is_over else TaskState("waiting")

    def ended(self, task: int, results: Mapping[str, Status]) -> None:
        """Every trial of a task has a result."""
        with self._lock:
            self.results.update(results)
            self._states[task] = state = TaskState("ended")
        self._on_end(task, state)

    def failed(self, task: int, why: str) -> None:
        """A task has ended without a result of every trial of it."""
        with self._lock:
            state = TaskState("failed", _MIDWAY if task in self._cancelled else why)
            self._states[task] = state
        self._on_end(task, state)

    def cancel(self, tasks: Collection[int] | None) -> None:
        """End some tasks, or all: those that wait at once; those that run see it by `is_cancelled`."""
        with self._lock:
            self._cancel(self._states if tasks is None else tasks)

    def is_cancelled(self, task: int) -> bool:
        """Whether a task that runs is to end."""
        with self._lock:
            return task in self._cancelled

    def give_up(self, error: BaseException) -> None:
        """End all tasks because of an error, which `check` then raises, once; after a cancel of all it is not."""
        with self._lock:
            if not self._cancelled.issuperset(self._in_flight()):
                self._error = self._error or error
            self._cancel(self._states)

    def check(self) -> None:
        """Raise the error for which the launch was given up, the first time."""
        with self._lock:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def hopeless(self) -> str:
        """What the first tasks failed of, if the first few all did: the others would go on doing so; else empty."""
        with self._lock:
            failed = [
                state.why
                for task, state in self._states.items()
                if state.state == "failed" and task not in self._cancelled
            ]
            has_worked = bool(self.results)
        if has_worked or len(failed) < MAX_FIRST_FAILURES:
            return ""
        return f"the first {len(failed)} trials all failed: {failed[0]}."

    def _cancel(self, tasks: Collection[int]) -> None:
        wanted = set(tasks) & set(self._in_flight())
        self._cancelled |= wanted
        self._drop(wanted)

    def _drop(self, tasks: Collection[int]) -> None:
        for task in tasks:
            if self._states[task].state == "waiting":
                self._states[task] = TaskState("failed", _CANCELLED)

    def _in_flight(self) -> list[int]:
        return [task for task, state in self._states.items() if state.state in IN_FLIGHT]
