"""Reading every point of one metric from MLflow, by each route, against `MlflowClient.get_metric_history`.

    python benchmarks/bench_mlflow_read.py [--runs 200] [--points 5000] [--asked 20]

The same runs and points lie in SQLite and in PostgreSQL, warm in the page cache, with as many points of a second metric
beside them; a server is asked on that SQLite. MLflow's own way takes minutes for all runs, so it is measured on some of
them and its rate is compared. The PostgreSQL part is left out, and says so, where there is none to start.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from mlflow_stores import MlflowServer, Postgres, postgres_missing

from benchmarks.generated_mlflow import METRICS, PROJECT, copy_to_postgres, fill_sqlite
from surge_sweeps.trackers.base import EVAL_LOSS
from surge_sweeps.trackers.mlflow.client import connect
from surge_sweeps.trackers.mlflow.database.opening import open_database
from surge_sweeps.trackers.mlflow.history import (
    HISTORY_PATH,
    TAG_HISTORY,
    Points,
    encode_history,
    history_tag,
)
from surge_sweeps.trackers.mlflow.http.connection import Server
from surge_sweeps.trackers.mlflow.http.points import BULK_POINTS, read_bulk, read_single
from surge_sweeps.trackers.mlflow.http.store import HttpStore

_T = TypeVar("_T")


def main() -> None:
    parser = argparse.ArgumentParser(description="Routes of reading MLflow against its client.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--asked", type=int, default=20, help="runs to read by get_metric_history")
    options = parser.parse_args()
    asked = min(options.asked, options.runs)
    print(f"{options.runs} runs x {options.points} points, one of 2 metrics read")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        fill_sqlite(path, options.runs, options.points)
        print("SQLite")
        compare(f"sqlite:///{path}", asked)
        print("mlflow server on that SQLite, one worker")
        compare_server(path, asked)
        print("the same, its file analyzed (surge-sweep doctor)")
        with closing(sqlite3.connect(path)) as database:
            database.execute("ANALYZE")
        compare_server(path, asked)
        print("PostgreSQL")
        if why := postgres_missing():
            print(f"  left out: {why}")
            return
        with generated_postgres(path) as uri:
            compare(uri, asked)


def compare(uri: str, asked: int) -> None:
    """Measure a database: MLflow's client, this tool straight from the tables, and what a second call asks."""
    runs = listing(uri)
    history_s, points = timed(lambda: history(uri, runs[:asked]))
    rate = points / history_s
    show(f"get_metric_history ({asked} runs)", points, history_s, rate)
    fetch_s, points = best_of_three(lambda: fetch(uri, runs))
    show("straight from the tables", points, fetch_s, rate)
    listing_s, _ = best_of_three(lambda: listing(uri))
    print(f"  {'the runs, without points':32} {listing_s:8.3f} s")
    count_s, points = best_of_three(lambda: count(uri, runs))
    show("count of every run's points", points, count_s, rate)
    touched_s, _ = best_of_three(lambda: touched(uri))
    print(f"  {'runs touched since, none':32} {touched_s:8.3f} s")


def compare_server(path: Path, asked: int) -> None:
    """Measure a server: MLflow's client, each of its routes, and what this tool makes of them."""
    with MlflowServer(f"sqlite:///{path}", path.parent) as server:
        runs = listing(f"sqlite:///{path}")
        listing_s, store = timed(lambda: listed(server.uri))
        history_s, points = timed(lambda: history(server.uri, runs[:asked]))
        rate = points / history_s
        show(f"get_metric_history ({asked} runs)", points, history_s, rate)
        print(f"  {'the runs, without points':32} {listing_s:8.3f} s")
        http = Server(server.uri)
        single_s, points = timed(
            lambda: sum(len(read_single(http, run, EVAL_LOSS).step) for run in runs[:asked])
        )
        show(f"run by run in pages ({asked} runs)", points, single_s, rate)
        each = max(BULK_POINTS // (points // asked + 1), 1)
        bulk_s, points = timed(lambda: bulk(http, runs[:asked], each))
        show(f"bulk route ({asked} runs)", points, bulk_s, rate)
        fetch_s, points = timed(lambda: len(store.fetch(runs, EVAL_LOSS, None).value))
        show("as this tool reads it", points, fetch_s, rate)
        print(f"    {store.route}")
        add_histories(path, server.artifacts, runs)
        store = listed(server.uri)
        fetch_s, points = timed(lambda: len(store.fetch(runs, EVAL_LOSS, None).value))
        show("with history artifacts", points, fetch_s, rate)
        print(f"    {store.route}")
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("DELETE FROM tags WHERE key = ?", (TAG_HISTORY,))


def listed(uri: str) -> HttpStore:
    """A server, with its runs listed."""
    store = HttpStore(uri)
    store.runs(store.experiment_id(PROJECT))
    return store


def bulk(server: Server, runs: list[str], each: int) -> int:
    """The points of some runs by the bulk route, a few runs at a time, one request after the other."""
    found = 0
    for first in range(0, len(runs), each):
        answer = read_bulk(server, runs[first : first + each], EVAL_LOSS)
        if answer is None or answer.again or answer.long:
            raise RuntimeError("the bulk route is missing, or its answer was full")
        found += sum(len(points.step) for points in answer.whole.values())
    return found


def add_histories(path: Path, artifacts: Path, runs: list[str]) -> None:
    """Store every run's points as its history artifact, as the trainer does, where the server keeps artifacts."""
    with open_database(f"sqlite:///{path}") as store:
        parts = {metric: store.fetch(runs, metric, None).split() for metric in METRICS}
    with closing(sqlite3.connect(path)) as database, database:
        for run in runs:
            metrics = {
                metric: Points(part[run].step.astype(np.int64), part[run].value, part[run].timestamp)
                for metric, part in parts.items()
            }
            content = encode_history(metrics)
            file = artifacts / run / HISTORY_PATH
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            where = f"mlflow-artifacts:/{run}"
            database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (where, run))
            tag = (TAG_HISTORY, history_tag(metrics, content), run)
            database.execute("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", tag)


def history(uri: str, runs: list[str]) -> int:
    """The points of some runs as MLflow's client gives them."""
    client = connect(uri)
    return sum(len(client.get_metric_history(run, EVAL_LOSS)) for run in runs)


def listing(uri: str) -> list[str]:
    with open_database(uri) as store:
        return [run.run for run in store.runs(store.experiment_id(PROJECT))]


def fetch(uri: str, runs: list[str]) -> int:
    with open_database(uri) as store:
        return len(store.fetch(runs, EVAL_LOSS, None).value)


def count(uri: str, runs: list[str]) -> int:
    with open_database(uri) as store:
        return sum(number or 0 for number in store.count(runs, EVAL_LOSS))


def touched(uri: str) -> int:
    with open_database(uri) as store:
        return len(store.touched(EVAL_LOSS, int(time.time() * 1000)))


@contextmanager
def generated_postgres(path: Path) -> Iterator[str]:
    """A PostgreSQL of its own with what the SQLite store holds; its URI."""
    with Postgres() as cluster:
        uri = cluster.database()
        copy_to_postgres(path, uri)
        yield uri


def show(name: str, points: int, seconds: float, base: float) -> None:
    rate = points / seconds
    print(f"  {name:32} {seconds:8.3f} s   {rate / 1e6:7.3f}M points/s   {rate / base:.0f}x", flush=True)


def best_of_three(work: Callable[[], _T]) -> tuple[float, _T]:
    return min((timed(work) for _ in range(3)), key=lambda found: found[0])


def timed(work: Callable[[], _T]) -> tuple[float, _T]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
