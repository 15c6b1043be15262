"""The history artifact: every point of a run in one Parquet file among its artifacts, and the tag that vouches for it.

A server gives a run's points back slowly and in pages; the file is one download. Its tag is written with the run's
status, last of all, so that a file without a tag is one that was never finished. Needs no MLflow.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from surge_sweeps.errors import TrackerError

#: Where the file lies among a run's artifacts, and the tag that names it.
HISTORY_PATH = "surge/history.parquet"
TAG_HISTORY = "surge.history"

_SCHEMA = pa.schema(
    [
        ("metric", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.int64()),
        ("value", pa.float64()),
        ("timestamp", pa.int64()),
    ]
)
_ENCODINGS = {
    "step": "DELTA_BINARY_PACKED",
    "value": "BYTE_STREAM_SPLIT",
    "timestamp": "DELTA_BINARY_PACKED",
}
_TAG_LIMIT = 5000  # servers before MLflow 3 cut a longer tag
_HASH = re.compile(r"[0-9a-f]{64}")


class Points(NamedTuple):
    """One metric of a run, as it was logged.

    Attributes:
        step: (n,) int64 optimizer step. value: (n,) float64, NaN and infinities kept.
        timestamp: (n,) int64 milliseconds since 1970, by the writer's clock.
    """

    step: NDArray[np.int64]
    value: NDArray[np.float64]
    timestamp: NDArray[np.int64]


def encode_history(metrics: Mapping[str, Points]) -> bytes:
    """The file's content. Rows of a metric that are the same in all columns stand once, as they do in the store,
    and a metric without points is left out.

    >>> one = Points(np.array([0, 1]), np.array([2.5, np.nan]), np.array([10, 20]))
    >>> decode_history(encode_history({"train/loss": one}))["train/loss"].value
    array([2.5, nan])
    """
    parts = [_without_repeats(points) for points in metrics.values()]
    codes = np.repeat(np.arange(len(parts), dtype=np.int32), [len(points.step) for points in parts])
    table = pa.table(
        [
            pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(metrics), pa.string())),
            pa.chunked_array([points.step for points in parts], pa.int64()),
            pa.chunked_array([points.value for points in parts], pa.float64()),
            pa.chunked_array([points.timestamp for points in parts], pa.int64()),
        ],
        schema=_SCHEMA,
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["metric"], column_encoding=_ENCODINGS)
    return bytes(sink.getvalue())


def decode_history(content: bytes) -> dict[str, Points]:
    """Metric -> its points, in the order they were logged.

    Raises:
        TrackerError: the content is no history file.
    """
    try:
        table = pq.read_table(pa.BufferReader(content))
        if table.schema.names != _SCHEMA.names or any(column.null_count for column in table.columns):
            raise ValueError("other columns, or holes in them")
        metric = table["metric"].combine_chunks().dictionary_encode()
        names, codes = metric.dictionary.to_pylist(), metric.indices.to_numpy()
        columns = [
            np.asarray(table[name].cast(_SCHEMA.field(name).type).to_numpy())
            for name in ("step", "value", "timestamp")
        ]
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise TrackerError(
            f"the file is no history of a run, or it is torn ({type(error).__name__}).",
            "Delete it; the run's points are in the store.",
        ) from error
    rows = [np.flatnonzero(codes == code) for code in range(len(names))]
    return {
        name: Points(*(column[which] for column in columns))
        for name, which in zip(names, rows, strict=True)
        if len(which)
    }


@dataclass(frozen=True)
class HistoryTag:
    """What a run's tag says of its history artifact.

    Attributes:
        path: where the file lies among the run's artifacts.
        sha256: hash of its content, 64 hexadecimal digits.
        points: metric -> number of its points.
    """

    path: str
    sha256: str
    points: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> HistoryTag | None:
        """The tag that `history_tag` wrote, or None for any other text.

        >>> HistoryTag.parse('{"path": "../../x", "sha256": "", "points": {}}') is None
        True
        """
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            found = json.loads(text)
            path, digest, points = found["path"], found["sha256"], dict(found["points"])
            counts = all(type(count) is int and count >= 0 for count in points.values())
            # Whoever can write tags must not choose which file is read.
            if path == HISTORY_PATH and _HASH.fullmatch(digest) and counts:
                return cls(path, digest, points)
        return None

    def holds(self, content: bytes) -> bool:
        """Whether it is this tag's file, whole and unchanged."""
        return hashlib.sha256(content).hexdigest() == self.sha256


def history_tag(metrics: Mapping[str, Points], content: bytes) -> str | None:
    """The tag for the file that `encode_history` made of the metrics; None if it is too long for MLflow.

    >>> one = {"loss": Points(np.array([0]), np.array([2.5]), np.array([10]))}
    >>> tag = HistoryTag.parse(history_tag(one, encode_history(one)))
    >>> tag.points, tag.holds(encode_history(one))
    ({'loss': 1}, True)
    """
    tag = {
        "path": HISTORY_PATH,
        "sha256": hashlib.sha256(content).hexdigest(),
        "points": {
            name: len(_without_repeats(points).step) for name, points in metrics.items() if len(points.step)
        },
    }
    text = json.dumps(tag, separators=(",", ":"))
    return text if len(text) <= _TAG_LIMIT else None


def _without_repeats(points: Points) -> Points:
    if len(points.step) == 0 or (np.diff(points.step) > 0).all():
        return points
    # pandas takes a NaN for equal to another, as the store does.
    first = ~pd.DataFrame(points._asdict()).duplicated().to_numpy()
    return Points(points.step[first], points.value[first], points.timestamp[first])
