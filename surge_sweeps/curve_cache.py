"""The on-disk cache of logged series, so that a second read of a project fetches only new or changed runs.

One Parquet file holds one metric of one project: the flat columns step, value and timestamp, run after run. Its own
metadata carries the manifest (JSON): for each run a signature of its state in the store, and its number of rows. One
file, replaced atomically, so that points and manifest can never disagree. A torn, foreign or older file is rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

CACHE_VERSION = 1

_MANIFEST = b"surge_sweeps"
_COLUMNS = ("step", "value", "timestamp")
_log = logging.getLogger(__name__)


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

    def _slice(self, run: str, start: int, end: int) -> Series:
        rows = np.array([end - start], dtype=np.int64)
        return Series((run,), rows, self.step[start:end], self.value[start:end], self.timestamp[start:end])


def join_series(parts: Sequence[Series]) -> Series:
    """The series one after another; none at all gives an empty one.

    >>> join_series([]).runs
    ()
    """
    empty = Series((), np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, np.int64))
    parts = [empty, *parts]
    return Series(
        tuple(run for part in parts for run in part.runs),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.step for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.timestamp for part in parts]),
    )


class _Manifest(TypedDict):
    version: int
    key: list[str]
    runs: list[tuple[str, str | None, int]]


class SeriesCache:
    """The cache of one metric.

    Args:
        folder: where the file goes; made when missing.
        key: what is cached (tracker, store, project, metric). Only its hash enters the file's name.
    """

    def __init__(self, folder: Path, key: Sequence[str]) -> None:
        self._key = list(key)
        digest = hashlib.sha256(json.dumps(self._key).encode()).hexdigest()
        self.path = folder / f"series-{digest[:32]}.parquet"

    def update(
        self,
        signatures: Mapping[str, str | None],
        fetch: Callable[[Sequence[str]], Series],
        rows: Mapping[str, int | None] | None = None,
    ) -> Series:
        """The series of the runs in `signatures`, in that order, fetched only where the cache does not hold them.

        Args:
            signatures: run -> text that changes whenever the run's series may have; None: fetch it every time.
                Take them before fetching: a run that grows meanwhile is then fetched again next time.
            fetch: reads whole runs from the store, in the order asked for.
            rows: how many rows the store says that runs have: a shorter series is not kept, so that what is missing
                is asked for, and named, again.

        A cache that cannot be read or written is logged and the store read instead: the result is the same.
        """
        known, held = self._read()
        fresh = [
            run for run, signature in signatures.items() if signature is None or known.get(run) != signature
        ]
        fetched = fetch(fresh).split() if fresh else {}
        series = join_series([fetched[run] if run in fetched else held[run] for run in signatures])
        expected = rows or {}
        whole = {
            run: None if held < (expected.get(run) or 0) else signatures[run]
            for run, held in zip(series.runs, series.rows, strict=True)
        }
        if known != whole or fresh:
            self._write(series, whole)
        return series

    def _read(self) -> tuple[dict[str, str | None], dict[str, Series]]:
        if not self.path.exists():
            return {}, {}
        try:
            table = pq.read_table(self.path, page_checksum_verification=True)
            manifest: _Manifest = json.loads((table.schema.metadata or {})[_MANIFEST])
            if manifest["version"] != CACHE_VERSION or manifest["key"] != self._key:
                raise ValueError("written by another version or for another project")
            series = _to_series(table, manifest)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            _log.warning("the cache %s is not usable (%s) and is built again", self.path, error)
            return {}, {}
        return {run: signature for run, signature, _ in manifest["runs"]}, series.split()

    def _write(self, series: Series, signatures: Mapping[str, str | None]) -> None:
        runs = [(run, signatures[run], int(rows)) for run, rows in zip(series.runs, series.rows, strict=True)]
        manifest = _Manifest(version=CACHE_VERSION, key=self._key, runs=runs)
        columns = {name: getattr(series, name) for name in _COLUMNS}
        table = pa.table(columns, metadata={_MANIFEST: json.dumps(manifest).encode()})
        try:
            _replace_parquet(table, self.path)
        except OSError as error:
            _log.warning(
                "the cache %s cannot be written (%s); the next read starts from the store", self.path, error
            )


def _to_series(table: pa.Table, manifest: _Manifest) -> Series:
    rows = np.array([count for _, _, count in manifest["runs"]], dtype=np.int64)
    if table.column_names != list(_COLUMNS) or rows.sum() != table.num_rows or (rows < 0).any():
        raise ValueError("its columns and its manifest disagree")
    columns = [table.column(name).to_numpy() for name in _COLUMNS]
    step, value, timestamp = (
        np.asarray(column, dtype=kind) for column, kind in zip(columns, (float, float, np.int64), strict=True)
    )
    return Series(tuple(run for run, _, _ in manifest["runs"]), rows, step, value, timestamp)


def _replace_parquet(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
