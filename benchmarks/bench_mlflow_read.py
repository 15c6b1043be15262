"""Reading every point of one metric from MLflow, by each route, against `MlflowClient.get_metric_history`.

    python benchmarks/bench_mlflow_read.py [--runs 200] [--points 5000] [--asked 20]

The same runs and points lie in SQLite and in PostgreSQL, warm in the page cache, with as many points of a second metric
beside them. MLflow's own way takes minutes for all runs, so it is measured on some of them and its rate is compared.
The PostgreSQL part is left out, and says so, where there is no PostgreSQL to start.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mlflow_stores import Postgres, postgres_missing

from benchmarks.generated_mlflow import PROJECT, copy_to_postgres, fill_sqlite
from surge_sweeps.trackers.base import EVAL_LOSS
from surge_sweeps.trackers.mlflow.client import connect
from surge_sweeps.trackers.mlflow.database.opening import open_database

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
