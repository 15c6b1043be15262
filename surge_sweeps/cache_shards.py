"""The files of a cache: shards, Parquet files that each hold the whole series of some runs and say so themselves.

Points and what they are of are one file, put in place by a rename, so that they can never disagree: whatever instant a
process is killed at, what stands there is whole. A folder of shards has no other index than their footers.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

#: Of the files. Those of another version are built again.
SHARD_VERSION = 3

_MANIFEST = b"surge_sweeps"
_COLUMNS = ("step", "value", "timestamp")
_CHECKED = "checked.json"
#: A file that has been in the making for so long is one that a killed process left behind.
_LEFTOVER_S = 3600.0
#: Steps and times rise by nearly the same from row to row; the exponents of losses are alike.
_ENCODINGS = {"step": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT", "timestamp": "DELTA_BINARY_PACKED"}

FloatArray = NDArray[np.float64]


class Entry(NamedTuple):
    """One run of a shard.

    Attributes:
        signature: the state of the store that it was read in. rows: its number of points.
        checked_ms: when, in milliseconds since 1970, what is held was last known to be the store's.
    """

    signature: str
    rows: int
    checked_ms: int


class Columns(NamedTuple):
    """The points of all runs of a shard, one run after the other."""

    step: FloatArray
    value: FloatArray
    timestamp: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shard:
    """One file.

    Attributes:
        path: the file. runs: run -> what is held of it, in the order of its points.
        written_ms: since when the file is there, in milliseconds since 1970.
    """

    path: Path
    runs: Mapping[str, Entry]
    written_ms: int

    @property
    def used_ms(self) -> int:
        """When it was written, or last of use."""
        return max(self.written_ms, *(entry.checked_ms for entry in self.runs.values()))

    @property
    def points(self) -> int:
        """How many points it holds."""
        return sum(entry.rows for entry in self.runs.values())

    def load(self) -> Columns:
        """Its points.

        Raises:
            FileNotFoundError: it was removed. OSError, ValueError: it cannot be read, or is damaged.
        """
        try:
            table = pq.read_table(self.path, page_checksum_verification=True, use_threads=False)
            if table.column_names != list(_COLUMNS) or table.num_rows != self.points:
                raise ValueError("its columns and its list of runs disagree")
            step, value, timestamp = (table.column(name).to_numpy() for name in _COLUMNS)
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error
        return Columns(
            np.asarray(step, dtype=np.float64), np.asarray(value, np.float64), np.asarray(timestamp, np.int64)
        )


class Opened(NamedTuple):
    """The shards of a folder, and the files that are none: path -> why, empty where it is but of another version."""

    shards: list[Shard]
    unusable: dict[Path, str]


class ShardFolder:
    """The shards of one metric.

    Args:
        path: the folder, made at the first write. key: what is cached; a shard of another key is not this folder's.
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path = path
        self._key = list(key)

    def open(self) -> Opened:
        """Every shard without its points, in the order in which they were of use; raises OSError."""
        found = Opened([], {})
        if not self.path.is_dir():
            return found
        checked = self._checked()
        for path in sorted(self.path.glob("shard-*.parquet")):
            try:
                found.shards.append(self._open(path, checked.get(path.name, [])))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
                if isinstance(error, PermissionError):
                    raise
                found.unusable[path] = "" if isinstance(error, _OtherVersionError) else str(error)
        found.shards.sort(key=lambda shard: shard.used_ms)
        return found

    def write(self, runs: Iterable[tuple[str, Entry]], columns: Columns, written_ms: int) -> Shard:
        """Put a new shard in place, whole or not at all; raises OSError where that cannot be done."""
        entries = dict(runs)
        manifest = {
            "version": SHARD_VERSION,
            "key": self._key,
            "written_ms": written_ms,
            "runs": [[run, *entry] for run, entry in entries.items()],
        }
        table = pa.table(
            {
                "step": _narrow(columns.step),
                "value": columns.value,
                "timestamp": np.asarray(columns.timestamp, dtype=np.int64),
            },
            metadata={_MANIFEST: json.dumps(manifest).encode()},
        )
        encodings = dict(_ENCODINGS)
        if table.schema.field("step").type != pa.int64():
            encodings["step"] = "BYTE_STREAM_SPLIT"
        self.path.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():x}-{secrets.token_hex(4)}"
        temporary, path = self.path / f".shard-{name}.tmp", self.path / f"shard-{name}.parquet"
        try:
            pq.write_table(
                table,
                temporary,
                compression="zstd",
                use_dictionary=False,
                column_encoding=encodings,
                write_page_checksum=True,
            )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return Shard(path, entries, written_ms)

    def say_checked(self, times: Mapping[Shard, Sequence[int]]) -> None:
        """Say when the runs of each shard were last known to be the store's, and remove leftovers; raises OSError."""
        text = json.dumps({shard.path.name: list(checked) for shard, checked in times.items()})
        temporary = self.path / f".checked-{secrets.token_hex(4)}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path / _CHECKED)
        finally:
            temporary.unlink(missing_ok=True)
        for path in self.path.glob(".*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                    path.unlink()
            except FileNotFoundError:
                continue

    def _open(self, path: Path, checked: Sequence[int]) -> Shard:
        metadata = pq.read_metadata(path)
        manifest: dict[str, Any] = json.loads((metadata.metadata or {})[_MANIFEST])
        if manifest["version"] != SHARD_VERSION:
            raise _OtherVersionError
        if manifest["key"] != self._key:
            raise ValueError("it holds another project or metric")
        listed = manifest["runs"]
        later = checked if len(checked) == len(listed) else [0] * len(listed)
        runs = {
            str(run): Entry(str(signature), int(rows), max(int(checked_ms), since_ms))
            for (run, signature, rows, checked_ms), since_ms in zip(listed, later, strict=True)
        }
        shard = Shard(path, runs, int(manifest["written_ms"]))
        if shard.points != metadata.num_rows or any(entry.rows < 0 for entry in runs.values()):
            raise ValueError("its points and its list of runs disagree")
        return shard

    def _checked(self) -> dict[str, list[int]]:
        """When the runs of shards were last compared with the store. Without that each shard tells what held when it
        was written."""
        try:
            found = json.loads((self.path / _CHECKED).read_text(encoding="utf-8"))
            return {str(name): [int(checked_ms) for checked_ms in times] for name, times in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


class _OtherVersionError(ValueError):
    """A shard of another version of this program."""


def _narrow(step: FloatArray) -> NDArray[np.int64] | FloatArray:
    """Steps as whole numbers where they all are, which takes a fraction of the place.

    >>> _narrow(np.array([1.0, 2.0])).dtype.kind, _narrow(np.array([1.0, np.nan])).dtype.kind
    ('i', 'f')
    """
    if step.size and not np.isfinite(step).all():
        return step
    with np.errstate(invalid="ignore"):
        whole = step.astype(np.int64)
    is_exact = bool((np.abs(step) < 2.0**53).all() and (whole == step).all())
    has_minus_zero = bool(np.signbit(step[whole == 0]).any())
    return whole if is_exact and not has_minus_zero else step
