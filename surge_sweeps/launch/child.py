"""The program of a task: started, told to make room when the task is, and never left behind.

It dies with the task: a task that is killed leaves no program at work that nobody knows of.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from surge_sweeps.errors import SurgeError

#: What engines send to a task that has to make room: before preemption, before a time limit, on a cancel.
ROOM_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR2", "SIGINT") if hasattr(signal, name)
)
#: Ends the program with its task: run without the package, as a file.
_TETHER = (sys.executable, "-I", str(Path(__file__).with_name("tether.py")))


class Room:
    """Whether the task was asked to make room; passes it on to the program at work."""

    def __init__(self) -> None:
        self.is_asked = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a program to its end and return its exit code, negative where a signal ended it.

        Raises:
            SurgeError: it cannot be started.
        """
        try:
            child = subprocess.Popen(
                [*_TETHER, str(os.getpid()), *_found(command, environment)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise SurgeError(f"{command[0]!r} cannot be started: {error.strerror or error}.") from error
        self._child = child
        try:
            if self.is_asked:
                _send(child)
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
        if self._child is not None:
            _send(self._child)


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


def _send(child: subprocess.Popen[bytes]) -> None:
    # TERM whatever came: torchrun passes that on to its processes and dies of USR2.
    with suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)


def _found(command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command with its program as a path: what ties it to the task does not look programs up."""
    name = command[0]
    if os.sep in name:
        return [str(Path(name).absolute()), *command[1:]]
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder) / name
        if path.is_file() and os.access(path, os.X_OK):
            return [str(path.absolute()), *command[1:]]
    raise SurgeError(
        f"there is no program {name!r} on the path.", "Check 'program' and 'command' of the sweep."
    )
