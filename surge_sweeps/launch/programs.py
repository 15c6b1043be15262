"""A program that runs on this machine: its process group, what it printed, and how it is ended with all it started.

It dies with this process, on Linux also where that is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.stop import POLL_SECONDS

#: How long a program may take to save and to end after TERM; what then still lives is killed.
TERM_TIMEOUT_SECONDS = 20.0
#: torchrun waits 30 s for processes that do not end at TERM, and they are in sessions of their own: killed before that
#: itself, it would leave them behind.
TORCHRUN_ENVIRONMENT = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "15"}
#: Lines of a failed program's output shown in the message.
TAIL_LINES = 3
TAIL_BYTES = 4096

#: Ends the program with this process: run without the package, as a file.
TETHER = (sys.executable, "-I", str(Path(__file__).with_name("tether.py")))


class Program:
    """A started program, leader of a process group of its own.

    Args:
        command: its arguments, the first a path or a name on the path. environment: all of it. folder: where it runs.
        log: what it prints goes there. held: an open file that it keeps open for as long as it lives.

    Raises:
        SurgeError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        held: int | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [*TETHER, str(os.getpid()), *found(command, environment, folder)],
                    env=dict(environment),
                    cwd=folder,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=() if held is None else (held,),
                )
        except OSError as error:
            raise SurgeError(f"{command[0]!r} cannot be started: {error.strerror or error}.") from error

    def wait(self, is_cancelled: Callable[[], bool], *, whole_group: bool) -> int:
        """Its exit code, negative where a signal ended it.

        Args:
            is_cancelled: asked often; once true, the program is asked to end by TERM, and killed if it does not.
            whole_group: ask what it started too; else it passes the signal on by itself.
        """
        while True:
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(POLL_SECONDS)
            if is_cancelled():
                return self._end(whole_group)

    def kill(self) -> None:
        """End it and what it started, at once."""
        self._signal_group(signal.SIGKILL)

    def _end(self, whole_group: bool) -> int:
        if whole_group:
            self._signal_group(signal.SIGTERM)
        else:
            self._process.terminate()
        deadline = time.monotonic() + TERM_TIMEOUT_SECONDS
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        # Also what it started and left behind.
        self.kill()
        return self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        # The group may be gone, or still hold children of a program that has ended.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def found(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> list[str]:
    """The command with its program as an absolute path: what ties it to this process does not look programs up.

    Raises:
        SurgeError: there is no such program.

    >>> found(["sh", "-c", "true"], {"PATH": "/usr/bin:/bin"}, Path("/"))[1:]
    ['-c', 'true']
    """
    name = command[0]
    inside = str(folder / name) if os.sep in name else name
    path = shutil.which(inside, path=environment.get("PATH", os.defpath))
    if path is None:
        raise SurgeError(
            f"the program {name!r} cannot be started: it is not there, or it may not be executed.",
            "Check 'program' and 'command' of the sweep.",
        )
    return [str(folder / path), *command[1:]]


def last_text(log: Path) -> str:
    """The end of what a program printed."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace")


def last_lines(text: str) -> str:
    """The last lines of a text as one, fit for a terminal.

    >>> last_lines("a\\n\\nb\\x1b[31m\\n")
    'a | b[31m'
    """
    lines = ["".join(c for c in line if c.isprintable()) for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-TAIL_LINES:]) or "no output"
