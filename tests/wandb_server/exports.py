"""Parquet exports of finished runs: what ``download_history_exports`` and ``scan_history`` read."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wandb_server.history import NUMBER_WORDS, History, flat
from wandb_server.values import JsonObject


@dataclass(frozen=True)
class Exports:
    """What the server has exported of a run.

    ``available``: finished runs have an export (runs that still go on never have one, as on W&B).
    ``live_tail``: number of last rows that are not exported yet.
    ``part_rows``: rows per file; ``None`` writes one file.
    ``live_overlap``: pages of live rows hold the exported rows too, which the client then reads twice.
    """

    available: bool = True
    live_tail: int = 0
    part_rows: int | None = None
    live_overlap: bool = False


@dataclass(frozen=True)
class Export:
    """The files of one run, and the rows that are only live."""

    files: tuple[bytes, ...] = ()
    live_steps: tuple[float, ...] = ()


def export_history(history: History, exports: Exports) -> Export:
    """Write the exported part of a history as Parquet."""
    exported = max(len(history) - exports.live_tail, 0)
    live = tuple(float(step) for step in history.steps()[exported:])
    if not exported:
        return Export((), live)
    size = exports.part_rows or exported
    files = [write_parquet(history, first, min(first + size, exported)) for first in range(0, exported, size)]
    return Export(tuple(files), live)


def write_parquet(history: History, first: int, last: int) -> bytes:
    """Rows ``first`` to ``last`` (exclusive) as one Parquet file."""
    if history.block is not None and last <= history.block_rows:
        table = history.block.slice(first, last - first)
    else:
        table = table_of_rows(history.rows(first, last))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def table_of_rows(rows: Sequence[JsonObject]) -> pa.Table:
    """Rows as columns, missing values as nulls."""
    flat_rows = [flat(row) for row in rows]
    names = dict.fromkeys(name for row in flat_rows for name in row)
    return pa.table({name: column([row.get(name) for row in flat_rows]) for name in sorted(names)})


def column(values: list[Any]) -> pa.Array:
    """One column: numeric where every value is a number or one of the words for NaN and the infinities.

    >>> column([1.0, "NaN", None]).type, column([1, 2]).type, column([1, "a"]).to_pylist()
    (DataType(double), DataType(int64), ['1', 'a'])
    """
    present = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in present):
        return pa.array(values, pa.bool_())
    if all(isinstance(value, int) and not isinstance(value, bool) for value in present):
        return pa.array(values, pa.int64())
    if all(is_number(value) for value in present):
        return pa.array([NUMBER_WORDS.get(v, v) if isinstance(v, str) else v for v in values], pa.float64())
    return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string())


def is_number(value: object) -> bool:
    """Whether a value is a number, or one of the words for NaN and the infinities."""
    return value in NUMBER_WORDS if isinstance(value, str) else isinstance(value, (int, float))
