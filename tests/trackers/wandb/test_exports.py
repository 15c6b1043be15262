"""Files of exported histories, in the forms that columns can have."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from wandb_server import WandbServer

from surge_sweeps.trackers.wandb.exports import download, read_points

NAN = math.nan


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "column",
    [
        pa.array([3, None, 2], pa.int64()),
        pa.array([3.0, None, 2.0], pa.float32()),
        pa.array([3.0, None, 2.0], pa.float64()),
        pa.array([Decimal(3), None, Decimal(2)], pa.decimal128(5, 1)),
        pa.array(["3", None, "2"], pa.string()),
        pa.array(["3", "warmup", "2"], pa.large_string()),
        pa.array(["3", None, "2"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_columns_of_numbers(tmp_path: Path, column: pa.Array) -> None:
    file = write(tmp_path / "a.parquet", _step=[0, 1, 2], loss=column, other=[1, 2, 3])
    points = read_points([file], "loss", None)
    assert points is not None
    assert (points.step.tolist(), points.value.tolist()) == ([0.0, 2.0], [3.0, 2.0])
    assert points.rows == (3 if "warmup" in column.to_pylist() else 2)


def test_what_is_no_number_and_what_is_not_finite(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.parquet",
        _step=[0, 1, 2, 3],
        loss=pa.array([1.0, NAN, -math.inf, None]),
        words=["NaN", "Infinity", "-Infinity", "no"],
        lists=[[1.0], [2.0], None, None],
        flags=[True, False, None, None],
    )
    for metric in ("loss", "words"):
        points = read_points([file], metric, None)
        assert points is not None
        assert len(points.value) == 3
    assert str(points.value.tolist()) == "[nan, inf, -inf]"
    for metric in ("lists", "flags"):
        points = read_points([file], metric, None)
        assert points is not None
        assert len(points.value) == 0


def test_a_metric_that_is_no_column_is_left_to_a_scan(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.parquet", _step=[0], val=[{"loss": 1.0}]),
        write(tmp_path / "b.parquet", loss=[1]),
    ]
    assert read_points(files[:1], "val.loss", None) is None
    assert read_points(files[1:], "loss", None) is None
    assert read_points(files[1:], "loss", "iter") is None


def test_a_file_with_damage_inside_is_left_to_a_scan(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", _step=list(range(5000)), loss=np.random.default_rng(0).random(5000))
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    assert read_points([file], "loss", None) is None


def test_an_axis_in_some_parts_only(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.parquet", _step=[0, 1], loss=[4.0, 3.0]),
        write(tmp_path / "b.parquet", _step=[2, 3], loss=[2.0, 1.0], iter=pa.array([None, 7])),
    ]
    points = read_points(files, "loss", "iter")
    assert points is not None
    assert str(points.step.tolist()) == "[nan, nan, nan, 7.0]"
    assert points.value.tolist() == [4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize("order", ["_timestamp", "_step"])
def test_parts_come_in_the_order_of_writing_whatever_their_names(
    tmp_path: Path, wandb_server: WandbServer, order: str
) -> None:
    def fetch(place: Path, require_complete_history: bool) -> SimpleNamespace:
        assert require_complete_history
        late = write(place / "0.parquet", **{order: [2.0, 3.0]}, loss=[2.0, 1.0])
        early = write(place / "1.parquet", **{order: [0.0, 1.0]}, loss=[4.0, 3.0])
        return SimpleNamespace(paths=[str(late), str(early)], errors=None)

    files = download(SimpleNamespace(download_history_exports=fetch), tmp_path / "7")
    assert files is not None
    assert np.concatenate([pq.read_table(file)["loss"].to_numpy() for file in files]).tolist() == [4, 3, 2, 1]


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_files_that_come_damaged_twice_are_given_up(
    tmp_path: Path, wandb_server: WandbServer, content: bytes
) -> None:
    places = []

    def fetch(place: Path, require_complete_history: bool) -> SimpleNamespace:
        places.append(place)
        place.mkdir(parents=True)
        (place / "0.parquet").write_bytes(content)
        return SimpleNamespace(paths=[place / "0.parquet"], errors={})

    assert download(SimpleNamespace(download_history_exports=fetch), tmp_path / "7") is None
    assert len(places) == 2
    assert not any(place.exists() for place in places)
