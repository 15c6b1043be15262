"""The program of a task: started, told to make room when the task is, and never left behind.

It dies with the task: a task that is killed leaves no program at work that nobody knows of.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.plan import Plan
from surge_sweeps.launch.programs import TETHER, found
from surge_sweeps.training.preemption import CHECKPOINT_DIR, CHECKPOINT_VARIABLE

#: What engines send to a task that has to make room: before preemption, before a time limit, on a cancel.
ROOM_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR2", "SIGINT") if hasattr(signal, name)
)
#: How long an engine may take to pass a signal on.
_ASK_SECONDS = 30.0


class Room:
    """Whether the task was asked to make room; passes it on to the program at work."""

    def __init__(self) -> None:
        self.is_asked = False
        self._child: subprocess.Popen[bytes] | None = None
        self._asked_by: Sequence[str] = ()

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], asked_by: Sequence[str] = ()
    ) -> int:
        """Run a program to its end and return its exit code, negative where a signal ended it.

        Args:
            asked_by: the command that asks the program to make room, where a TERM to it would not do.

        Raises:
            SurgeError: it cannot be started.
        """
        try:
            child = subprocess.Popen(
                [*TETHER, str(os.getpid()), *found(command, environment, Path.cwd())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise SurgeError(f"{command[0]!r} cannot be started: {error.strerror or error}.") from error
        self._child, self._asked_by = child, asked_by
        try:
            if self.is_asked:
                self._ask_child()
            return child.wait()
        finally:
            self._child = None
            # Reached with a living child only where this process itself is thrown out of its wait.
            if child.poll() is None:
                child.kill()
                child.wait()

    def ask(self) -> None:
        """Ask for it; the program that is at work is asked too."""
        self.is_asked = True
        self._ask_child()

    def _ask_child(self) -> None:
        if self._child is None:
            return
        if self._asked_by:
            subprocess.run(self._asked_by, timeout=_ASK_SECONDS, check=False, stdin=subprocess.DEVNULL)
            return
        # TERM whatever came: torchrun passes that on to its processes and dies of USR2.
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)


@contextmanager
def room_asked_by_signals() -> Iterator[Room]:
    """Turn the engine's signals into a `Room` that is asked for while the block runs."""
    room = Room()
    if threading.current_thread() is not threading.main_thread():
        yield room
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        room.ask()

    before = {number: signal.signal(number, handle) for number in ROOM_SIGNALS}
    try:
        yield room
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def checkpoint_folder(plan: Plan, task: int) -> Path:
    """Where the program of a task keeps its states.

    It is of the task, not of the trial: the next launch opens another run, which a program that went on somewhere in
    the middle would leave half empty.
    """
    folder = Path(os.environ.get(CHECKPOINT_VARIABLE) or plan.working_folder / CHECKPOINT_DIR)
    return folder.absolute() / f"{plan.launch_id}-{task}"
