"""Reading a folder of runs as it is, while they are written or after: by the footers first, then by metric.

Nothing is cached: files on a disk are read about as fast as a cache of them would be. A file that is damaged is named
in the problems, and the others are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from surge_sweeps.counting import counted
from surge_sweeps.curve_cache import Series, join_series
from surge_sweeps.curves import LossCurves, Problem
from surge_sweeps.errors import TrackerError
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.trackers.assemble import Origin, assemble
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.files.layout import RunFile, RunsFolder, is_runs_folder
from surge_sweeps.trackers.files.record import FileRun, MetricRows
from surge_sweeps.trackers.files.run_file import (
    NO_POINTS,
    DamagedRunError,
    Points,
    read_metrics,
    read_run,
    read_whole,
)
from surge_sweeps.trackers.files.scratch import Logged, Scratch
from surge_sweeps.trackers.files.script import with_logged
from surge_sweeps.trackers.joined import JoinedByStep
from surge_sweeps.trackers.stored_runs import StoredRun

__all__ = ["FilesReader", "ListedRun", "is_runs_folder", "list_folder", "stored_runs"]

#: A file of no more bytes is read whole at once, and its other metrics kept until they are asked for.
_SMALL_BYTES = 2**20
#: Of kept points, no more than so many: 24 bytes each.
_KEPT_POINTS = 2**23
#: On a parallel file system opening a file is mostly waiting.
_THREADS = 4


@dataclass(frozen=True)
class ListedRun:
    """A run and its file; `logged`: what a program that is still at work has logged elsewhere."""

    file: RunFile
    run: FileRun
    logged: Logged | None = None


def stored_runs(folder: Path) -> list[StoredRun]:
    """Every run of a folder, oldest first, without its points; a damaged file is left out.

    Raises:
        TrackerError: this is no folder of runs, or it cannot be read.
    """
    return [listed.run.stored() for listed in list_folder(folder)[0]]


def list_folder(
    folder: Path, progress: ProgressCallback = no_progress
) -> tuple[list[ListedRun], list[Problem]]:
    """Every run of a folder, oldest first, and what was left out.

    Raises:
        TrackerError: this is no folder of runs, or it cannot be read.
    """
    place = RunsFolder(folder)
    place.check()
    listing = place.list_runs()
    problems = [
        Problem(None, f"left out: {str(path)!r} is no file of a run that this tool wrote")
        for path in listing.foreign
    ]
    found: list[ListedRun] = []
    text = f"reading {counted(len(listing.runs), 'run')}"
    with ThreadPoolExecutor(_THREADS) as pool:
        for index, one in enumerate(pool.map(lambda file: _look(place, file), listing.runs)):
            if isinstance(one, DamagedRunError):
                problems.append(Problem(listing.runs[index].run_id, f"left out: {one.what}"))
            elif one is not None:
                found.append(one)
            if index % 100 == 0:
                progress(index, len(listing.runs), text)
    progress(len(listing.runs), len(listing.runs), text)
    return sorted(found, key=lambda one: (one.run.start_ms, one.run.run_id)), problems


def _look(place: RunsFolder, file: RunFile) -> ListedRun | DamagedRunError | None:
    """What a file's footer tells; None where it is gone without a result."""
    try:
        file, run = _read_where_it_is(place, file)
    except FileNotFoundError:
        return None
    except DamagedRunError as error:
        return error
    if not (run.is_script and run.state == "running"):
        return ListedRun(file, run)
    logged = Logged()
    # The store of a program at work may be locked, or be gone this moment: then the run is as its file says.
    with suppress(TrackerError, OSError):
        logged = Scratch(place, run.run_id).read()
    if not logged.points:
        return ListedRun(file, run)
    newest = {
        name: MetricRows(len(one.step), int(one.step[-1]), int(one.time_ms[-1]), float(one.value[-1]))
        for name, one in logged.points.items()
        if len(one.step)
    }
    return ListedRun(file, replace(with_logged(run, logged), metrics=newest), logged)


def _read_where_it_is(place: RunsFolder, file: RunFile) -> tuple[RunFile, FileRun]:
    try:
        return file, read_run(file.path)
    except FileNotFoundError:
        # Between the listing and now the run may have got its result.
        path = place.find_result(file.run_id)
        if path is None:
            raise
        return file._replace(path=path), read_run(path)


class _DamagedRuns(Exception):
    """Files whose footers could be read and whose points cannot: run -> why."""

    def __init__(self, found: dict[str, str]) -> None:
        super().__init__(", ".join(found))
        self.found = found


class FilesSource:
    """The points of listed runs; implements `SeriesSource`.

    Args:
        listed: the runs.
    """

    route = "the run files themselves"

    def __init__(self, listed: Sequence[ListedRun]) -> None:
        self._listed = {one.run.run_id: one for one in listed}
        self._kept: dict[str, dict[str, Points]] = {}
        self._kept_points = 0

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """How many points of a metric each run has."""
        return [self._listed[run].run.metrics[metric].rows for run in runs]

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """Every point of a metric by the step it was logged with; see `SeriesSource`."""
        damaged: dict[str, str] = {}
        parts = []
        for run in runs:
            try:
                points = self._points(run, metric)
            except DamagedRunError as error:
                damaged[run] = error.what
                continue
            parts.append(_series(run, points))
        if damaged:
            raise _DamagedRuns(damaged)
        return join_series(parts)

    def _points(self, run: str, metric: str) -> Points:
        kept = self._kept.get(run)
        if kept is not None:
            return kept.get(metric, NO_POINTS)
        listed = self._listed[run]
        if listed.logged is not None:
            return listed.logged.points.get(metric, NO_POINTS)
        path = listed.file.path
        try:
            if path.stat().st_size > _SMALL_BYTES:
                return read_metrics(path, [metric])[metric]
            points = dict(read_whole(path).points)
        except FileNotFoundError as error:
            raise DamagedRunError(f"{str(path)!r} was removed while it was read.", "Call again.") from error
        size = sum(len(one.step) for one in points.values())
        if self._kept_points + size <= _KEPT_POINTS:
            self._kept[run] = points
            self._kept_points += size
        return points.get(metric, NO_POINTS)


def _series(run: str, points: Points) -> Series:
    rows = np.array([len(points.step)], dtype=np.int64)
    return Series((run,), rows, points.step.astype(np.float64), points.value, points.time_ms)


class FilesReader:
    """A folder of runs, open for reading; implements `Reader`.

    Args:
        progress: told of the files looked at so far.
    """

    def __init__(self, progress: ProgressCallback = no_progress) -> None:
        self._progress = progress

    def collect(self, project: str, options: ReadOptions) -> LossCurves:
        """Read every run of a folder.

        Raises:
            TrackerError: it is no folder of runs, or none of its files can be read.
            UnknownNameError: a parameter or metric name that no run has.
        """
        listed, problems = list_folder(Path(project), self._progress)
        if problems and not listed:
            raise TrackerError(
                f"no run in {project!r} can be read: {problems[0].what}.", "See the files named."
            )
        origin = Origin(
            project, f"run files in {project}", ("files", str(Path(project).resolve())), own_step=True
        )
        while True:
            stored = [one.run.stored() for one in listed]
            try:
                curves = assemble(
                    stored, JoinedByStep(FilesSource(listed)), origin, replace(options, cache_dir=None)
                )
            except _DamagedRuns as error:
                problems += [Problem(run, f"left out: {what}") for run, what in error.found.items()]
                listed = [one for one in listed if one.run.run_id not in error.found]
                continue
            return replace(curves, problems=(*problems, *curves.problems))
