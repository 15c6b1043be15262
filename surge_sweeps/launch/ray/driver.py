"""The job on the cluster: `python -m surge_sweeps.launch.ray.driver LAUNCH_FOLDER` hands each task to a Ray worker.

Ray finds places for them and runs those again whose worker or node was lost. One that made room is handed over again;
how each ended is written to the launch's folder, where the launching machine looks.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.one_line import one_line
from surge_sweeps.launch.ray import task as worker
from surge_sweeps.launch.ray.board import Board
from surge_sweeps.launch.run_task import DONE, MADE_ROOM

POLL_SECONDS = 0.3


class _Job:
    """The tasks of a launch in Ray's hands."""

    def __init__(self, ray: ModuleType, launch: Launch) -> None:
        self._ray = ray
        self._launch = launch
        self.board = Board(launch)
        job = self.board.job()
        if job is None:
            raise SurgeError(f"{str(launch.folder)!r} was not handed to Ray.", "Launch again.")
        # A worker is kept for the next task: what needs a fresh process is the task's program, which is one.
        self._remote = ray.remote(max_calls=0, retry_exceptions=False, **job.task_options)(worker.run)
        self._ended: dict[int, TaskState] = {}
        self._waiting: dict[Any, int] = {}
        self._cancelled: set[int] = set()

    def run(self) -> None:
        """Return once every task has ended."""
        for task in range(len(self._launch.plan.tasks)):
            self._hand_over(task)
        while self._waiting:
            references = list(self._waiting)
            ready, _ = self._ray.wait(
                references, num_returns=len(references), timeout=POLL_SECONDS, fetch_local=True
            )
            for reference in ready:
                self._take_back(reference)
            if ready:
                self.board.write_ended(self._ended)
            self._cancel()

    def _hand_over(self, task: int) -> None:
        remote = self._remote.options(name=f"{self._launch.plan.launch_id}/{task}")
        self._waiting[remote.remote(str(self._launch.folder), task)] = task

    def _take_back(self, reference: Any) -> None:
        task = self._waiting.pop(reference)
        errors = self._ray.exceptions
        try:
            code = self._ray.get(reference)
        except errors.TaskCancelledError:
            code = worker.CANCELLED
        except errors.RayTaskError as error:
            self._ended[task] = TaskState("failed", _first_line(error.cause))
            return
        except errors.RayError as error:
            self._ended[task] = TaskState("failed", f"Ray gave it up: {_first_line(error)}")
            return
        if code == MADE_ROOM and not self.board.is_cancelled(task):
            self._hand_over(task)
        else:
            self._ended[task] = self._state(task, code)

    def _state(self, task: int, code: int) -> TaskState:
        end = self._launch.end_of(task)
        # A signal may have come after its last word.
        if code == DONE or (end is not None and end.exit_code == DONE):
            return TaskState("ended")
        if code in (worker.CANCELLED, MADE_ROOM):
            return TaskState("failed", "it was cancelled.")
        if end is not None and end.exit_code == code:
            return TaskState("failed", end.why or f"it ended with exit code {code}.")
        return TaskState("failed", _how(code))

    def _cancel(self) -> None:
        """Tasks that have begun see to their end themselves; the others are taken out of Ray's queue."""
        asked = self.board.cancelled(set(self._waiting.values())) - self._cancelled
        if not asked:
            return
        self._cancelled |= asked
        begun = self.board.started()
        for reference in [one for one, task in self._waiting.items() if task in asked - begun]:
            self._ray.cancel(reference)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return 0, whatever became of its tasks; 1 where none could be handed over."""
    (folder,) = sys.argv[1:] if arguments is None else arguments
    try:
        launch = Launch.read(Path(folder))
        ray = require("ray", "ray")
        # Which cluster is said by the job's environment.
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        job = _Job(ray, launch)
        _on_term(lambda: job.board.ask_cancel(None))
        job.run()
    except SurgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _on_term(cancel_all: Callable[[], None]) -> None:
    """`ray job stop` sends TERM: the tasks are asked to end, and the job does when they have."""
    asked = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    def watch() -> None:
        asked.wait()
        with suppress(SurgeError):
            cancel_all()

    threading.Thread(target=watch, name="surge-ray-cancel", daemon=True).start()
    signal.signal(signal.SIGTERM, handle)


def _how(code: int) -> str:
    if code >= 0:
        return f"its program ended with exit code {code}."
    names = {number.value: number.name for number in signal.Signals}
    return f"its program was killed by {names.get(-code, f'signal {-code}')}."


def _first_line(error: BaseException) -> str:
    first = one_line(next(iter(str(error).strip().splitlines()), ""))
    return first if isinstance(error, SurgeError) else f"{type(error).__name__}: {first}"


if __name__ == "__main__":
    sys.exit(main())
