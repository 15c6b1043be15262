"""One open run whose file is written again, whole, every few seconds while points come.

Losses by step are few next to what a training does, so that the whole file costs milliseconds; where it is large, it is
written the more seldom. No thread and no signal handler is started: the file is written while `log` is called, and as
the process leaves. SIGKILL loses what was logged in the last `FLUSH_SECONDS`, or twenty times as long as a write takes.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.files.layout import RunsFolder
from surge_sweeps.trackers.files.record import FileRun, State
from surge_sweeps.trackers.files.run_file import Points, WholeRun, read_run, write_run

FLUSH_SECONDS = 15.0
#: No more than this share of the time goes into writing.
WRITE_SHARE = 0.05
#: For so long a folder that cannot be written, as on a full disk, stops no training: its points wait in memory.
PATIENCE_S = 120.0

_log = logging.getLogger(__name__)


@dataclass
class _Column:
    """A metric's points as they come."""

    step: array[int] = field(default_factory=lambda: array("q"))
    value: array[float] = field(default_factory=lambda: array("d"))
    time_ms: array[int] = field(default_factory=lambda: array("q"))

    @classmethod
    def of(cls, points: Points) -> _Column:
        return cls(
            array("q", points.step.tobytes()),
            array("d", points.value.tobytes()),
            array("q", points.time_ms.tobytes()),
        )

    def points(self) -> Points:
        return Points(
            np.array(self.step, np.int64), np.array(self.value, np.float64), np.array(self.time_ms, np.int64)
        )


class TakenOverError(TrackerError):
    """Another process goes on with the run."""


class RunFileWriter:
    """The file of one run without a result, which this process alone writes, until it gets its result.

    Args:
        folder: where it is. run: as it stands.

    A file that another process wrote meanwhile is left to that one: two that took up the same run never mix.
    """

    def __init__(self, folder: RunsFolder, run: FileRun) -> None:
        self._folder = folder
        self._path = folder.open_file(run.run_id)
        self._written = self._look()
        self.run = replace(run, writer=secrets.token_hex(8))

    def write(self, points: Mapping[str, Points], state: State, status: Status | None = None) -> None:
        """Put the run's file in place; with the status of a result, as that result.

        Raises:
            TakenOverError: another process goes on with the run. TrackerError: it cannot be written.
        """
        if self._is_taken_over():
            raise self._taken_over()
        end_ms = None if state == "running" else time.time_ns() // 1_000_000
        run = replace(self.run, state=state, status=status, end_ms=end_ms)
        if status in RESULT_STATUSES:
            write_run(self._folder.result_file(run.run_id, status), run, points)
            # A kill before this leaves both, of which the result counts.
            self._path.unlink(missing_ok=True)
        else:
            write_run(self._path, run, points)
            if self._folder.find_result(run.run_id) is not None:
                # It came between the look and the writing.
                self._path.unlink(missing_ok=True)
                raise self._taken_over()
        self.run, self._written = run, self._look()

    def _taken_over(self) -> TakenOverError:
        return TakenOverError(
            f"another process goes on with the run {self.run.run_id!r}, and this one no longer writes it.",
            "Start a trial once; a second process of it does not harm the first.",
        )

    def _is_taken_over(self) -> bool:
        if self._folder.find_result(self.run.run_id) is not None:
            return True
        if self._look() in (self._written, None):
            return False
        # A network file system may tell other times of the same file: then the file itself says whose it is.
        try:
            return read_run(self._path).writer != self.run.writer
        except FileNotFoundError:
            return self._folder.find_result(self.run.run_id) is not None

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


class OpenRun:
    """Implements `ResumableRun`.

    Args:
        folder: where it is. begun: the run, with what earlier processes logged. ended: called once with its id when it
            is closed.
    """

    def __init__(self, folder: RunsFolder, begun: WholeRun, ended: Callable[[str], None]) -> None:
        self._file = RunFileWriter(folder, begun.run)
        self._ended = ended
        self._columns = {name: _Column.of(one) for name, one in begun.points.items()}
        self._logged = {name: int(one.step[-1]) for name, one in begun.points.items() if len(one.step)}
        self._interval_s = FLUSH_SECONDS
        self._failing_since_s: float | None = None
        self._process = os.getpid()
        self._done = False
        self._flush()
        atexit.register(self._at_exit)

    @property
    def run_id(self) -> str:
        """See `ResumableRun.run_id`."""
        return self._file.run.run_id

    @property
    def logged_step(self) -> int:
        """See `ResumableRun.logged_step`."""
        return max(self._logged.values(), default=-1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `RunWriter.log`. While the folder cannot be written points are kept, for `PATIENCE_S`."""
        if self._done:
            raise TrackerError(
                "the run is finished and takes no more points.", "Open another run for the trial."
            )
        now_ms = time.time_ns() // 1_000_000
        for name, value in values.items():
            # Each metric goes on after its own last step.
            if step > self._logged.get(name, -1):
                column = self._columns.setdefault(name, _Column())
                column.step.append(int(step))
                column.value.append(float(value))
                column.time_ms.append(now_ms)
        if time.monotonic() - self._flushed_s >= self._interval_s:
            self._try_flush()

    def finish(self, status: Status, summary: Mapping[str, Scalar] | None = None) -> None:
        """See `RunWriter.finish`."""
        if not self._done:
            self._file.run = replace(self._file.run, summary=dict(summary or {}))
            self._file.write(self._points(), "ended", status)
            self._close()

    def preempt(self) -> None:
        """See `ResumableRun.preempt`."""
        if not self._done:
            self._file.write(self._points(), "preempted")
            self._close()

    def cut_off(self) -> None:
        """Write what waits and leave the run without a status, which counts as crashed. A second call does nothing."""
        if not self._done:
            self._file.write(self._points(), "ended")
            self._close()

    def _points(self) -> dict[str, Points]:
        return {name: column.points() for name, column in self._columns.items()}

    def _flush(self) -> None:
        began_s = time.monotonic()
        self._file.write(self._points(), "running")
        self._flushed_s = time.monotonic()
        self._interval_s = max(FLUSH_SECONDS, (self._flushed_s - began_s) / WRITE_SHARE)
        self._failing_since_s = None

    def _try_flush(self) -> None:
        try:
            self._flush()
        except TakenOverError:
            raise
        except TrackerError as error:
            self._flushed_s = time.monotonic()
            since_s = self._failing_since_s
            if self._flushed_s - (self._flushed_s if since_s is None else since_s) >= PATIENCE_S:
                raise
            if since_s is None:
                self._failing_since_s = self._flushed_s
                _log.warning("%s Points are kept, and written once that is possible.", error.what)

    def _close(self) -> None:
        self._done = True
        atexit.unregister(self._at_exit)
        self._ended(self.run_id)

    def _at_exit(self) -> None:
        if os.getpid() != self._process:
            return  # a fork of the process that writes the run
        try:
            self.cut_off()
        except TrackerError as error:
            _log.warning("the process ends and the last points of a run are lost: %s", error)
