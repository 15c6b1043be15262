"""What a Ray worker does with one task: runs its program, sees to it that it is asked before it is ended, and waits.

The program ends with its worker: it is asked to save its state when the worker is lost, however that is, and Ray's next
try of the same task waits until it has gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.programs import TETHER
from surge_sweeps.launch.ray.board import Board
from surge_sweeps.launch.run_task import MADE_ROOM

#: What `run` returns for a task whose end was asked for before it had ended.
CANCELLED = -1000
#: How long a program may take to save its state after TERM.
GRACE_SECONDS = 60.0
POLL_SECONDS = 0.1
_SECONDS_PER_MINUTE = 60.0


def run(folder: str, task: int) -> int:
    """Run a task to its end, in a Ray worker; returns the exit code of `run_task`, or `CANCELLED`.

    Raises:
        SurgeError: this node does not see the launch, or a process of an earlier try lives on.
    """
    try:
        launch = Launch.read(Path(folder))
    except SurgeError as error:
        raise SurgeError(
            f"the node {os.uname().nodename} does not see the launch: {error.what}",
            "Launch from a folder that every node of the Ray cluster sees under the same name.",
        ) from error
    board = Board(launch)
    lock = _locked(board, task)
    if lock is None:
        return CANCELLED
    try:
        board.mark_started(task)
        return _Program(launch, task, lock).wait(lambda: board.is_cancelled(task))
    finally:
        os.close(lock)


def _locked(board: Board, task: int) -> int | None:
    """The task's lock once it is free; None where the end of the task is asked for meanwhile."""
    deadline = time.monotonic() + 2 * GRACE_SECONDS
    while not board.is_cancelled(task):
        lock = board.lock(task)
        if lock is not None:
            return lock
        if time.monotonic() > deadline:
            raise SurgeError(
                "a process of an earlier try of the task lives on.", "Look for it on the nodes, and end it."
            )
        time.sleep(POLL_SECONDS)
    return None


class _Program:
    """A task's program at work, in a session of its own, which holds the task's lock as long as it lives."""

    def __init__(self, launch: Launch, task: int, lock: int) -> None:
        limit = launch.plan.resources.time_limit_minutes
        self._deadline = None if limit is None else time.monotonic() + _SECONDS_PER_MINUTE * limit
        self._asked_s: float | None = None
        log = launch.log_file(task)
        log.parent.mkdir(parents=True, exist_ok=True)
        # Ray's later versions leave all GPUs in sight of a task that was given none.
        hidden = {} if launch.plan.resources.gpus_per_task else {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "surge_sweeps.launch.run_task", str(launch.folder), str(task)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*TETHER, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | hidden,
                start_new_session=True,
                pass_fds=(lock,),
            )

    def wait(self, is_cancelled: Callable[[], bool]) -> int:
        """Its exit code once it and all that it started have ended."""
        was_cancelled = False
        try:
            while (code := self._process.poll()) is None:
                was_cancelled = was_cancelled or is_cancelled()
                is_late = self._deadline is not None and time.monotonic() > self._deadline
                if was_cancelled or is_late:
                    self._ask()
                time.sleep(POLL_SECONDS)
        finally:
            # Also where Ray throws this out of its wait.
            self._end_rest()
        if was_cancelled and code != 0:
            return CANCELLED
        # Asked before it could listen: it has lost nothing.
        return MADE_ROOM if self._asked_s is not None and code == -signal.SIGTERM else code

    def _ask(self) -> None:
        if self._asked_s is None:
            self._asked_s = time.monotonic()
            self._process.terminate()
        elif time.monotonic() - self._asked_s > GRACE_SECONDS:
            self._signal(signal.SIGKILL)

    def _end_rest(self) -> None:
        """What the program left behind in its group is asked, waited for, and killed."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while self._is_anyone_there() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 2)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _is_anyone_there(self) -> bool:
        # Collects its own exit first: an uncollected process still counts as one of its group.
        self._process.poll()
        return self._signal(0)

    def _signal(self, number: int) -> bool:
        """Whether there was a process of the group to send it to."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
            return True
        return False
