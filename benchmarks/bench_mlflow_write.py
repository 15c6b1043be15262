"""Writing to MLflow: this tool's buffered writer against `MlflowClient.log_metric`, one by one, per kind of store.

    python benchmarks/bench_mlflow_write.py [--seconds 10] [--stores sqlite http-sqlite postgres http-postgres]

For each store, 1 and 8 processes log one metric as fast as it is taken, each into a run of its own, for a while; both
ways in one run, one after the other. Processes, server and database share this machine. Also: finished runs written
whole (`write_runs`), to a server by one thread and by several. PostgreSQL is left out, and that is said, where its
server is not installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from mlflow_stores import MlflowServer, Postgres, postgres_missing

from surge_sweeps.trackers.base import EVAL_LOSS, RunRecord
from surge_sweeps.trackers.mlflow import writer
from surge_sweeps.trackers.mlflow.client import connect
from surge_sweeps.trackers.mlflow.writer import MlflowTracker

STORES = ("sqlite", "http-sqlite", "postgres", "http-postgres")
PROCESSES = (1, 8)
CONFIG = {"lr": 0.1, "batch_size": 8, "seed": 0}
_START_LIMIT_S = 300.0

Way = Callable[[str, int, float], int]


def main() -> None:
    parser = argparse.ArgumentParser(description="The buffered writer against log_metric, per store.")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each way writes")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument("--runs", type=int, default=50, help="finished runs to write whole")
    parser.add_argument("--points", type=int, default=300, help="points of each of them")
    options = parser.parse_args()
    print(f"points/s of one metric, {os.cpu_count()} cores for writers, server and database together")
    missing = postgres_missing()
    for store in options.stores:
        if "postgres" in store and missing:
            print(f"{store:14} left out: {missing}")
            continue
        with opened(store) as uri:
            connect(uri)
            for processes in PROCESSES:
                one = rate(one_by_one, uri, processes, options.seconds)
                ours = rate(buffered, uri, processes, options.seconds)
                print(
                    f"{store:14} {processes} process{'es' if processes > 1 else '  '}  log_metric {one:9,.0f}"
                    f"   buffered {ours:9,.0f}   {ours / one:5.0f}x",
                    flush=True,
                )
            report_runs(store, uri, options.runs, options.points)


@contextmanager
def opened(store: str) -> Iterator[str]:
    """A new store of a kind; gives its URI."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if store.endswith("postgres"):
            uri = stack.enter_context(Postgres()).database()
        else:
            uri = f"sqlite:///{folder / 'mlflow.db'}"
            connect(uri)
        if store.startswith("http"):
            uri = stack.enter_context(MlflowServer(uri, folder)).uri
        yield uri


def rate(way: Way, uri: str, processes: int, seconds: float) -> float:
    """Points per second of all processes together, which begin at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    counts = context.SimpleQueue()
    children = [
        context.Process(target=write, args=(way, uri, index, seconds, barrier, counts))
        for index in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode != 0:
            raise SystemExit(f"a process that wrote ended with {child.exitcode}")
    return float(sum(counts.get() for _ in children))


def write(way: Way, uri: str, index: int, seconds: float, barrier: Barrier, counts: object) -> None:
    connect(uri)  # imports, and the store's schema checked, before the clock starts
    barrier.wait(_START_LIMIT_S)
    began = time.perf_counter()
    points = way(uri, index, seconds)
    counts.put(points / (time.perf_counter() - began))  # type: ignore[attr-defined]


def one_by_one(uri: str, index: int, seconds: float) -> int:
    """MLflow's client, a call a point."""
    client = connect(uri)
    run = client.create_run("0").info.run_id
    end = time.perf_counter() + seconds
    step = 0
    while time.perf_counter() < end:
        client.log_metric(run, EVAL_LOSS, 1.0 / (step + 1), step=step)
        step += 1
    return step


def buffered(uri: str, index: int, seconds: float) -> int:
    """This tool's open run; what is buffered at the end is written before the clock stops."""
    tracker = MlflowTracker("bench", uri)
    run = tracker.start_run(None, f"t{index}", CONFIG)
    end = time.perf_counter() + seconds
    step = 0
    while time.perf_counter() < end:
        run.log(step, {EVAL_LOSS: 1.0 / (step + 1)})
        step += 1
    run.finish("finished")
    return step


def report_runs(store: str, uri: str, runs: int, points: int) -> None:
    """Finished runs a second, by one thread and, to a server, by several."""
    threads = (1, 2, 4, 8) if store.startswith("http") else (1,)
    found = []
    for count in threads:
        writer.SERVER_WRITERS = count
        tracker = MlflowTracker("whole", uri)
        sweep = f"s{count}"
        tracker.open_sweep(sweep, "bench", {})
        losses = [(step, 1.0 / (step + 1)) for step in range(points)]
        records = [
            RunRecord({**CONFIG, "seed": seed}, f"{sweep}-{seed}", "finished", {EVAL_LOSS: losses})
            for seed in range(runs)
        ]
        began = time.perf_counter()
        tracker.write_runs(sweep, records)
        found.append(f"{runs / (time.perf_counter() - began):6.1f} by {count}")
        tracker.close()
    print(f"{store:14} finished runs of {points} points a second, by threads: {', '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
