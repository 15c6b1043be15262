"""What the launching machine, the job on the cluster and its tasks leave for one another, in the launch's folder.

`ray/` in the folder of the launch, which all of them see: `job.json`, what was handed to which cluster; `tasks.json`,
how the tasks ended, by the job; `started/N`, by task N; `cancel/N`, by who wants task N to end; `locks/N`, locked while
task N is at work; `locks/cluster`, locked while the launching process has a cluster of its own for it. Each file has
one writer and is written whole.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from surge_sweeps.errors import SurgeError
from surge_sweeps.files import write_text
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.folder import Launch

_ALL = "all"
#: What is locked as long as a cluster of the launch's own is there.
CLUSTER = "cluster"


@dataclass(frozen=True)
class Job:
    """What was handed to a cluster.

    Attributes:
        address: of its dashboard. name: the job's there. is_own: whether the cluster is one of the launch's own.
        task_options: what Ray is told about each task.
    """

    address: str
    name: str
    is_own: bool
    task_options: Mapping[str, float | int] = field(default_factory=dict)


class Board:
    """The files of one launch.

    Args:
        launch: its folder is made when something is first written.
    """

    def __init__(self, launch: Launch) -> None:
        self._folder = launch.folder / "ray"

    def write_job(self, job: Job) -> None:
        """Note what is about to be handed over."""
        write_text(self._folder / "job.json", json.dumps(asdict(job), indent=1))

    def job(self) -> Job | None:
        """What was handed over; None if nothing was.

        Raises:
            SurgeError: the note cannot be read.
        """
        content = self._read("job.json")
        if content is None:
            return None
        try:
            job = Job(**content)
            if not isinstance(job.address, str) or not isinstance(job.name, str):
                raise TypeError("no text")
        except TypeError as error:
            raise SurgeError(f"{str(self._folder / 'job.json')!r} is of another version.") from error
        return job

    def write_ended(self, states: Mapping[int, TaskState]) -> None:
        """Say how tasks ended; of one that is not named nothing is known yet."""
        content = {str(task): list(state) for task, state in sorted(states.items())}
        write_text(self._folder / "tasks.json", json.dumps(content))

    def ended(self) -> dict[int, TaskState]:
        """How tasks ended, as far as the job has said.

        Raises:
            SurgeError: what it said cannot be read.
        """
        content = self._read("tasks.json") or {}
        return {int(task): TaskState(*state) for task, state in content.items()}

    def mark_started(self, task: int) -> None:
        """Say that a task has begun."""
        self._touch("started", str(task))

    def started(self) -> set[int]:
        """The tasks that have begun at some time."""
        return {int(name) for name in self._names("started") if name.isdecimal()}

    def ask_cancel(self, tasks: Collection[int] | None) -> None:
        """Ask for the end of some tasks, or of all."""
        for name in [_ALL] if tasks is None else map(str, tasks):
            self._touch("cancel", name)

    def is_cancelled(self, task: int) -> bool:
        """Whether the end of a task was asked for."""
        return any((self._folder / "cancel" / name).exists() for name in (str(task), _ALL))

    def cancelled(self, tasks: Collection[int]) -> set[int]:
        """Those of some tasks whose end was asked for."""
        names = self._names("cancel")
        return set(tasks) if _ALL in names else {task for task in tasks if str(task) in names}

    def lock(self, name: int | str) -> int | None:
        """Take the lock of a task, or `CLUSTER`: an open file that holds it; None if it is taken.

        A process that inherits the file holds it too. The system lets go of it when the last one that has the file open
        ends, however that ends.

        Raises:
            SurgeError: the folder cannot be written, or its file system knows no locks.
        """
        path = self._folder / "locks" / str(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException:
                os.close(descriptor)
                raise
        except BlockingIOError:
            return None
        except OSError as error:
            raise SurgeError(
                f"{str(path)!r} cannot be locked: {error.strerror or error}.",
                "Launch from a folder that you may write to, on a file system that knows locks.",
            ) from error
        return descriptor

    def is_locked(self, name: int | str) -> bool:
        """Whether a process that holds the lock of a task, or `CLUSTER`, lives."""
        if not (self._folder / "locks" / str(name)).exists():
            return False
        descriptor = self.lock(name)
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def _touch(self, folder: str, name: str) -> None:
        path = self._folder / folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise SurgeError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error

    def _names(self, folder: str) -> set[str]:
        with suppress(FileNotFoundError):
            return {entry.name for entry in os.scandir(self._folder / folder)}
        return set()

    def _read(self, name: str) -> dict[str, Any] | None:
        path: Path = self._folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SurgeError(f"{str(path)!r} cannot be read: {error}.") from error
        if not isinstance(content, dict):
            raise SurgeError(f"{str(path)!r} cannot be read: it is no mapping.")
        return content
