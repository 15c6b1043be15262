"""What every engine promises: it is handed the frozen plan of trials and brings each to one end.

The tracker is the truth about what is done. An engine runs only the trials that have no result yet, so calling it
again after any failure finishes the rest and repeats nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from surge_sweeps.curves import Status
from surge_sweeps.errors import SurgeError
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.base import Tracker


@dataclass(frozen=True)
class LaunchResult:
    """What became of the trials that were planned.

    Attributes:
        planned: trials in the sweeps. already_done: those that had a result before.
        ended: status -> how many trials ended with it in this call.
        failures: trial id -> why it has no result; call again to try once more.
        running: trial id -> the run that the tracker shows as going on with it: elsewhere, or not for long any more.
        cut_off: the trials, among the missing, whose scripts were ended because the launch was.
    """

    planned: int
    already_done: int
    ended: Counter[Status] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
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
        """
        parts = [f"{self.already_done} done before"] if self.already_done else []
        parts += [f"{count} {status}" for status, count in sorted(self.ended.items())]
        parts += [f"{len(self.running)} shown as running"] if self.running else []
        stopped = f" ({len(self.cut_off)} stopped midway)" if self.cut_off else ""
        parts += [f"{self.missing} missing{stopped}"] if self.missing else []
        return f"{self.planned:,} {'trial' if self.planned == 1 else 'trials'}: {', '.join(parts) or 'none'}"


class Interrupted(SurgeError):
    """The user stopped the launch; what was done is kept."""


class Launcher(Protocol):
    """An engine. `launch` blocks until every trial has ended or cannot.

    Raises `Interrupted` on Ctrl-C, SIGTERM or SIGHUP and `TrackerError` when the store goes away; in both cases nothing
    that ended is lost, and no process is left behind.
    """

    def launch(self, sweeps: Sequence[Sweep], tracker: Tracker, progress: ProgressCallback) -> LaunchResult:
        """Run every trial of `sweeps` that has no result on `tracker`."""
        ...
