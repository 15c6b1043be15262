"""The history of a run: a compact block of columns for bulk loading, and rows appended by file_stream.

Numbers are kept as the client sent them, NaN and the infinities as the strings "NaN", "Infinity", "-Infinity"
(the form of every JSON answer) in appended rows, and as floats in the block.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from wandb_server.values import JsonObject, spell_number, spell_numbers

NUMBER_WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class History:
    """Rows in the order of their line numbers, usually that of their steps."""

    def __init__(self) -> None:
        self.block: pa.Table | None = None
        self.tail: list[JsonObject] = []
        self.version = 0
        self._steps: tuple[int, list[float]] = (-1, [])
        self._sorted = True
        self._keys: tuple[int, dict[str, int]] = (-1, {})

    def __len__(self) -> int:
        return self.block_rows + len(self.tail)

    @property
    def block_rows(self) -> int:
        """Number of rows in the block of columns."""
        return 0 if self.block is None else int(self.block.num_rows)

    def load_columns(self, columns: Mapping[str, Any]) -> None:
        """Replace everything by columns of equal length (arrays or lists); a missing ``_step`` counts rows."""
        arrays = {name: pa.array(values) for name, values in columns.items()}
        if "_step" not in arrays:
            rows = len(next(iter(arrays.values()))) if arrays else 0
            arrays = {"_step": pa.array(range(rows), pa.int64()), **arrays}
        self.block, self.tail = pa.table(arrays), []
        self.version += 1

    def load_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace everything by rows; a row without ``_step`` gets its line number."""
        self.block = None
        self.tail = [spell_numbers({"_step": line, **row}) for line, row in enumerate(rows)]
        self.version += 1

    def write(self, offset: int, rows: Sequence[JsonObject]) -> None:
        """Write rows at a line number: a chunk sent again lands on itself instead of being added twice.

        Lines of the block stay as they are, and a gap before ``offset`` is closed.
        """
        start = min(max(offset - self.block_rows, 0), len(self.tail))
        self.tail[start : start + len(rows)] = rows
        self.version += 1

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows at the end, as a run that goes on does; a row without ``_step`` gets its line number."""
        first = len(self)
        self.write(first, [spell_numbers({"_step": first + n, **row}) for n, row in enumerate(rows)])

    def steps(self) -> list[float]:
        """``_step`` of every row."""
        if self._steps[0] != self.version:
            steps = [] if self.block is None else self.block.column("_step").to_pylist()
            steps = steps + [row["_step"] for row in self.tail]
            self._steps = (self.version, steps)
            self._sorted = all(before <= after for before, after in pairwise(steps))
        return self._steps[1]

    @property
    def last_step(self) -> int:
        """The largest step, -1 for an empty history."""
        return int(max(self.steps(), default=-1))

    def key_counts(self) -> dict[str, int]:
        """How many rows carry each key; keys of nested dictionaries are joined by dots."""
        if self._keys[0] != self.version:
            counts: dict[str, int] = {}
            if self.block is not None:
                for name in self.block.column_names:
                    counts[name] = self.block_rows - self.block.column(name).null_count
            for row in self.tail:
                for name in flat(row):
                    counts[name] = counts.get(name, 0) + 1
            self._keys = (self.version, counts)
        return self._keys[1]

    def rows(
        self, first: int = 0, last: int | None = None, keys: Sequence[str] | None = None
    ) -> list[JsonObject]:
        """Rows by line number, as JSON carries them; with ``keys``, only rows that have all of these."""
        first, last = max(first, 0), len(self) if last is None else min(last, len(self))
        found = list(self._block_rows(first, min(last, self.block_rows), keys))
        tail = self.tail[max(first - self.block_rows, 0) : max(last - self.block_rows, 0)]
        return found + (tail if keys is None else with_keys(tail, keys))

    def between(
        self, low: float, high: float, keys: Sequence[str] | None = None, first: int = 0
    ) -> list[JsonObject]:
        """Rows with ``low <= _step < high``, from line ``first`` on."""
        steps = self.steps()
        if self._sorted:
            return self.rows(max(first, bisect_left(steps, low)), bisect_left(steps, high), keys)
        found = [row for row in self.rows(first) if low <= row["_step"] < high]
        return found if keys is None else with_keys(found, keys)

    def _block_rows(self, first: int, last: int, keys: Sequence[str] | None) -> Iterator[JsonObject]:
        if self.block is None or first >= last:
            return
        names = self.block.column_names if keys is None else list(dict.fromkeys(keys))
        if any(name not in self.block.column_names for name in names):
            return
        part = self.block.slice(first, last - first)
        for values in zip(*(part.column(name).to_pylist() for name in names), strict=True):
            if keys is None:
                yield {name: spell_number(v) for name, v in zip(names, values, strict=True) if v is not None}
            elif None not in values:
                yield {name: spell_number(value) for name, value in zip(names, values, strict=True)}


def with_keys(rows: Iterable[JsonObject], keys: Sequence[str]) -> list[JsonObject]:
    """These keys of the rows that have all of them."""
    flat_rows = [flat(row) for row in rows]
    return [{key: row[key] for key in keys} for row in flat_rows if all(key in row for key in keys)]


def flat(row: Mapping[str, Any], prefix: str = "") -> JsonObject:
    """Values of nested dictionaries under dotted keys; media (dictionaries with ``_type``) stay whole.

    >>> flat({"_step": 0, "val": {"loss": 0.5}})
    {'_step': 0, 'val.loss': 0.5}
    """
    found: JsonObject = {}
    for key, value in row.items():
        if isinstance(value, dict) and "_type" not in value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def sample(rows: list[JsonObject], count: int) -> list[JsonObject]:
    """At most ``count`` rows at equal distances, the first and the last among them."""
    if len(rows) <= count:
        return rows
    return [rows[i] for i in sorted({round(n * (len(rows) - 1) / max(count - 1, 1)) for n in range(count)})]
