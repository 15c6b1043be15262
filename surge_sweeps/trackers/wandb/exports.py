"""Histories that W&B has exported as Parquet files: downloaded once a run, then read column by column.

What a file holds beyond plain numbers is told by W&B's JSON: NaN and infinities may stand as text, and so may every
number of a metric that was a text somewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from surge_sweeps.extras import require
from surge_sweeps.trackers.wandb.failures import read_again
from surge_sweeps.trackers.wandb.offline.run import STEP, TIMESTAMP, number

#: A download that came damaged is done once more before the slow way is taken.
_DOWNLOADS = 2


class Points(NamedTuple):
    """(n,) one metric of one run in the order it was written: steps, NaN where there is none, and values.

    `rows` is the number of rows that hold the metric, those counted that hold no number.
    """

    step: NDArray[np.float64]
    value: NDArray[np.float64]
    rows: int


def download(run: Any, folder: Path) -> tuple[Path, ...] | None:
    """Download a run's whole history.

    Args:
        run: W&B's run object. folder: where it goes; made, with a number behind its name.

    Returns:
        The files in the order they were written; None where W&B has not exported everything (yet), or the files came
        damaged twice: the history must then be scanned.

    Raises:
        TrackerError: the server is away.
    """
    runhistory = require("wandb.apis.public.runhistory", "wandb")
    for attempt in range(_DOWNLOADS):
        place = folder.with_name(f"{folder.name}-{attempt}")
        try:
            fetch = partial(run.download_history_exports, place, require_complete_history=True)
            result = read_again("read", fetch)
        except runhistory.IncompleteRunHistoryError:
            return None
        if not result.errors:
            files = _in_order([Path(path) for path in result.paths])
            if files is not None:
                return files or None
        shutil.rmtree(place, ignore_errors=True)
    return None


def read_points(files: Sequence[Path], metric: str, axis: str | None) -> Points | None:
    """The rows of a history that hold a metric.

    Args:
        files: of one run. metric: the metric. axis: the metric that gives the step, None: W&B's own.

    Returns:
        None where the files hold the metric or the axis in another form than a column of its own, or cannot be read.
    """
    steps, values = [np.empty(0)], [np.empty(0)]
    found = set()
    held = 0
    for file in files:
        try:
            table = _columns(file, [metric, axis or STEP])
        except (OSError, pa.ArrowException):
            return None
        found.update(table.column_names)
        if metric not in table.column_names:
            continue
        held += len(table) - table.column(metric).null_count
        there, value = _floats(table.column(metric))
        values.append(value[there])
        step = np.full(len(value), np.nan)
        if (axis or STEP) in table.column_names:
            known, step = _floats(table.column(axis or STEP))
            step = np.where(known, step, np.nan)
        steps.append(step[there])
    if not {metric, axis or STEP} <= found:
        return None
    return Points(np.concatenate(steps), np.concatenate(values), held)


def _columns(file: Path, names: Sequence[str]) -> pa.Table:
    """Those of some columns that a file has."""
    with pq.ParquetFile(file) as parquet:
        there = [name for name in dict.fromkeys(names) if name in parquet.schema_arrow.names]
        return parquet.read(columns=there, use_threads=False)


def _in_order(files: list[Path]) -> tuple[Path, ...] | None:
    """The files by the time of their first row, since a server may name them in any order; None if one is damaged."""
    try:
        if len(files) == 1:
            pq.read_metadata(files[0])
            return tuple(files)
        return tuple(sorted(files, key=_begin))
    except (OSError, pa.ArrowException):
        return None


def _begin(file: Path) -> tuple[float, str]:
    table = _columns(file, [TIMESTAMP, STEP])
    for name in (TIMESTAMP, STEP):
        if name in table.column_names:
            there, value = _floats(table.column(name))
            return (float(value[there][0]) if there.any() else -np.inf), file.name
    return -np.inf, file.name


def _floats(column: pa.ChunkedArray) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(n,) where the column holds a number, and the numbers, NaN elsewhere."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        parsed = [logged_number(text) for text in column.to_pylist()]
        value = np.array([np.nan if one is None else one for one in parsed], dtype=np.float64)
        return np.array([one is not None for one in parsed], dtype=bool), value
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return np.zeros(len(column), dtype=bool), np.full(len(column), np.nan)
    there = pc.is_valid(column).to_numpy()
    return there, column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=False)


def logged_number(value: object) -> float | None:
    """A logged value as a float, or None where it is none; a text that is a number counts as one.

    An export cannot tell the two apart where a metric was a text somewhere.

    >>> logged_number("NaN"), logged_number("-Infinity"), logged_number("0.5"), logged_number("warmup")
    (nan, -inf, 0.5, None)
    """
    found = number(value)
    if found is not None or not isinstance(value, str):
        return found
    try:
        return float(value)
    except ValueError:
        return None
