"""A second read fetches only what changed and equals a read without a cache."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from surge_sweeps import cache_shards, curve_cache
from surge_sweeps.curve_cache import CacheWarning, Doubts, Series, SeriesCache, Wanted, join_series
from surge_sweeps.curves import LossCurves
from surge_sweeps.trackers import collect
from surge_sweeps.trackers.mlflow import reader as mlflow_reader

Log = Callable[..., str]

PARAMS = {"lr": 0.1, "batch_size": 8, "seed": 0}
LOSS = {"eval/loss": [(1, 2.0), (2, math.nan), (3, math.inf)], "examples": [(1, 8.0), (2, 16.0), (3, 24.0)]}


def series(**points: Sequence[tuple[float, float]]) -> Series:
    parts = []
    for run, logged in points.items():
        step, value = (np.array(column, dtype=float) for column in zip(*logged, strict=True))
        rows = np.array([len(step)])
        parts.append(Series((run,), rows, step, value, np.arange(len(step), dtype=np.int64)))
    return join_series(parts)


class Store:
    """Counts what is asked of it."""

    def __init__(self, **points: Sequence[tuple[float, float]]) -> None:
        self.points = points
        self.asked: list[str] = []

    def fetch(self, runs: Sequence[str]) -> Series:
        self.asked = list(runs)
        return series(**{run: self.points[run] for run in runs})


def same(left: Series, right: Series) -> bool:
    return left.runs == right.runs and all(
        np.array_equal(getattr(left, name), getattr(right, name), equal_nan=name == "value")
        for name in ("rows", "step", "value", "timestamp")
    )


def test_only_new_and_changed_runs_are_fetched(tmp_path: Path) -> None:
    store = Store(a=[(0, 1.0)], b=[(0, 2.0), (1, math.nan)], c=[(0, 3.0)])
    cache = SeriesCache(tmp_path, ["mlflow", "x"])
    first = cache.update({"a": "1", "b": "1"}, store.fetch)
    assert (store.asked, first.runs) == (["a", "b"], ("a", "b"))
    store.points["b"] = [(0, 2.0), (1, 5.0)]
    second = SeriesCache(tmp_path, ["mlflow", "x"]).update({"c": "1", "a": "1", "b": "2"}, store.fetch)
    assert store.asked == ["c", "b"]
    assert same(second, series(c=[(0, 3.0)], a=[(0, 1.0)], b=[(0, 2.0), (1, 5.0)]))
    store.asked = []
    third = cache.update({"c": "1"}, store.fetch)
    assert (store.asked, third.runs) == ([], ("c",))
    assert cache.update({}, store.fetch).runs == ()


def test_a_run_without_a_signature_is_fetched_every_time(tmp_path: Path) -> None:
    store = Store(a=[(0, 1.0)], b=[(0, 1.0)])
    cache = SeriesCache(tmp_path, ["x"])
    for _ in range(2):
        cache.update({"a": None, "b": "1"}, store.fetch)
    assert store.asked == ["a"]


def test_a_series_shorter_than_the_store_counts_is_not_kept(tmp_path: Path) -> None:
    store = Store(a=[(0, 1.0)], b=[(0, 2.0)])
    cache = SeriesCache(tmp_path, ["wandb", "x"])
    signatures = {"a": "1", "b": "1"}
    asked = []
    for _ in range(2):
        cache.update(signatures, store.fetch, {"a": 2, "b": None})
        asked.append(store.asked)
    assert asked == [["a", "b"], ["a"]]
    store.points["a"] = [(0, 1.0), (1, 0.5)]
    cache.update(signatures, store.fetch, {"a": 2, "b": 1})
    store.asked = []
    whole = cache.update(signatures, store.fetch, {"a": 2, "b": 1})
    assert store.asked == []
    assert same(whole, store.fetch(["a", "b"]))


def shards_of(cache: SeriesCache) -> list[Path]:
    return sorted(cache.path.glob("shard-*.parquet"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty", "other", "no manifest"])
def test_a_damaged_or_foreign_shard_is_told_and_built_again(tmp_path: Path, damage: str) -> None:
    store = Store(a=[(step, 0.5 + step) for step in range(2000)], b=[(0, 1.0)])
    cache = SeriesCache(tmp_path, ["x"])
    whole = cache.update({"a": "1", "b": "1"}, store.fetch)
    (path,) = shards_of(cache)
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 3
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        other = SeriesCache(tmp_path, ["y"])
        other.update({"a": "1", "b": "1"}, Store(a=[(0, 9.0)], b=[(0, 9.0)]).fetch)
        shutil.copy(shards_of(other)[0], path)
    else:
        pd.DataFrame({"step": [0.0], "value": [9.0], "timestamp": [0]}).to_parquet(path)
    store.asked = []
    with pytest.warns(CacheWarning, match=r"was damaged .* built again") as told:
        assert same(SeriesCache(tmp_path, ["x"]).update({"a": "1", "b": "1"}, store.fetch), whole)
    assert (len(told), store.asked) == (1, ["a", "b"])
    store.asked = []
    assert same(SeriesCache(tmp_path, ["x"]).update({"a": "1", "b": "1"}, store.fetch), whole)
    assert store.asked == []
    assert len(shards_of(cache)) == 1


def test_shards_of_another_version_and_the_file_of_the_first_one_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SeriesCache(tmp_path, ["x"])
    store = Store(a=[(0, 1.0)])
    older = tmp_path / f"{cache.path.name}.parquet"
    older.write_text("the one file of version 1")
    with monkeypatch.context() as version:
        version.setattr(cache_shards, "SHARD_VERSION", 1)
        cache.update({"a": "1"}, store.fetch)
    old = shards_of(cache)
    store.asked = []
    assert cache.update({"a": "1"}, store.fetch).value.tolist() == [1.0]
    assert store.asked == ["a"]
    assert not older.exists()
    assert len(shards_of(cache)) == 1
    assert shards_of(cache) != old


def test_what_a_few_runs_changed_leaves_the_other_shards_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_cache, "CHUNK_POINTS", 40)
    store = Store(**{f"r{n}": [(step, float(n)) for step in range(8)] for n in range(40)})
    sizes = dict.fromkeys(store.points, 8)

    def read(signatures: dict[str, str]) -> Series:
        parts = SeriesCache(tmp_path, ["x"]).read(Wanted(signatures, sizes=sizes), store.fetch)
        return join_series(list(parts)).take(list(signatures))

    signatures = dict.fromkeys(store.points, "1")
    read(signatures)
    cache = SeriesCache(tmp_path, ["x"])
    before = {path: path.stat().st_mtime_ns for path in shards_of(cache)}
    assert len(before) == 8
    store.points["r7"] = [(step, -1.0) for step in range(9)]
    signatures["r7"] = "2"
    assert same(read(signatures), series(**store.points))
    assert store.asked == ["r7"]
    after = {path: path.stat().st_mtime_ns for path in shards_of(cache)}
    assert len(before.items() & after.items()) == 8
    # Over many rounds neither files nor what is of no use any more pile up.
    for turn in range(3, 60):
        run = f"r{turn % 40}"
        store.points[run] = [(step, float(turn)) for step in range(8)]
        signatures |= {run: str(turn)}
        assert same(read(signatures), series(**store.points)), turn
        assert store.asked == [run]
        files = shards_of(cache)
        assert len(files) <= 320 // 20 + curve_cache._SMALL_SHARDS
        assert sum(pq.read_metadata(path).num_rows for path in files) <= 2 * 320 + 40
    read({"r1": signatures["r1"]})
    assert [pq.read_metadata(path).num_rows for path in shards_of(cache)] == [8]


def test_a_read_that_fails_keeps_what_it_had_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_cache, "CHUNK_RUNS", 2)
    store = Store(**{run: [(0, 1.0)] for run in "abcdef"})
    asked: list[str] = []

    def breaks(runs: Sequence[str]) -> Series:
        if "e" in runs:
            raise ConnectionError("the server went away")
        return store.fetch(runs)

    def counts(runs: Sequence[str]) -> Series:
        asked.extend(runs)
        return store.fetch(runs)

    wanted = Wanted(dict.fromkeys("abcdef", "1"))
    with pytest.raises(ConnectionError):
        list(SeriesCache(tmp_path, ["x"]).read(wanted, breaks))
    read = join_series(list(SeriesCache(tmp_path, ["x"]).read(wanted, counts)))
    assert asked == ["e", "f"]
    assert same(read.take(list("abcdef")), series(**store.points))


def test_runs_in_doubt_are_read_again_unless_nothing_has_come(tmp_path: Path) -> None:
    store = Store(a=[(0, 1.0)], b=[(0, 1.0)], c=[(0, 1.0)])
    signatures = dict.fromkeys("abc", "1")

    def read(**known: Any) -> list[str]:
        store.asked = []
        parts = SeriesCache(tmp_path, ["x"]).read(Wanted(signatures, **known), store.fetch)
        assert same(join_series(list(parts)).take(list("abc")), series(**store.points))
        return store.asked

    assert read() == ["a", "b", "c"]
    assert read() == []
    assert read(doubtful=lambda held: Doubts({"a", "b"})) == ["a", "b"]
    assert read(doubtful=lambda held: Doubts({"a", "b"}), count=lambda runs: [1] * len(runs)) == []
    # The listing is the same as before; only the count tells, and the newer of two states alike is the one to trust.
    store.points["b"] = [(0, 1.0), (1, 0.5)]
    assert read(
        doubtful=lambda held: Doubts({"a", "b"}), count=lambda runs: [len(store.points[r]) for r in runs]
    ) == ["b"]
    assert read() == []
    none = {"doubtful": lambda held: Doubts({"a", "b"}), "count": lambda runs: [None] * len(runs)}
    assert read(**none) == ["a", "b"]
    held: dict[str, list[float]] = {}

    def unchanged(series: dict[str, Series]) -> set[str]:
        held.update({run: part.value.tolist() for run, part in series.items()})
        return {"b"}

    assert read(**none, unchanged=unchanged) == ["a"]
    assert held == {"a": [1.0], "b": [1.0, 0.5]}


def test_doubts_are_asked_for_since_the_store_was_last_compared(tmp_path: Path) -> None:
    store = Store(a=[(0, 1.0)])
    since: list[int] = []

    def doubtful(held: Mapping[str, int]) -> Doubts:
        since.append(held["a"])
        return Doubts(set())

    for _ in range(3):
        before_ms = time.time_ns() // 1_000_000
        list(SeriesCache(tmp_path, ["x"]).read(Wanted({"a": "1"}, doubtful=doubtful), store.fetch))
        time.sleep(0.002)
    assert since == sorted(since)
    assert len(set(since)) == 2
    assert since[-1] < before_ms


def test_the_time_of_a_run_that_was_not_asked_for_stays(tmp_path: Path) -> None:
    store = Store(a=[(0, 1.0)], b=[(0, 1.0)], c=[(0, 1.0)])
    cache = SeriesCache(tmp_path, ["x"])

    def read(runs: str, unlikely: Sequence[str] = ()) -> dict[str, int]:
        """When each run held was last compared, as the read was told."""
        told: dict[str, int] = {}

        def doubtful(held: Mapping[str, int]) -> Doubts:
            told.update(held)
            return Doubts(set(), unlikely)

        time.sleep(0.002)
        wanted = Wanted(dict.fromkeys(runs, "1"), doubtful=doubtful)
        assert sorted(run for part in cache.read(wanted, store.fetch) for run in part.runs) == list(runs)
        return told

    read("abc")
    first = read("abc")
    read("ab")  # one that is deleted is not asked for
    last = read("abc", unlikely=["a"])  # nor is one that no comparison can be made for
    assert len(set(first.values())) == 1
    assert first["c"] < last["c"] < last["a"] == last["b"]
    assert cache.not_compared == {"a"}
    after = read("abc")
    assert after["a"] == last["a"] < after["b"] == after["c"]


def test_shards_written_again_as_one_keep_the_times_of_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_cache, "CHUNK_RUNS", 1)
    monkeypatch.setattr(curve_cache, "_SMALL_SHARDS", 2)
    store = Store(a=[(0, 1.0)], b=[(0, 1.0)])
    told: list[dict[str, int]] = []

    def read(runs: str, *unlikely: str) -> None:
        def doubtful(held: Mapping[str, int]) -> Doubts:
            told.append(dict(held))
            return Doubts(set(), unlikely)

        time.sleep(0.002)
        list(
            SeriesCache(tmp_path, ["x"]).read(
                Wanted(dict.fromkeys(runs, "1"), doubtful=doubtful), store.fetch
            )
        )

    read("ab")
    monkeypatch.setattr(curve_cache, "CHUNK_RUNS", 1000)
    monkeypatch.setattr(curve_cache, "_SMALL_SHARDS", 1)
    read("ab", "a")
    assert len(shards_of(SeriesCache(tmp_path, ["x"]))) == 1
    read("ab")
    assert told[1]["a"] == told[0]["a"] < told[1]["b"]


def test_runs_that_are_unlikely_to_have_changed_are_compared_as_long_as_there_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_cache, "_COMPARED_RUNS", 2)
    store = Store(**{run: [(0, 1.0)] for run in "abcdef"})
    compared: list[str] = []

    def unchanged(held: Mapping[str, Series]) -> set[str]:
        compared.extend(held)
        return {run for run, part in held.items() if same(part, series(**{run: store.points[run]}))}

    def in_turn(held: Mapping[str, int]) -> Doubts:
        return Doubts(set(), sorted(held, key=lambda run: held[run]))

    def read() -> set[str]:
        compared.clear()
        store.asked = []
        time.sleep(0.002)
        cache = SeriesCache(tmp_path, ["x"])
        wanted = Wanted(dict.fromkeys("abcdef", "1"), doubtful=in_turn, unchanged=unchanged)
        parts = join_series(list(cache.read(wanted, store.fetch))).take(list("abcdef"))
        if not cache.not_compared:
            assert same(parts, series(**store.points))
        return cache.not_compared

    read()
    store.points |= {"a": [(0, 1.0), (1, 2.0)], "f": [(0, 1.0), (1, 2.0)]}
    monkeypatch.setattr(curve_cache, "COMPARE_S", 0.0)
    # Each read compares those that wait longest, so that none waits for ever.
    for group, fetched in (("ab", ["a"]), ("cd", []), ("ef", ["f"])):
        assert read() == set("abcdef") - set(group)
        assert (compared, store.asked) == (list(group), fetched)
    monkeypatch.setattr(curve_cache, "COMPARE_S", math.inf)
    assert read() == set()
    assert (sorted(compared), store.asked) == (list("abcdef"), [])


@pytest.mark.parametrize("kind", ["file in the way", "read-only"])
def test_a_folder_that_cannot_be_written_does_not_stop_the_read(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "cache"
    if kind == "read-only":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        folder.mkdir(mode=0o500)
    else:
        folder.write_text("in the way")
    cache = SeriesCache(folder, ["x"])
    with pytest.warns(CacheWarning, match="cannot be written") as told:
        assert cache.update({"a": "1"}, Store(a=[(0, 1.0)]).fetch).value.tolist() == [1.0]
    assert len(told) == 1


POINTS = st.lists(st.tuples(st.integers(0, 2**40), st.floats()), max_size=4)


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), POINTS.filter(bool), max_size=4), max_size=4))
def test_any_history_of_a_store_reads_as_without_a_cache(
    tmp_path_factory: pytest.TempPathFactory, history: list[dict[str, list[tuple[float, float]]]]
) -> None:
    cache = SeriesCache(tmp_path_factory.mktemp("cache"), ["x"])
    for state in history:
        store = Store(**state)
        cached = cache.update({run: repr(points) for run, points in state.items()}, store.fetch)
        assert same(cached, series(**state))


@pytest.fixture
def point_queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every SQL statement by which points are read."""
    seen: list[str] = []
    connect = sqlite3.connect

    def traced(*args: object, **kwargs: object) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(lambda text: seen.append(text) if "SELECT step" in text else None)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    return seen


def assert_same(left: LossCurves, right: LossCurves) -> None:
    pd.testing.assert_frame_equal(left.runs, right.runs)
    pd.testing.assert_frame_equal(left.points, right.points)
    assert left.problems == right.problems


def test_a_second_read_of_a_store_asks_only_for_changed_runs(
    uri: str, foreign_run: Log, client: MlflowClient, tmp_path: Path, point_queries: list[str]
) -> None:
    def read() -> LossCurves:
        point_queries.clear()
        return collect("foreign", uri=uri, cache_dir=tmp_path / "cache")

    def asked() -> set[str]:
        return {run for run in (*runs, growing) if any(run in query for query in point_queries)}

    runs = [foreign_run(PARAMS | {"seed": seed}, LOSS) for seed in range(4)]
    growing = foreign_run(
        PARAMS | {"seed": 9}, {"eval/loss": [(1, 2.0)], "examples": [(1, 8.0)]}, status=None
    )
    read()
    assert asked() == {*runs, growing}
    assert_same(read(), collect("foreign", uri=uri))
    read()
    assert point_queries == []

    client.log_metric(growing, "eval/loss", 1.5, step=2)
    assert len(read().points) == 14
    assert asked() == {growing}
    # A point logged late, below the newest step, after the run ended.
    client.log_metric(runs[0], "eval/loss", 7.0, step=2)
    assert asked() == {growing}
    cached = read()
    assert asked() == {runs[0]}
    assert_same(cached, collect("foreign", uri=uri))
    assert any(problem.run == runs[0] for problem in cached.problems)

    client.delete_run(runs[1])
    cached = read()
    assert asked() == set()
    assert runs[1] not in set(cached.runs["run"])
    assert_same(cached, collect("foreign", uri=uri))


def test_the_client_reads_ended_runs_once(
    uri: str, foreign_run: Log, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_reader, "is_database", lambda _: False)
    asked: list[str] = []
    history = MlflowClient.get_metric_history

    def counted(self: MlflowClient, run_id: str, key: str) -> object:
        asked.append(run_id)
        return history(self, run_id, key)

    monkeypatch.setattr(MlflowClient, "get_metric_history", counted)
    ended = foreign_run(PARAMS, LOSS)
    open_run = foreign_run(PARAMS, LOSS, status=None)
    first = collect("foreign", uri=uri, cache_dir=tmp_path / "cache")
    assert set(asked) == {ended, open_run}
    asked.clear()
    assert_same(first, collect("foreign", uri=uri, cache_dir=tmp_path / "cache"))
    assert set(asked) == {open_run}
    client.log_metric(ended, "eval/loss", 0.5, step=4)
    asked.clear()
    collect("foreign", uri=uri, cache_dir=tmp_path / "cache")
    assert set(asked) == {ended, open_run}
