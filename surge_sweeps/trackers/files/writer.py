"""Writing sweeps into a folder: one file a run, each written by one process, without a server and without a lock.

A sweep's definition is a file; that a run has its result stands in its file's name. Tasks on any number of nodes write
side by side, since no two write the same file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import RunRecord, Scalar
from surge_sweeps.trackers.files.layout import (
    RunFile,
    RunsFolder,
    as_word,
    is_runs_folder,
    new_run_id,
    put,
    unwritable,
)
from surge_sweeps.trackers.files.left_open import is_busy_run, left_open, read_if_whole
from surge_sweeps.trackers.files.open_run import OpenRun, RunFileWriter, TakenOverError
from surge_sweeps.trackers.files.record import FileRun
from surge_sweeps.trackers.files.run_file import Points, WholeRun, write_run
from surge_sweeps.trackers.files.scratch import Scratch
from surge_sweeps.trackers.files.script import FilesScriptRun, with_logged

#: A file in the making for so long is one that a killed process left behind.
_LEFTOVER_S = 3600.0


class FilesTracker:
    """A folder of runs, open for writing; implements `Tracker`.

    Args:
        folder: it is made with the first write.

    Raises:
        TrackerError: the folder's name is empty.
    """

    def __init__(self, folder: str | Path) -> None:
        if not str(folder).strip():
            raise TrackerError("no folder is named to write runs to.", "Name one, as in --project runs.")
        # A launch or a program may change the working folder.
        self._folder = RunsFolder(Path(folder).absolute())
        self._open: dict[str, OpenRun] = {}
        self._scripts: set[str] = set()

    def open_sweep(self, sweep_id: str, name: str, definition: Mapping[str, object]) -> None:
        """Write the sweep's definition, where it is not there yet."""
        path = self._folder.sweep_file(sweep_id)
        self._folder.prepare()
        if path.exists():
            return
        content = {"sweep_id": sweep_id, "name": name, "definition": dict(definition)}
        try:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        except yaml.YAMLError as error:
            raise TrackerError(
                f"the sweep's definition cannot be written as YAML: {' '.join(str(error).split())}.",
                "Use text, numbers, lists and mappings only.",
            ) from error
        put(path, text.encode())

    def done_trials(self) -> Mapping[str, Status]:
        """Trial id -> status of every trial that ended with a result; by the files' names, so that it costs little."""
        done: dict[str, Status] = {}
        for file in self._list():
            if file.status is not None:
                trial = file.trial_id
                if trial is None and (whole := read_if_whole(file.path)) is not None:
                    trial = whole.run.trial_id
                if trial is not None:
                    done.setdefault(trial, file.status)
        return done

    def result_of(self, trial_id: str) -> Status | None:
        """See `Tracker.result_of`; by the files' names."""
        prefix = as_word(trial_id)
        results = [file for file in self._list() if file.status is not None]
        return next((file.status for file in results if file.run_id.rpartition("-")[0] == prefix), None)

    def busy_trials(self, sweep_id: str, ended: Collection[str] = ()) -> Mapping[str, str]:
        """See `Tracker.busy_trials`; what a program logs meanwhile is seen in its scratch."""
        left = self._left_open(sweep_id)
        return {run.trial_id: run.run_id for run in left if is_busy_run(self._folder, run, ended)}

    def close_stale(
        self,
        sweep_id: str,
        in_flight: Collection[str] = (),
        ended: Collection[str] = (),
        *,
        only_whole: bool = False,
    ) -> int:
        """Mark runs that an earlier, killed process left open as crashed; see `Tracker.close_stale`.

        What a program of the user's own had logged until then is kept with its run.
        """
        closed = 0
        for run in self._left_open(sweep_id):
            if run.trial_id in in_flight or (only_whole and not run.is_whole):
                continue
            if is_busy_run(self._folder, run, ended):
                continue
            whole = read_if_whole(self._folder.open_file(run.run_id))
            closed += whole is not None and self._close_one(whole)
        self._remove_leftovers()
        return closed

    def start_run(self, sweep_id: str | None, trial_id: str, config: Mapping[str, Scalar]) -> OpenRun:
        """Open the run of one trial; without a sweep, go on with the newest one of it that made room."""
        self._folder.prepare()
        waiting = self._waiting(trial_id) if sweep_id is None else None
        if waiting is not None:
            return self._go_on(waiting)
        return self._begin(self._new(new_run_id(trial_id), sweep_id, trial_id, config))

    def resume_run(self, sweep_id: str, trial_id: str, config: Mapping[str, Scalar], owner: str) -> OpenRun:
        """See `Tracker.resume_run`. A run of this owner that crashed is gone on with too.

        Raises:
            TrackerError: this owner's run of the trial has its result.
        """
        found = self._owned(sweep_id, trial_id, owner)
        if isinstance(found, str):
            return self._begin(self._new(found, sweep_id, trial_id, config, owner))
        return self._go_on(found)

    def start_script(
        self, sweep_id: str, trial_id: str, config: Mapping[str, Scalar], loss: str, owner: str = ""
    ) -> FilesScriptRun:
        """Open the run of one trial for a program that logs through MLflow's fluent interface, or W&B's."""
        self._folder.prepare()
        found = self._owned(sweep_id, trial_id, owner) if owner else new_run_id(trial_id)
        if isinstance(found, str):
            new = replace(self._new(found, sweep_id, trial_id, config, owner), is_script=True)
            begun = WholeRun(new, {})
        else:
            begun = replace(found, run=_again(found.run))
        script = FilesScriptRun(self._folder, begun, loss, self._scripts.discard)
        self._scripts.add(begun.run.run_id)
        return script

    def write_runs(self, sweep_id: str, records: Sequence[RunRecord]) -> None:
        """Write finished runs, whole. Of a trial that is written twice for one sweep, the first result stays."""
        if records:
            self._folder.prepare()
        for record in records:
            run_id = new_run_id(record.trial_id, [sweep_id, "whole"])
            if self._folder.find_result(run_id) is not None:
                continue
            now_ms = _now_ms()
            run = replace(
                self._new(run_id, sweep_id, record.trial_id, record.config),
                state="ended",
                status=record.status,
                end_ms=now_ms,
                summary=dict(record.summary),
                is_whole=True,
            )
            points = {name: _points(series, now_ms) for name, series in record.metrics.items()}
            unfinished = self._folder.open_file(run_id)
            if record.status in RESULT_STATUSES:
                write_run(self._folder.result_file(run_id, record.status), run, points)
                unfinished.unlink(missing_ok=True)
            else:
                write_run(unfinished, run, points)

    def give_up_when(self, is_given_up: Callable[[], bool]) -> None:
        """Changes nothing: a folder is not waited for."""

    def close(self) -> None:
        """Leave the runs that are still open without a status. A second call does nothing."""
        for run in list(self._open.values()):
            run.cut_off()

    def _list(self) -> list[RunFile]:
        path = self._folder.path
        if not is_runs_folder(path) and (path.is_dir() or not path.exists()):
            return []
        self._folder.check()
        return self._folder.list_runs().runs

    def _left_open(self, sweep_id: str) -> list[FileRun]:
        """Of the runs that this tracker has not open itself."""
        mine = {*self._open, *self._scripts}
        return left_open((file for file in self._list() if file.run_id not in mine), sweep_id)

    def _new(
        self, run_id: str, sweep_id: str | None, trial_id: str, config: Mapping[str, Scalar], owner: str = ""
    ) -> FileRun:
        return FileRun(run_id, trial_id, sweep_id, dict(config), _now_ms(), owner)

    def _begin(self, run: FileRun) -> OpenRun:
        return self._opened(WholeRun(run, {}))

    def _go_on(self, whole: WholeRun) -> OpenRun:
        # The process that left them is gone, or this one would not have been started.
        for path in self._folder.leftovers(whole.run.run_id):
            path.unlink(missing_ok=True)
        return self._opened(replace(whole, run=_again(whole.run)))

    def _opened(self, whole: WholeRun) -> OpenRun:
        run = OpenRun(self._folder, whole, self._ended)
        self._open[run.run_id] = run
        return run

    def _ended(self, run_id: str) -> None:
        self._open.pop(run_id, None)

    def _owned(self, sweep_id: str, trial_id: str, owner: str) -> WholeRun | str:
        """The run of a trial that a task left open, else the id that it is to have."""
        self._folder.prepare()
        run_id = new_run_id(trial_id, [sweep_id, owner])
        if self._folder.find_result(run_id) is not None:
            raise TrackerError(
                f"the trial {trial_id!r} has its result already, from this task.",
                "Nothing is left to do for it; launch again to run what is missing.",
            )
        return read_if_whole(self._folder.open_file(run_id)) or run_id

    def _waiting(self, trial_id: str) -> WholeRun | None:
        prefix = as_word(trial_id)
        files = [file for file in self._list() if file.run_id.rpartition("-")[0] == prefix]
        found = [read_if_whole(file.path) for file in files if file.status is None]
        waiting = [
            one
            for one in found
            if one is not None and one.run.state == "preempted" and one.run.sweep_id is None
        ]
        return max(waiting, key=lambda one: one.run.start_ms, default=None)

    def _close_one(self, whole: WholeRun) -> bool:
        """Leave a run whose process is gone as crashed, with what its program had logged; False if it was not gone."""
        run, points = whole.run, whole.points
        scratch = Scratch(self._folder, run.run_id)
        writer = RunFileWriter(self._folder, run)
        if scratch.is_there:
            scratch.mend()
            logged = scratch.read()
            writer.run, points = with_logged(run, logged), {**points, **logged.points}
        try:
            writer.write(points, "ended", "crashed")
        except TakenOverError:
            return False
        scratch.remove()
        return True

    def _remove_leftovers(self) -> None:
        """Remove what killed processes left: files in the making, and the scratch of runs that have their result."""
        for run_id in self._folder.scratch_runs():
            if self._folder.find_result(run_id) is not None:
                Scratch(self._folder, run_id).remove()
        for path in self._folder.leftovers():
            try:
                if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                    path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unwritable(path, error) from error


def _again(run: FileRun) -> FileRun:
    return replace(run, state="running", status=None, end_ms=None, attempts=run.attempts + 1)


def _points(series: Sequence[tuple[int, float]], now_ms: int) -> Points:
    step = np.array([step for step, _ in series], dtype=np.int64)
    value = np.array([value for _, value in series], dtype=np.float64)
    return Points(step, value, np.full(len(series), now_ms, dtype=np.int64))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
