"""What every engine promises: it is handed the frozen plan of trials and brings each to one end.

The tracker is the truth about what is done. An engine runs only the trials that have no result yet, so calling it
again after any failure finishes the rest and repeats nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from surge_sweeps.curves import Status
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.folder import Launch


@dataclass(frozen=True)
class LaunchResult:
    """What became of the trials that were planned.

    Attributes:
        planned: trials in the sweeps. already_done: those that had a result before.
        ended: status -> how many trials ended with it in this call.
        failures: trial id -> why it has no result; call again to try once more.
        running: trial id -> who has it: the run that the tracker shows as going on with it (elsewhere, or not for long
            any more), or the task of an engine. launches: id of a launch whose engine still has tasks -> its engine.
        cut_off: the trials, among the missing, whose scripts were ended because the launch was.
    """

    planned: int
    already_done: int
    ended: Counter[Status] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    launches: dict[str, str] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)

    @property
    def missing(self) -> int:
        """Trials still without a result that nobody works on."""
        return self.planned - self.already_done - sum(self.ended.values()) - len(self.running)

    def summary(self) -> str:
        """One line for the terminal.

        >>> LaunchResult(planned=4, already_done=1, ended=Counter(finished=2)).summary()
        '4 trials: 1 done before, 2 finished, 1 missing'
        >>> LaunchResult(planned=4, already_done=1, cut_off={"t4"}).summary()
        '4 trials: 1 done before, 3 missing (1 stopped midway)'
        >>> LaunchResult(1, 0, running={"t1": "slurm, task 0"}, launches={"20261122-181500-1a2b": "slurm"}).summary()
        '1 trial: 1 with slurm'
        """
        parts = [f"{self.already_done} done before"] if self.already_done else []
        parts += [f"{count} {status}" for status, count in sorted(self.ended.items())]
        where = (
            f"with {' and '.join(sorted(set(self.launches.values())))}"
            if self.launches
            else "shown as running"
        )
        parts += [f"{len(self.running)} {where}"] if self.running else []
        stopped = f" ({len(self.cut_off)} stopped midway)" if self.cut_off else ""
        parts += [f"{self.missing} missing{stopped}"] if self.missing else []
        return f"{self.planned:,} {'trial' if self.planned == 1 else 'trials'}: {', '.join(parts) or 'none'}"


class Interrupted(SurgeError):
    """The user stopped the launch; what was done is kept."""


#: A task waits for a place, runs, has ended with a result of every trial of it, or has ended without.
State = Literal["waiting", "running", "ended", "failed"]
#: Of these an engine will still do something.
IN_FLIGHT: tuple[State, ...] = ("waiting", "running")


class TaskState(NamedTuple):
    """How a task stands with its engine; `why`: of one that failed or cannot begin, a sentence for the user."""

    state: State
    why: str = ""


class Launcher(Protocol):
    """An engine: it runs the tasks of a launch, each in one place at a time, and tells how they stand.

    What every engine promises:

    * Nothing is run twice at once. Between `submit` and the moment at which `status` says that it has ended or failed,
      a task has at most one process at work, also where the engine moves or requeues it.
    * A task that was preempted, or whose time limit came, or whose node went down, is run again by the engine where the
      engine can; its state stays `waiting` or `running` meanwhile. A task whose program failed by itself, or was
      killed, is `failed` and not run again: the next launch does that. Whether a trial has a result is the tracker's
      word, never the engine's; a loss that is not finite is a result.
    * A kill at any moment between two statements of `submit` leaves either nothing, or something that `status`,
      `cancel` and `logs` of the same launch find: the engine knows the launch by its id.
    * Nothing goes through a shell unquoted, and no secret is in a script, a manifest, an argument or a log: what a task
      needs to log in travels by environment, or by the engine's own store of secrets.

    What cannot be done raises `SurgeError` with the next step: an engine that is not installed, resources that it does
    not have, a controller that does not answer.

    An engine whose tasks outlive their launch has a class method `of(launch)`: the launcher with which another process
    asks for `status`, `cancel` and `logs`.

    Attributes:
        name: what `--on` calls it. outlives_launch: whether its tasks go on when the launching process ends.
        poll_seconds: how often it may be asked for `status` without being a burden.
    """

    name: str
    outlives_launch: bool
    poll_seconds: float

    def describe(self, launch: Launch) -> str:
        """Exactly what `submit` would submit, as text that a person can read and edit. Changes and asks nothing."""
        ...

    def submit(self, launch: Launch) -> None:
        """Hand over every task of the launch, whose folder is written; returns once the engine has them all.

        Raises:
            SurgeError: the engine refuses; it then has none of the tasks.
        """
        ...

    def status(self, launch: Launch) -> Mapping[int, TaskState]:
        """How every task of the launch stands, by number; a launch that never got to `submit` has `failed` tasks.

        One question to the engine for all tasks. Raises `SurgeError` only where the engine does not answer.
        """
        ...

    def cancel(self, launch: Launch, tasks: Collection[int] | None = None) -> None:
        """End some tasks, or all: those that run are asked first, so that they save their state.

        Tasks that have ended stay as they are; a second call does nothing. Returns once the engine has taken it up:
        `status` tells when they have ended.
        """
        ...

    def logs(self, launch: Launch, task: int) -> str:
        """What a task has printed so far; empty where it has not begun."""
        ...
