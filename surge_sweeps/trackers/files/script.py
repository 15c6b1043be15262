"""The run of a trial that a user's own program does: it logs to a scratch store, which becomes the run's file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from surge_sweeps.curves import Status
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.files.layout import RunsFolder
from surge_sweeps.trackers.files.open_run import RunFileWriter
from surge_sweeps.trackers.files.record import FileRun
from surge_sweeps.trackers.files.run_file import NO_POINTS, Points, WholeRun, append
from surge_sweeps.trackers.files.scratch import Logged, Scratch
from surge_sweeps.trackers.trial_runs import missing_metric, script_status


class FilesScriptRun:
    """Implements `ScriptRun`.

    Args:
        folder: where it is. begun: the run, with what was logged before. loss: the metric that says how the program
            did. ended: called once with its id when it is closed.

    Attributes:
        problem: after `finish`, why a program that exited with 0 counts as crashed; else empty.
    """

    def __init__(self, folder: RunsFolder, begun: WholeRun, loss: str, ended: Callable[[str], None]) -> None:
        self._scratch = Scratch(folder, begun.run.run_id)
        self._file = RunFileWriter(folder, begun.run)
        # What an earlier process logged is in the scratch too, unless that was removed with the run's end.
        self._before = {} if self._scratch.is_there else begun.points
        self._loss = loss
        self._ended = ended
        self.problem = ""
        self.environment: Mapping[str, str] = self._scratch.prepare()
        self._file.write(self._take(), "running")

    def finish(self, exit_code: int | None) -> Status:
        """See `ScriptRun.finish`. The scratch is removed once the run's file is in place."""
        points = self._take()
        newest = {name: float(one.value[-1]) for name, one in points.items() if len(one.value)}
        status = script_status(exit_code, newest, self._loss)
        if exit_code == 0 and status == "crashed":
            self.problem = missing_metric(self._loss, newest)
        self._file.write(points, "ended", status)
        self._scratch.remove()
        self._ended(self._file.run.run_id)
        return status

    def preempt(self) -> None:
        """See `ScriptRun.preempt`. The scratch stays for the process that goes on."""
        self._file.write(self._take(), "preempted")
        self._ended(self._file.run.run_id)

    def store_is_away(self) -> str:
        """See `ScriptRun.store_is_away`: a folder does not go away for minutes."""
        return ""

    def _take(self) -> Mapping[str, Points]:
        """Everything that was logged, now and before; the run's parameters are completed."""
        self._scratch.mend()
        logged = self._scratch.read()
        self._file.run = with_logged(self._file.run, logged)
        return joined(self._before, logged.points)


def joined(before: Mapping[str, Points], after: Mapping[str, Points]) -> dict[str, Points]:
    """The points of a run's earlier processes, then those of a later one."""
    return {
        name: append(before.get(name, NO_POINTS), after.get(name, NO_POINTS))
        for name in dict.fromkeys([*before, *after])
    }


def with_logged(run: FileRun, logged: Logged) -> FileRun:
    """The run with the parameters that its program logged; one of the trial's own keeps its type where it is the same.

    >>> run = FileRun("t1-0", "t1", None, {"lr": 0.1, "seed": 0}, 0)
    >>> dict(with_logged(run, Logged({"lr": "1e-1", "seed": "7", "model": "mlp"})).config)
    {'lr': 0.1, 'seed': '7', 'model': 'mlp'}
    """
    config: dict[str, Scalar] = dict(run.config)
    for name, text in logged.params.items():
        if name not in ("trial_id", "sweep_id") and not (name in config and _same(config[name], text)):
            config[name] = text
    return replace(run, config=config)


def _same(value: Scalar, text: str) -> bool:
    if str(value) == text:
        return True
    try:
        one, other = float(value), float(text)
    except ValueError:
        return False
    return one == other or (math.isnan(one) and math.isnan(other))
