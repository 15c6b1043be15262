"""The on-disk cache of logged series, so that a second read of a project fetches only new or changed runs.

One folder holds one metric of one project, as shards (`cache_shards`): files of some hundred thousand points each. What
was fetched is a shard of its own as soon as it is there, so that a read that fails keeps what it had, and a few changed
runs never make the rest be written again. What no shard needs any more is removed at the end of a whole read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.cache_shards import Columns, Entry, Shard, ShardFolder

#: About how many points are read, and kept in memory, at once.
CHUNK_POINTS = 2**20
#: So many runs at most: where a run's points are not counted, they are guessed by its newest step.
CHUNK_RUNS = 1000
#: More shards than these that are not half full are written again as few.
_SMALL_SHARDS = 8
#: For so long, and for one group at least, runs are compared with the store that most likely have not changed.
COMPARE_S = 2.0
_COMPARED_RUNS = 16
#: How far the clocks of programs that log may be behind this one's.
CLOCK_SLACK_MS = 15 * 60 * 1000


class CacheWarning(UserWarning):
    """The cache could not be used or written. The result is the same; the next read takes longer."""


@dataclass(frozen=True, eq=False)
class Series:
    """One metric of several runs as it was logged, flat: the rows of the first run, then of the second, and so on.

    Attributes:
        runs: the runs' names. rows: (runs,) number of rows of each.
        step: (n,) as logged, so a fraction where a program logged one. value: (n,) NaN and infinities kept.
        timestamp: (n,) milliseconds since 1970, by the writer's clock.
    """

    runs: tuple[str, ...]
    rows: NDArray[np.int64]
    step: NDArray[np.float64]
    value: NDArray[np.float64]
    timestamp: NDArray[np.int64]

    def run_index(self) -> NDArray[np.int64]:
        """(n,) for each row the position of its run in `runs`."""
        return np.repeat(np.arange(len(self.runs)), self.rows)

    def split(self) -> dict[str, Series]:
        """Each run's series on its own; the arrays are views."""
        ends = np.cumsum(self.rows)
        parts = zip(self.runs, self.rows, ends, strict=True)
        return {run: self._slice(run, int(end - rows), int(end)) for run, rows, end in parts}

    def take(self, runs: Sequence[str]) -> Series:
        """The series of some of its runs, in the order given; itself where these are all."""
        if tuple(runs) == self.runs:
            return self
        parts = self.split()
        return join_series([parts[run] for run in runs])

    def _slice(self, run: str, start: int, end: int) -> Series:
        rows = np.array([end - start], dtype=np.int64)
        return Series((run,), rows, self.step[start:end], self.value[start:end], self.timestamp[start:end])


def join_series(parts: Sequence[Series]) -> Series:
    """The series one after another; none at all gives an empty one.

    >>> join_series([]).runs
    ()
    """
    if len(parts) == 1:
        return parts[0]
    empty = Series((), np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, np.int64))
    parts = [empty, *parts]
    return Series(
        tuple(run for part in parts for run in part.runs),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.step for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.timestamp for part in parts]),
    )


#: Reads whole runs from the store, in the order asked for.
Fetch = Callable[[Sequence[str]], Series]


class Doubts(NamedTuple):
    """Runs that may have changed although their signatures have not.

    Attributes:
        likely: those that are fetched again unless it is known that nothing has come.
        unlikely: those that are compared with the store for as long as `COMPARE_S`, the first ones first; what is left
            is taken from the cache.
    """

    likely: set[str]
    unlikely: Sequence[str] = ()


@dataclass(frozen=True)
class Wanted:
    """What a read asks for, and what the store says of it.

    Attributes:
        signatures: run -> text that changes when the run's series does, as far as a listing tells; None: fetch it every
            time. Take them before fetching: a run that grows meanwhile is then fetched again next time.
        rows: how many rows the store says that runs have, None where it cannot: a shorter series is not kept, so that
            what is missing is asked for, and named, again.
        sizes: about how many rows runs have, to read them in chunks.
        doubtful: run -> when what the cache holds of it was last known to be the store's, in milliseconds since 1970;
            gives those that may have changed since although their signatures have not. The next two say which have not.
        count: how many rows runs have, None where the store cannot say. Rows are never taken away, nor changed.
        unchanged: run -> what the cache holds of it; gives those of them that are certainly the store's.
    """

    signatures: Mapping[str, str | None]
    rows: Mapping[str, int | None] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    doubtful: Callable[[Mapping[str, int]], Doubts] | None = None
    count: Callable[[Sequence[str]], Sequence[int | None]] | None = None
    unchanged: Callable[[Mapping[str, Series]], set[str]] | None = None


def chunks(runs: Iterable[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Runs in groups of about `CHUNK_POINTS` points, `CHUNK_RUNS` runs at most; a large run is a group of its own.

    >>> list(chunks("abc", {"a": 1_000_000, "b": 1_000_000, "c": 7}))
    [['a'], ['b', 'c']]
    """
    group: list[str] = []
    points = 0
    for run in runs:
        size = sizes.get(run, CHUNK_POINTS // CHUNK_RUNS)
        if group and (points + size > CHUNK_POINTS or len(group) == CHUNK_RUNS):
            yield group
            group, points = [], 0
        group.append(run)
        points += size
    if group:
        yield group


class SeriesCache:
    """The cache of one metric.

    Several processes may use it at once: each writes shards of its own, and what two of them fetched alike is kept once
    at the next read. A shard that another process removed meanwhile is fetched again.

    Args:
        folder: where the cache lies; made when missing.
        key: what is cached (tracker, store, project, metric). Only its hash enters the folder's name.

    Attributes:
        not_compared: the runs in doubt that the last read took from the cache by the store's listing alone.
    """

    def __init__(self, folder: Path, key: Sequence[str]) -> None:
        digest = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:32]
        self.path = folder / f"series-{digest}"
        self._older = folder / f"series-{digest}.parquet"
        self._shards = ShardFolder(self.path, list(key))
        self._writable = True
        self._warned = False
        self.not_compared: set[str] = set()

    def read(self, wanted: Wanted, fetch: Fetch) -> Iterator[Series]:
        """The series of the runs wanted, each run once, in parts of several runs and in any order.

        Only what the cache does not hold is fetched. A cache that cannot be read or written is told by a `CacheWarning`
        and the store read instead: the result is the same. The cache is tidied once all parts were taken.
        """
        began_ms = time.time_ns() // 1_000_000
        self.not_compared = set()
        missing = set(wanted.signatures)
        kept: dict[Shard, list[str]] = {}
        for shard, runs in self._usable(wanted).items():
            series = self._load(shard, runs)
            if series is not None:
                kept[shard] = runs
                missing.difference_update(runs)
                yield series
        for group in chunks([run for run in wanted.signatures if run in missing], wanted.sizes):
            series = fetch(group)
            written = self._keep(series, wanted, began_ms)
            if written is not None:
                kept[written] = list(written.runs)
            yield series
        self._tidy(kept, began_ms)

    def update(
        self, signatures: Mapping[str, str | None], fetch: Fetch, rows: Mapping[str, int | None] | None = None
    ) -> Series:
        """All parts of `read` as one series, in the order of the signatures."""
        return join_series(list(self.read(Wanted(signatures, rows or {}), fetch))).take(list(signatures))

    def _usable(self, wanted: Wanted) -> dict[Shard, list[str]]:
        """The shards to load, each with the runs to take from it: every run from one shard."""
        try:
            shards, unusable = self._shards.open()
        except OSError as error:
            self._warn(f"cannot be read ({_reason(error)}), and the store is read instead")
            return {}
        for path, why in unusable.items():
            self._discard(path, why)
        owner: dict[str, Shard] = {}
        for shard in shards:
            for run, entry in shard.runs.items():
                # Of two states that the listing does not tell apart, the one with more rows is the newer.
                is_newer = run not in owner or entry.rows >= owner[run].runs[run].rows
                if wanted.signatures.get(run) == entry.signature and is_newer:
                    owner[run] = shard
        for run in self._doubted(owner, wanted):
            del owner[run]
        return _by_shard(owner)

    def _doubted(self, owner: Mapping[str, Shard], wanted: Wanted) -> list[str]:
        """The runs held that have changed, or may well have."""
        if wanted.doubtful is None or not owner:
            return []
        doubts = wanted.doubtful({run: shard.runs[run].checked_ms for run, shard in owner.items()})
        unlikely = [run for run in doubts.unlikely if run in owner]
        return self._likely(doubts.likely, owner, wanted) + self._compared(unlikely, owner, wanted)

    def _likely(self, runs: Iterable[str], owner: Mapping[str, Shard], wanted: Wanted) -> list[str]:
        """Those of the runs of which it is not known that nothing has come."""
        doubted = [run for run in sorted(runs) if run in owner]
        counts = wanted.count(doubted) if wanted.count is not None else [None] * len(doubted)
        held = [owner[run].runs[run].rows for run in doubted]
        found = [run for run, rows, count in zip(doubted, held, counts, strict=True) if rows != count]
        unknown = [run for run, count in zip(doubted, counts, strict=True) if count is None]
        if wanted.unchanged is None or not unknown:
            return found
        sure: set[str] = set()
        for shard, runs in _by_shard({run: owner[run] for run in unknown}).items():
            series = self._load(shard, runs)
            sure |= set() if series is None else wanted.unchanged(series.split())
        return [run for run in found if run not in sure]

    def _compared(self, runs: Sequence[str], owner: Mapping[str, Shard], wanted: Wanted) -> list[str]:
        """Those of the runs that a comparison shows to have changed; what there is no time for is `not_compared`."""
        self.not_compared = set(runs)
        found: list[str] = []
        end_s = time.monotonic() + COMPARE_S
        if wanted.unchanged is None:
            return found
        for first in range(0, len(runs), _COMPARED_RUNS):
            group = {run: owner[run] for run in runs[first : first + _COMPARED_RUNS]}
            parts = [self._load(shard, some) for shard, some in _by_shard(group).items()]
            held = join_series([part for part in parts if part is not None]).split()
            sure = wanted.unchanged(held)
            found += [run for run in held if run not in sure]
            self.not_compared.difference_update(held)
            if time.monotonic() > end_s:
                break
        return found

    def _load(self, shard: Shard, runs: Sequence[str]) -> Series | None:
        """Some runs of a shard; None where it is gone, or damaged."""
        try:
            columns = shard.load()
        except FileNotFoundError:
            # Another process has tidied meanwhile.
            return None
        except (OSError, ValueError) as error:
            self._discard(shard.path, _reason(error))
            return None
        rows = np.array([entry.rows for entry in shard.runs.values()], dtype=np.int64)
        wanted = set(runs)
        return Series(tuple(shard.runs), rows, *columns).take([run for run in shard.runs if run in wanted])

    def _keep(self, series: Series, wanted: Wanted, began_ms: int) -> Shard | None:
        """Write what was fetched, but for runs that are to be fetched every time or came short."""
        counts = zip(series.runs, series.rows, strict=True)
        whole = {
            run: Entry(signature, int(rows), began_ms)
            for run, rows in counts
            if (signature := wanted.signatures[run]) is not None and rows >= (wanted.rows.get(run) or 0)
        }
        return self._write(series.take(list(whole)), whole, began_ms)

    def _write(self, series: Series, entries: Mapping[str, Entry], began_ms: int) -> Shard | None:
        if not self._writable or not series.runs:
            return None
        columns = Columns(series.step, series.value, series.timestamp)
        try:
            return self._shards.write([(run, entries[run]) for run in series.runs], columns, began_ms)
        except OSError as error:
            self._writable = False
            self._warn(
                f"cannot be written ({_reason(error)}): what it lacks is read from the store next time"
            )
            return None

    def _tidy(self, kept: Mapping[Shard, list[str]], began_ms: int) -> None:
        """Leave on the disk what was of use in this read, in files of some size, and nothing else of this cache."""
        if not self._writable or not self.path.is_dir():
            return
        live = {shard: sum(shard.runs[run].rows for run in runs) for shard, runs in kept.items()}
        small = [shard for shard, rows in live.items() if 2 * rows < CHUNK_POINTS]
        again = {shard for shard, rows in live.items() if 2 * rows < shard.points}
        again.update(small if len(small) > _SMALL_SHARDS else ())
        merged = self._merge({shard: runs for shard, runs in kept.items() if shard in again}, began_ms)
        kept = {shard: runs for shard, runs in kept.items() if shard not in again} | merged
        times = {
            shard: [self._known_ms(shard, run, runs, began_ms) for run in shard.runs]
            for shard, runs in ((shard, set(runs)) for shard, runs in kept.items())
        }
        try:
            names = {shard.path.name for shard in kept}
            for shard in self._shards.open().shards:
                # What another process has written since this read began is its own.
                if shard.path.name not in names and shard.used_ms < began_ms:
                    shard.path.unlink(missing_ok=True)
            for shard in again - kept.keys():
                shard.path.unlink(missing_ok=True)
            self._shards.say_checked(times)
            self._older.unlink(missing_ok=True)
        except OSError as error:
            self._warn(f"cannot be tidied ({_reason(error)})")

    def _known_ms(self, shard: Shard, run: str, asked: Collection[str], began_ms: int) -> int:
        """When what a shard holds of a run was last known to be the store's: now, if this read has asked for it."""
        return began_ms if run in asked and run not in self.not_compared else shard.runs[run].checked_ms

    def _merge(self, shards: Mapping[Shard, list[str]], began_ms: int) -> dict[Shard, list[str]]:
        """Write shards again as fewer; those that cannot be stay."""
        found: dict[Shard, list[str]] = {}
        sizes = {run: shard.runs[run].rows for shard, runs in shards.items() for run in runs}
        owner = {run: shard for shard, runs in shards.items() for run in runs}
        for group in chunks(owner, sizes):
            parts = _by_shard({run: owner[run] for run in group})
            series = [self._load(shard, runs) for shard, runs in parts.items()]
            joined = join_series([part for part in series if part is not None])
            known = {run: self._known_ms(owner[run], run, group, began_ms) for run in group}
            entries = {run: owner[run].runs[run]._replace(checked_ms=known[run]) for run in group}
            written = self._write(joined, entries, began_ms)
            if written is None:
                return found | dict(shards)
            found[written] = list(written.runs)
        return found

    def _discard(self, path: Path, why: str) -> None:
        """Remove a file that cannot be used; without a reason it is of another version."""
        if why:
            self._warn(
                f"was damaged ({why}), and what is missing there is read from the store and built again"
            )
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._warn(f"cannot be mended ({_reason(error)})")

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"the cache in {self.path.parent} {what}", CacheWarning, stacklevel=2)


def _by_shard(owner: Mapping[str, Shard]) -> dict[Shard, list[str]]:
    found: dict[Shard, list[str]] = {}
    for run, shard in owner.items():
        found.setdefault(shard, []).append(run)
    return found


def _reason(error: Exception) -> str:
    """What went wrong, without the names of files, which differ from time to time."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return " ".join(str(error).split())
