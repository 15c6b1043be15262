"""The runs and points of an MLflow server, each run by the quickest way that serves it, and said which.

First the history artifact, where the run's tag vouches for one. Then, for long runs, windows of steps, which a server
answers in full while they are small. Then the bulk route, which gives many runs at once but stops without a word when
its answer is full. Last one run at a time, in pages, as every server can. Whatever came is checked against the listing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

import numpy as np

from surge_sweeps.curve_cache import Series, join_series
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.trackers.mlflow.history import Points
from surge_sweeps.trackers.mlflow.http.artifacts import HistoryArtifacts
from surge_sweeps.trackers.mlflow.http.connection import Server, in_threads
from surge_sweeps.trackers.mlflow.http.listing import (
    StoredHistory,
    experiment_id,
    list_runs,
    list_sweep_tags,
)
from surge_sweeps.trackers.mlflow.http.points import (
    BULK_POINTS,
    BULK_RUNS,
    BulkAnswer,
    ends_with,
    read_bulk,
    read_single,
)
from surge_sweeps.trackers.mlflow.http.windows import density, has_windows, read_windows
from surge_sweeps.trackers.mlflow.runs import in_order, refuse_axis
from surge_sweeps.trackers.stored_runs import StoredRun

_ROUTES = ("history artifact", "windows of steps", "bulk route", "run by run")
# Windows are for runs that log at nearly every step, and at many: others have few points in one.
_LONG_STEPS = 500
_SAMPLE_RUNS = 2
_THINNEST, _DENSEST = 0.25, 1.05

# Answers that just do not get full cost the least.
_AIMED_POINTS = 0.9 * BULK_POINTS


class HttpStore:
    """The runs and points of a server; a `SeriesSource`.

    Args:
        uri: its address. progress: told of the runs listed, and of those read, metric by metric.

    Raises:
        TrackerError: nothing answers there. MissingExtraError: mlflow is not installed.
    """

    def __init__(self, uri: str, progress: ProgressCallback = no_progress) -> None:
        self._server = Server(uri)
        self._progress = progress
        self._runs: dict[str, StoredRun] = {}
        self._histories: dict[str, StoredHistory] = {}
        # A read may ask for a few runs at a time.
        self._with_metric: Counter[str] = Counter()
        self._done: dict[str, set[str]] = {}
        self._artifacts = HistoryArtifacts(self._server)
        self._has_bulk = True
        self._has_windows: bool | None = None
        self._density: dict[str, float] = {}
        self._read_by: dict[str, set[str]] = {name: set() for name in _ROUTES}

    @property
    def route(self) -> str:
        """How points were read so far, in words."""
        parts = [f"{name} ({len(runs)} runs)" for name, runs in self._read_by.items() if runs]
        text = f"the server's REST interface: {', '.join(parts)}" if parts else "the server's REST interface"
        reasons = [f"{count} {why}" for why, count in self._artifacts.refused.items()]
        reasons = [f"of the history artifacts {', '.join(reasons)}"] if reasons else []
        if not self._has_bulk:
            reasons.append("the server has no bulk route")
        return f"{text}; {'; '.join(reasons)}" if reasons else text

    def experiment_id(self, project: str) -> str:
        """The id of the experiment of that name; raises `UnknownNameError`, or `TrackerError` if it is deleted."""
        self._progress(0, 1, "listing runs")
        return experiment_id(self._server, project)

    def runs(self, experiment: str) -> list[StoredRun]:
        """Every active run of the experiment that is no parent and no report, oldest first."""
        found = list_runs(
            self._server, experiment, lambda count: self._progress(0, 1, f"listing runs, {count} so far")
        )
        self._runs = {run.run: run for run in found.runs}
        self._histories = found.histories
        self._with_metric = Counter(metric for run in found.runs for metric in run.metrics)
        return found.runs

    def sweep_tags(self, experiment: str) -> list[dict[str, str]]:
        """The tags of every active run that is a sweep's parent, oldest first."""
        return list_sweep_tags(self._server, experiment)

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """Unknown: a server tells how many points there are only by sending them."""
        del metric
        return [None] * len(runs)

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """Every point of the metric, run after run; `runs` has listed them before."""
        refuse_axis(axis)
        found: dict[str, Points] = {}
        self._fetch_artifacts(runs, metric, found)
        self._fetch_windows([run for run in runs if run not in found], metric, found)
        self._fetch_directly([run for run in runs if run not in found], metric, found)
        return join_series(
            [
                in_order(run, points.step.astype(np.float64), points.value, points.timestamp)
                for run, points in ((run, found[run]) for run in runs)
            ]
        )

    def unchanged(self, held: Mapping[str, Series], metric: str) -> set[str]:
        """Those of the runs of whose metric the server holds exactly the points given, and certainly nothing else.

        One small request a run. The newest point of a listing would not do: it is that of the greatest step, and stays
        as it is when a run that was resumed earlier goes over the same steps again.
        """
        waiting = deque(held)

        def ask(run: str) -> bool:
            return ends_with(self._server, run, metric, held[run])

        found = in_threads(ask, lambda: waiting.popleft() if waiting else None)
        return {run for run, is_same in found if is_same}

    def _fetch_artifacts(self, runs: Sequence[str], metric: str, found: dict[str, Points]) -> None:
        waiting = deque(
            run for run in runs if self._artifacts.promises(self._runs[run], metric, self._histories.get(run))
        )

        def read(run: str) -> Points | None:
            return self._artifacts.read(self._runs[run], metric, self._histories[run])

        for run, points in in_threads(read, lambda: waiting.popleft() if waiting else None):
            if points is not None:
                self._put(run, points, "history artifact", metric, found)

    def _fetch_windows(self, runs: Sequence[str], metric: str, found: dict[str, Points]) -> None:
        if self._has_windows is None:
            self._has_windows = has_windows(self._server)
        long = {run: steps for run in runs if (steps := self._steps(run, metric)) >= _LONG_STEPS}
        if not self._has_windows or not long:
            return
        if metric not in self._density:
            sample = list(long)[:_SAMPLE_RUNS]
            self._fetch_directly(sample, metric, found)
            self._density[metric] = density([found[run] for run in sample], [long[run] for run in sample])
        each = self._density[metric]
        left = {run: steps for run, steps in long.items() if run not in found}
        if _THINNEST <= each <= _DENSEST:
            for run, points in read_windows(self._server, left, metric, each):
                if self._reaches_newest(run, metric, points):
                    self._put(run, points, "windows of steps", metric, found)

    def _fetch_directly(self, runs: Sequence[str], metric: str, found: dict[str, Points]) -> None:
        if self._has_bulk:
            self._fetch_bulk(runs, metric, found)
        self._fetch_single([run for run in runs if run not in found], metric, found)

    def _fetch_bulk(self, runs: Sequence[str], metric: str, found: dict[str, Points]) -> None:
        batches = _Batches({run: self._steps(run, metric) for run in runs})

        def read(batch: Sequence[str]) -> BulkAnswer | None:
            return read_bulk(self._server, batch, metric) if self._has_bulk else None

        for _, answer in in_threads(read, batches.take):
            if answer is None:
                self._has_bulk = False
                batches.clear()
                continue
            batches.learn(answer)
            for run, points in answer.whole.items():
                if self._reaches_newest(run, metric, points):
                    self._put(run, points, "bulk route", metric, found)

    def _fetch_single(self, runs: Sequence[str], metric: str, found: dict[str, Points]) -> None:
        waiting = deque(runs)

        def read(run: str) -> Points:
            return read_single(self._server, run, metric)

        for run, points in in_threads(read, lambda: waiting.popleft() if waiting else None):
            self._put(run, points, "run by run", metric, found)

    def _put(self, run: str, points: Points, route: str, metric: str, found: dict[str, Points]) -> None:
        found[run] = points
        self._read_by[route].add(run)
        done = self._done.setdefault(metric, set())
        done.add(run)
        self._progress(len(done), self._with_metric[metric], f"reading {metric}")

    def _steps(self, run: str, metric: str) -> int:
        latest = self._runs[run].metrics.get(metric)
        return 1 if latest is None else max(int(latest.step) + 1, 1)

    def _reaches_newest(self, run: str, metric: str, points: Points) -> bool:
        """Whether the point is there that the listing knows as newest: a server may stop earlier than others do."""
        latest = self._runs[run].metrics.get(metric)
        return latest is None or bool(
            ((points.step == latest.step) & (points.timestamp == latest.timestamp_ms)).any()
        )


class _Batches:
    """Which runs to ask for at once, so that an answer holds them whole.

    Args:
        steps: run -> how many points it would have if it had logged at every step up to its newest.
    """

    def __init__(self, steps: Mapping[str, int]) -> None:
        self._steps = steps
        self._waiting = deque(steps)
        self._seen_points = 0.0
        self._seen_steps = 0.0

    def take(self) -> tuple[str, ...] | None:
        """The next runs to ask for; None where none are left."""
        each = self._seen_points / self._seen_steps if self._seen_steps else 1.0
        batch: list[str] = []
        expected = 0.0
        while self._waiting and len(batch) < BULK_RUNS:
            expected += each * self._steps[self._waiting[0]]
            if batch and expected > _AIMED_POINTS:
                break
            batch.append(self._waiting.popleft())
        return tuple(batch) or None

    def learn(self, answer: BulkAnswer) -> None:
        """Learn from an answer how densely runs log, and take back what it had no room for."""
        self._seen_points += sum(len(points.step) for points in answer.whole.values())
        self._seen_steps += sum(self._steps[run] for run in answer.whole)
        if answer.long:
            self._seen_points += BULK_POINTS
            self._seen_steps += sum(min(self._steps[run], BULK_POINTS) for run in answer.long)
        self._waiting.extendleft(reversed(answer.again))

    def clear(self) -> None:
        """Ask for nothing more."""
        self._waiting.clear()
