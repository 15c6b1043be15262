"""Collecting a sweep from a local MLflow store against `MlflowClient.get_metric_history`, run by run.

    python benchmarks/bench_collect.py [--runs 400] [--points 150]

The store is written by this tool's own tracker into a temporary folder. Every way of reading fetches the same two
metrics of every run, once, in one process on one store that is warm in the page cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import EVAL_LOSS, EXAMPLES, TRAIN_LOSS, RunRecord
from surge_sweeps.trackers.mlflow.client import connect

PROJECT = "bench"


def main() -> None:
    parser = argparse.ArgumentParser(description="Collecting against MLflow's own client.")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--points", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        cache = Path(folder) / "cache"
        write_s = timed(lambda: write_store(uri, options.runs, options.points))
        client_s = timed(lambda: read_with_client(uri))
        collect_s = timed(lambda: collect(PROJECT, uri=uri))
        first_s = timed(lambda: collect(PROJECT, uri=uri, cache_dir=cache))
        cached_s = timed(lambda: collect(PROJECT, uri=uri, cache_dir=cache))
        points = len(collect(PROJECT, uri=uri).points)
    print(f"{options.runs} runs x {options.points} points x 3 metrics in SQLite, written in {write_s:.1f} s")
    print(f"get_metric_history per run   {client_s:8.3f} s   1x")
    for name, seconds in (
        ("collect", collect_s),
        ("collect, empty cache", first_s),
        ("collect, cached", cached_s),
    ):
        print(
            f"{name:28} {seconds:8.3f} s   {client_s / seconds:.0f}x   {points / seconds / 1e6:.2f}M losses/s"
        )


def write_store(uri: str, runs: int, points: int) -> None:
    """One sweep of `runs` trials, each with `points` points of three metrics."""
    rng = np.random.default_rng(0)
    records = []
    for index in range(runs):
        losses = rng.random(points)
        series = {
            TRAIN_LOSS: list(enumerate(losses)),
            EVAL_LOSS: list(enumerate(losses + 0.1)),
            EXAMPLES: [(step, 32.0 * step) for step in range(points)],
        }
        config = {"lr": 1e-3 * 2 ** (index % 10), "batch_size": 32, "seed": index // 10, "optimizer": "adamw"}
        records.append(RunRecord(config, f"t{index}", "finished", series))
    tracker = open_tracker("mlflow", PROJECT, uri)
    tracker.open_sweep("bench", "bench", {})
    tracker.write_runs("bench", records)
    tracker.close()


def read_with_client(uri: str) -> dict[str, list[list[tuple[int, float]]]]:
    """The same two metrics of every run, as MLflow's client offers them."""
    client = connect(uri)
    experiment = client.get_experiment_by_name(PROJECT).experiment_id
    runs = client.search_runs([experiment], "tags.`surge.kind` = 'trial'", max_results=10_000)
    return {
        run.info.run_id: [
            [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in (EVAL_LOSS, EXAMPLES)
        ]
        for run in runs
    }


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
