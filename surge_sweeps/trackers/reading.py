"""Reading the series of runs, each once: from the cache, from what was looked at before, or from the store.

What a listing tells of a run decides whether the cache still holds for it:

- A run whose number of points the listing tells (W&B, files on disk) is unchanged while its state, its newest point and
  that number are.
- Where counting is dear, as in a database, only runs are counted that may have changed although their state and
  newest point have not: those that go on, and those that have a point stamped since the cache was last compared with
  the store (`touched`), as from a program that evaluates old checkpoints later. A run that was started again has
  another end time.
- Where nothing counts points (an MLflow server), one small request a run compares it with the store (`unchanged`). Runs
  that go on are all compared: one that was resumed at a lower step keeps its newest point while it logs others. So are
  those that have ended, since evaluations may come late, but for no longer than `COMPARE_S` in a read, the one that was
  compared longest ago first, and in turn one that ended within `RECENT_MS` and an older one.
- Where no comparison can be made (folders and other databases, through MLflow's client; over HTTP a metric on another's
  axis), runs that go on are read again, and one that has ended is unchanged while its state, end and newest point are.

`Reading.route` says how many runs were taken from the cache without a comparison. Of those, a point stays unseen that
somebody wrote after their end at a step below their newest. In a database it is one that has a time from before the
cache was last compared: without the cache it is read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple, Protocol

from surge_sweeps.counting import counted
from surge_sweeps.curve_cache import CLOCK_SLACK_MS, Doubts, Series, SeriesCache, Wanted, chunks, join_series
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.stored_runs import StoredRun

#: Where only a run's newest step tells how many points it may have, they are taken for no more than this.
_MOST_GUESSED = 20_000
#: Evaluations that come after a run's end most often come within so many milliseconds.
RECENT_MS = 7 * 24 * 3600 * 1000
#: So many runs tell whether a metric is a curve or one number a run: to count the points of 10,000 takes seconds.
_COUNTED_RUNS = 500


class SeriesSource(Protocol):
    """Where the series of a project's runs come from."""

    @property
    def route(self) -> str:
        """By what way points are read, in words for the user; what depends on the runs is known after `fetch`."""
        ...

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """How many points of a metric each run has; None where the store cannot say."""
        ...

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """Every point of a metric, run after run in the order given; infinities and NaN as they were logged.

        Args:
            runs: the runs' names. metric: the metric.
            axis: the metric logged in the same row that gives `Series.step`, NaN where a row has none; None: the
                store's own step.
        """
        ...


class Origin(NamedTuple):
    """What is read.

    Attributes:
        project: as the user calls it. source: the store, without secrets. identity: the store's own, exact.
        own_step: the store's own step is one that the program gave with each point; on W&B it may count log calls.
    """

    project: str
    source: str
    identity: tuple[str, ...]
    own_step: bool = False


@dataclass(frozen=True)
class Reading:
    """The series of one project.

    Attributes:
        source: the store. May have `touched(metric, since_ms)`, the runs that have a point stamped since then, or None
            where it cannot say; and `unchanged(held, metric)`, which of some series (run -> `Series`) are all it has.
        origin, options: see there.
    """

    source: SeriesSource
    origin: Origin
    options: ReadOptions
    _seen: dict[tuple[str, str], Series] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)
    _fetched: set[str] = field(default_factory=set)
    _not_compared: set[str] = field(default_factory=set)

    def route(self) -> str:
        """By what way the points came, once they are read."""
        cached = len(self._asked - self._fetched)
        if not cached:
            return self.source.route if self._fetched else ""
        left = len(self._not_compared - self._fetched)
        unsure = f"{left} of them not compared with the store this time" if left else ""
        if not self._fetched:
            return f"the cache ({unsure})" if unsure else "the cache"
        words = f"{cached} of {counted(len(self._asked), 'run')}{', ' if unsure else ''}{unsure}"
        return f"the cache ({words}), else {self.source.route}"

    def count(self, stored: Sequence[StoredRun], metric: str) -> list[int | None]:
        """How many points of a metric runs have; None where the store cannot say. Of very many runs only some."""
        every = math.ceil(len(stored) / _COUNTED_RUNS) or 1
        return self.source.count([run.run for run in stored[::every]], metric)

    def look(self, stored: Sequence[StoredRun], metric: str) -> Series:
        """A metric by the store's own step, before it is known what is read."""
        # Kept apart in the cache, which holds the runs of its last read alone.
        parts = list(self._parts(stored, metric, None, (*self.origin.identity, "sample")))
        series = join_series(parts).take([run.run for run in stored])
        self._seen.update({(metric, run): part for run, part in series.split().items()})
        return series

    def parts(self, stored: Sequence[StoredRun], metric: str, axis: str | None) -> Iterator[Series]:
        """A metric by an axis, None: the store's own step. Each run once, several at a time, in any order."""
        return self._parts(stored, metric, axis, self.origin.identity)

    def _parts(
        self, stored: Sequence[StoredRun], metric: str, axis: str | None, identity: tuple[str, ...]
    ) -> Iterator[Series]:
        runs = [run.run for run in stored]
        self._asked.update(runs)
        if not runs:
            return
        if self.options.cache_dir is None:
            for group in chunks(runs, _sizes(stored, metric)):
                yield self._from_store(group, metric, axis)
            return
        # A series holds the axis as it was logged, so the cache is of the metric and its axis.
        key = (*identity, metric) if axis is None else (*identity, metric, axis)
        cache = SeriesCache(self.options.cache_dir, key)
        yield from cache.read(
            self._wanted(stored, metric, axis), lambda changed: self._from_store(changed, metric, axis)
        )
        self._not_compared.update(cache.not_compared)

    def _wanted(self, stored: Sequence[StoredRun], metric: str, axis: str | None) -> Wanted:
        source = self.source
        touched: Callable[[str, int], set[str] | None] | None = getattr(source, "touched", None)
        unchanged: Callable[[Mapping[str, Series], str], set[str]] | None = getattr(source, "unchanged", None)
        sizes = _sizes(stored, metric)
        rows: dict[str, int | None] = {}
        if touched is None:
            rows = dict(zip(sizes, source.count(list(sizes), metric), strict=True))
            sizes |= {run: count for run, count in rows.items() if count is not None}
        signatures: dict[str, str | None] = {
            run.run: run.signature(metric, axis, rows.get(run.run)) for run in stored
        }
        counts_known = touched is None and None not in rows.values()

        def doubtful(held: Mapping[str, int]) -> Doubts:
            open_runs = {run.run for run in stored if run.ended == "running"}
            since_ms = min(held.values()) - CLOCK_SLACK_MS
            found = None if touched is None else touched(metric, since_ms)
            if touched is None or found is None:
                return Doubts(open_runs, _compared_in_turn(stored, held))
            beside = set() if axis is None else touched(axis, since_ms)
            return Doubts(open_runs | found | (beside or set()))

        # A new point of the axis alone leaves the count as it was.
        is_own = axis is None
        return Wanted(
            signatures,
            rows,
            sizes,
            doubtful=None if counts_known else doubtful,
            count=(lambda runs: source.count(runs, metric)) if touched is not None and is_own else None,
            unchanged=(lambda held: unchanged(held, metric)) if unchanged is not None and is_own else None,
        )

    def _from_store(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        seen = {run: self._seen[metric, run] for run in runs if axis is None and (metric, run) in self._seen}
        others = [run for run in runs if run not in seen]
        if others:
            self._fetched.update(others)
            series = self.source.fetch(others, metric, axis)
            if not seen:
                return series
            seen |= series.split()
        return join_series([seen[run] for run in runs])


def _compared_in_turn(stored: Sequence[StoredRun], held: Mapping[str, int]) -> list[str]:
    """The runs that have ended, those first that were compared longest ago: a recent one, an older one, and so on."""
    ended = sorted(
        (run for run in stored if run.ended != "running" and run.run in held), key=lambda run: held[run.run]
    )
    since_ms = time.time_ns() // 1_000_000 - RECENT_MS
    recent = [run.run for run in ended if (run.end_ms or run.start_ms or 0) >= since_ms]
    older = [run.run for run in ended if (run.end_ms or run.start_ms or 0) < since_ms]
    return [run for pair in zip_longest(recent, older) for run in pair if run is not None]


def _sizes(stored: Sequence[StoredRun], metric: str) -> dict[str, int]:
    """About how many points of a metric runs have, by their newest steps."""
    newest = {run.run: run.metrics[metric].step for run in stored}
    return {run: int(min(step, _MOST_GUESSED)) + 1 if step > 0 else 1 for run, step in newest.items()}
