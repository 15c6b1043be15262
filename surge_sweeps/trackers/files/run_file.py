"""One run's Parquet file: its points as columns, metric after metric, and what is said of the run in the footer.

Files are only ever put in place whole, so that one that cannot be read was damaged afterwards; checksums tell.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.files.layout import put
from surge_sweeps.trackers.files.record import FileRun, MetricRows, OtherFormatError

_KEY = b"surge_sweeps"
_COLUMNS = ("step", "value", "time_ms")
#: Of a long run only the row groups of the metric asked for are read.
_GROUP_ROWS = 2**18
#: Steps and times rise by nearly the same from row to row; the exponents of losses are alike.
_ENCODINGS = {"step": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT", "time_ms": "DELTA_BINARY_PACKED"}


class Points(NamedTuple):
    """One metric of one run as logged: (n,) steps, (n,) values, (n,) times in milliseconds since 1970."""

    step: NDArray[np.int64]
    value: NDArray[np.float64]
    time_ms: NDArray[np.int64]


class DamagedRunError(TrackerError):
    """A file that holds no run that can be read."""


@dataclass(frozen=True, eq=False)
class WholeRun:
    """A run with its points: metric -> points."""

    run: FileRun
    points: Mapping[str, Points]


def write_run(path: Path, run: FileRun, points: Mapping[str, Points]) -> FileRun:
    """Put a run's file in place; return the run with its metrics counted. Metrics without points are left out.

    Raises:
        TrackerError: it cannot be written.
    """
    points = {name: columns for name, columns in points.items() if len(columns.step)}
    metrics = {
        name: MetricRows(len(one.step), int(one.step[-1]), int(one.time_ms[-1]), float(one.value[-1]))
        for name, one in points.items()
    }
    run = replace(run, metrics=metrics)
    kinds = (np.int64, np.float64, np.int64)
    columns = {
        name: np.concatenate([np.empty(0, kind), *(one[index] for one in points.values())])
        for index, (name, kind) in enumerate(zip(_COLUMNS, kinds, strict=True))
    }
    table = pa.table(columns, metadata={_KEY: run.to_json().encode()})
    content = io.BytesIO()
    pq.write_table(
        table,
        content,
        row_group_size=_GROUP_ROWS,
        compression="zstd",
        use_dictionary=False,
        column_encoding=_ENCODINGS,
        write_page_checksum=True,
    )
    put(path, content.getvalue())
    return run


def read_run(path: Path) -> FileRun:
    """What a file says of its run, without the points.

    Raises:
        FileNotFoundError: it is gone. DamagedRunError: it cannot be read, or is no file of a run.
    """
    try:
        return _run_of(pq.read_metadata(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def read_whole(path: Path) -> WholeRun:
    """A run with all its points; raises as `read_run` does."""
    return _read(path, None)


def read_metrics(path: Path, names: Sequence[str]) -> dict[str, Points]:
    """The points of some metrics; one that the run does not have has none. Raises as `read_run` does."""
    found = _read(path, names).points
    return {name: found.get(name, NO_POINTS) for name in names}


NO_POINTS = Points(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))


def append(one: Points, other: Points) -> Points:
    """The points of one, then those of the other."""
    return Points(
        np.concatenate([one.step, other.step]),
        np.concatenate([one.value, other.value]),
        np.concatenate([one.time_ms, other.time_ms]),
    )


def _read(path: Path, names: Sequence[str] | None) -> WholeRun:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            run = _run_of(file.metadata)
            if names is None or file.metadata.num_rows <= _GROUP_ROWS:
                return WholeRun(run, _split(run, _columns(file.read(list(_COLUMNS), use_threads=False))))
            return WholeRun(run, {name: _metric(file, run, name) for name in names})
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _run_of(metadata: Any) -> FileRun:
    text = (metadata.metadata or {}).get(_KEY)
    if text is None:
        raise ValueError("it was not written by this tool")
    run = FileRun.from_json(text)
    if sum(rows.rows for rows in run.metrics.values()) != metadata.num_rows:
        raise ValueError("its points and what it says of them disagree")
    return run


def _columns(table: Any) -> Points:
    return Points(*(table.column(name).to_numpy() for name in _COLUMNS))


def _split(run: FileRun, columns: Points) -> dict[str, Points]:
    found: dict[str, Points] = {}
    start = 0
    for name, metric in run.metrics.items():
        found[name] = _slice(columns, start, start + metric.rows)
        start += metric.rows
    return found


def _metric(file: Any, run: FileRun, name: str) -> Points:
    """The points of one metric of a long run, from the row groups that hold them."""
    if name not in run.metrics:
        return NO_POINTS
    before = list(run.metrics)[: list(run.metrics).index(name)]
    start = sum(run.metrics[other].rows for other in before)
    stop = start + run.metrics[name].rows
    groups = range(start // _GROUP_ROWS, (stop - 1) // _GROUP_ROWS + 1)
    columns = _columns(file.read_row_groups(list(groups), list(_COLUMNS), use_threads=False))
    first = groups.start * _GROUP_ROWS
    return _slice(columns, start - first, stop - first)


def _slice(columns: Points, start: int, stop: int) -> Points:
    return Points(columns.step[start:stop], columns.value[start:stop], columns.time_ms[start:stop])


def _damaged(path: Path, error: Exception) -> DamagedRunError:
    if isinstance(error, OtherFormatError):
        return DamagedRunError(
            f"{str(path)!r} cannot be read: {error}.", "Read it with the version that wrote it."
        )
    reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
    return DamagedRunError(
        f"{str(path)!r} holds no run that can be read: {reason.rstrip('.')}.",
        "Remove that file, then launch again: it runs the trial once more.",
    )
