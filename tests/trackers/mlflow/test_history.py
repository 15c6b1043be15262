"""The history artifact and its tag hold what was logged, and say so of nothing else."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.history import (
    HISTORY_PATH,
    HistoryTag,
    Points,
    decode_history,
    encode_history,
    history_tag,
)


def points(steps: list[int], values: list[float], times: list[int] | None = None) -> Points:
    times = times or [1_700_000_000_000 + step for step in range(len(steps))]
    return Points(np.array(steps, np.int64), np.array(values, float), np.array(times, np.int64))


METRICS = {
    "train/loss": points([0, 1, 2, 2, 5], [2.5, math.nan, math.inf, -math.inf, -0.0]),
    "größe/Verlust": points([-(2**62), 2**62], [5e-324, 1.7976931348623157e308]),
    "empty": points([], []),
}


def test_every_value_comes_back_to_the_bit_and_in_order() -> None:
    found = decode_history(encode_history(METRICS))
    assert list(found) == ["train/loss", "größe/Verlust"]  # a metric without points leaves no row
    for name, series in found.items():
        for got, put in zip(series, METRICS[name], strict=True):
            assert got.dtype == put.dtype
            assert got.tobytes() == put.tobytes()


def test_rows_that_are_the_same_stand_once_and_others_all() -> None:
    twice = {"loss": points([3, 3, 3, 3], [1.0, math.nan, math.nan, 1.0], [10, 10, 10, 11])}
    content = encode_history(twice)
    assert decode_history(content)["loss"].timestamp.tolist() == [10, 10, 11]
    tag = HistoryTag.parse(history_tag(twice, content) or "")
    assert tag is not None
    assert tag.points == {"loss": 3}


def test_no_metrics_at_all_are_a_file_too() -> None:
    assert decode_history(encode_history({})) == {}


def test_a_tag_knows_its_file() -> None:
    content = encode_history(METRICS)
    tag = HistoryTag.parse(history_tag(METRICS, content) or "")
    assert tag is not None
    assert tag.path == HISTORY_PATH
    assert tag.points == {"train/loss": 5, "größe/Verlust": 2}
    assert tag.holds(content)
    assert not tag.holds(content[:-1])


def test_a_tag_too_long_for_mlflow_is_none() -> None:
    many = {f"{'layer' * 40}{index}": points([0], [1.0]) for index in range(100)}
    assert history_tag(many, encode_history(many)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../history.parquet"},
        {"path": 3},
        {"sha256": "0"},
        {"sha256": None},
        {"points": {"loss": -1}},
        {"points": {"loss": "1"}},
        {"points": {"loss": True}},
        {"points": [1]},
    ],
)
def test_a_tag_that_says_anything_else_is_none(change: dict[str, object]) -> None:
    good = {"path": HISTORY_PATH, "sha256": "0" * 64, "points": {"loss": 1}}
    assert HistoryTag.parse(json.dumps(good)) is not None
    assert HistoryTag.parse(json.dumps(good | change)) is None


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '"x"', "{}"])
def test_text_that_is_no_tag_is_none(text: str) -> None:
    assert HistoryTag.parse(text) is None


def test_a_file_that_is_no_history_is_refused() -> None:
    content = encode_history(METRICS)
    for torn in (b"", b"PAR1", content[: len(content) // 2], b"<html>not found</html>"):
        with pytest.raises(TrackerError, match="no history of a run"):
            decode_history(torn)


def test_a_table_of_other_columns_is_refused() -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"metric": ["a"], "step": [1], "value": [None], "timestamp": [1]}), sink)
    with pytest.raises(TrackerError, match="no history of a run"):
        decode_history(bytes(sink.getvalue()))
