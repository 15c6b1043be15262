"""The histories of a W&B project's runs as series: from the exports where there are any, else by scanning.

A scan goes through W&B's client value by value, at a twentieth of the speed. It is for runs that go on, that ended so
lately that W&B has not exported them, or whose files came damaged.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.counting import counted
from surge_sweeps.curve_cache import Series, join_series
from surge_sweeps.curves import Problem
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.trackers.wandb.exports import Points, download, logged_number, read_points
from surge_sweeps.trackers.wandb.failures import read_again
from surge_sweeps.trackers.wandb.offline.run import STEP
from surge_sweeps.trackers.wandb.runs import ListedRun
from surge_sweeps.trackers.wandb.session import quiet

#: Downloads at once: W&B's client is safe to use from threads, and waiting for the server is most of the work.
THREADS = 6
#: About how many rows a request of a scan is made to return, and the largest range of steps that W&B takes in one.
_PAGE_ROWS = 20_000
_LARGEST_PAGE = 2**31 - 1


class RunHistories:
    """The series of listed runs; implements `SeriesSource`. Used with `with`: downloads lie in a folder until its end.

    Args:
        runs: run id -> what reading it takes, see `list_runs`. progress: told after each run.
    """

    def __init__(self, runs: Mapping[str, ListedRun], progress: ProgressCallback = no_progress) -> None:
        self._runs = runs
        self._progress = progress
        self._folder = tempfile.TemporaryDirectory(prefix="surge-wandb-")
        self._files: dict[str, tuple[Path, ...] | None] = {}
        self._places = {run: str(number) for number, run in enumerate(runs)}
        self._short: dict[tuple[str, str], Problem] = {}
        self._read: defaultdict[str, int] = defaultdict(int)
        self._scanned: set[str] = set()
        self._exported: set[str] = set()

    def __enter__(self) -> RunHistories:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @property
    def problems(self) -> list[Problem]:
        """What was found on the way."""
        return [self._short[key] for key in sorted(self._short)]

    @property
    def route(self) -> str:
        """Which of the runs read so far came as exports, and which row by row."""
        scanned, exported = len(self._scanned), len(self._exported - self._scanned)
        parts = [f"W&B's exports of {counted(exported, 'run')}"] if exported else []
        parts += [f"scans of {counted(scanned, 'run')}, row by row"] if scanned else []
        return " and ".join(parts)

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """How many points of a metric each run has, as the listing said."""
        return [self._runs[run].counts.get(metric, 0) for run in runs]

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """Every point of a metric, see `SeriesSource`; `timestamp` is the order in which W&B holds the rows.

        Raises:
            TrackerError: the server is away.
        """
        parts = []
        with quiet():
            for part in self._each(runs, metric, None if axis == STEP else axis):
                parts.append(part)
                # Runs are asked for some at a time; those that the cache holds are not asked for.
                self._read[metric] += 1
                done = min(self._read[metric], len(self._runs))
                self._progress(done, len(self._runs), f"reading {metric}")
        return join_series(parts)

    def _each(self, runs: Sequence[str], metric: str, axis: str | None) -> Iterator[Series]:
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="surge-wandb")
        try:
            points = pool.map(lambda run: self._points(run, metric, axis), runs)
            for run, (step, value, _) in zip(runs, points, strict=True):
                rows = np.array([len(step)], dtype=np.int64)
                yield Series((run,), rows, step, value, np.arange(len(step), dtype=np.int64))
        finally:
            pool.shutdown(cancel_futures=True)

    def _points(self, run: str, metric: str, axis: str | None) -> Points:
        listed = self._runs[run]
        if run not in self._files:
            # Names from a server are no paths.
            place = Path(self._folder.name) / self._places[run]
            self._files[run] = None if listed.active else download(listed.handle, place)
        files = self._files[run]
        found = read_points(files, metric, axis) if files else None
        # An export may lack its last part and not say so.
        if found is None or found.rows < listed.counts.get(metric, 0):
            self._scanned.add(run)
            scanned = self._scan(run, metric, axis)
            found = scanned if found is None or scanned.rows > found.rows else found
            self._check(run, metric, found.rows)
        else:
            self._exported.add(run)
        return found

    def _check(self, run: str, metric: str, rows: int) -> None:
        expected = self._runs[run].counts.get(metric, 0)
        if rows < expected:
            what = f"W&B gave {rows} of the {expected} points of {metric!r} that it counts"
            self._short[run, metric] = Problem(run, what)

    def _scan(self, run: str, metric: str, axis: str | None) -> Points:
        listed = self._runs[run]
        rows = _scan(listed, [metric])
        held = len(rows)
        rows = [row for row in rows if logged_number(row.get(metric)) is not None]
        value = _floats(row.get(metric) for row in rows)
        if axis is None:
            return Points(_floats(row.get(STEP) for row in rows), value, held)
        return Points(_floats(_axis_of(rows, _scan(listed, [metric, axis]), metric, axis)), value, held)


def _scan(listed: ListedRun, keys: list[str]) -> list[Mapping[str, object]]:
    """The rows that hold all keys; never from the client's own cache, which is stale when a run has grown."""
    page = page_size(listed.last_step, listed.counts.get(keys[0], 0))

    def read() -> list[Mapping[str, object]]:
        rows = listed.handle.scan_history(keys=keys, page_size=page, use_cache=False)
        # What is exported comes with the rows that lack a key, what is not yet comes without.
        return [row for row in rows if all(row.get(key) is not None for key in keys)]

    return read_again("read", read)


def page_size(last_step: int, rows: int) -> int:
    """The range of steps to ask for at once: W&B pages by steps, however few rows these hold.

    >>> page_size(9_999, 10_000), page_size(999_999, 1_000_000), page_size(20_000_000_000, 21)
    (10000, 20000, 2147483647)
    """
    steps = max(last_step + 1, 1)
    return min(math.ceil(steps * min(1.0, _PAGE_ROWS / max(rows, 1))), _LARGEST_PAGE)


def _axis_of(
    rows: Sequence[Mapping[str, object]], both: Sequence[Mapping[str, object]], metric: str, axis: str
) -> Iterator[object]:
    """For each row of a metric what the axis is in the same row, None where it has none.

    Args:
        rows: those that hold the metric. both: those of them that hold the axis too, in whatever order.
    """
    known: defaultdict[str, deque[object]] = defaultdict(deque)
    for row in both:
        known[_mark(row, metric)].append(row.get(axis))
    for row in rows:
        found = known.get(_mark(row, metric))
        yield found.popleft() if found else None


def _mark(row: Mapping[str, object], metric: str) -> str:
    """What tells a row from others, as a number: the same value is one thing in an export and another in a page."""
    return repr((logged_number(row.get(STEP)), logged_number(row.get(metric))))


def _floats(values: Iterable[object]) -> NDArray[np.float64]:
    found = (logged_number(value) for value in values)
    return np.array([math.nan if one is None else one for one in found], dtype=np.float64)
