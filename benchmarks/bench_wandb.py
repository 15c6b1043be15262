"""Reading a W&B project: this tool's collect against the client's own `scan_history`, on a test server over loopback.

    python benchmarks/bench_wandb.py [--runs 200] [--points 10000] [--scanned 10]

The server is the tests' own, in a process of its own; the client is the real one. So this is what reading costs the
client: a real server and the network come on top of both ways alike. Every way reads two metrics of each row, the loss
and the examples seen; scanning all runs takes minutes, so it is done for some of them and its rate is compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from wandb_server import ENTITY, WandbServer
from wandb_server.clients import client_environment

from surge_sweeps.curves import LossCurves
from surge_sweeps.trackers.base import EVAL_LOSS, EXAMPLES, TRAIN_LOSS, ReadOptions
from surge_sweeps.trackers.wandb.client import WandbProject, connect
from surge_sweeps.trackers.wandb.history import RunHistories
from surge_sweeps.trackers.wandb.reader import WandbReader
from surge_sweeps.trackers.wandb.runs import list_runs

PROJECT = "bench"
METRICS = (EVAL_LOSS, EXAMPLES)
_T = TypeVar("_T")


def main() -> None:
    parser = argparse.ArgumentParser(description="Collecting from W&B against the client's scan_history.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--scanned", type=int, default=10, help="runs to read by scan_history")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (there, Path(folder), options.runs, options.points)
        server = multiprocessing.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
        server.start()
        os.environ.update(here.recv())
        try:
            report(
                options.runs, options.points, min(options.scanned, options.runs), here, Path(folder) / "cache"
            )
        finally:
            here.send("end")
            server.join()


def report(runs: int, points: int, scanned: int, server: Connection, cache: Path) -> None:
    """Measure and print."""
    connect()  # starts the client's own process, which every way needs
    scan_s, scan_rows = timed(lambda: scan(scanned))
    requests(server)
    export_s, _ = timed(export)
    requests(server)
    first_s, _ = timed(collect)
    fresh = requests(server)
    cached_first_s, curves = timed(lambda: collect(cache))
    requests(server)
    again_s, _ = timed(lambda: collect(cache))
    again = requests(server)
    rows = runs * points
    cores = os.cpu_count()
    print(f"{runs} runs x {points} rows, 2 of 4 metrics read; the client's cost over loopback, {cores} cores")
    print(
        f"scan_history ({scanned} of the runs)   {scan_s:8.3f} s   {scan_rows / scan_s / 1e6:6.3f}M rows/s   1x"
    )
    for name, seconds in (
        ("listing and export route", export_s),
        ("collect", first_s),
        ("collect, empty cache", cached_first_s),
    ):
        ratio = (rows / seconds) / (scan_rows / scan_s)
        print(f"{name:31} {seconds:8.3f} s   {rows / seconds / 1e6:6.3f}M rows/s   {ratio:.0f}x")
    print(f"collect, nothing new            {again_s:8.3f} s   {len(curves.points)} losses from the cache")
    print(f"requests of a collect: {fresh}; with nothing new: {again}")


def scan(count: int) -> int:
    """Read two metrics of some runs as the client offers it; returns the number of rows."""
    api = connect()
    runs = api.runs(f"{ENTITY}/{PROJECT}", per_page=500, lazy=False)[:count]
    # One call a metric: a call for both would leave out the rows that lack one.
    read = [[len(list(run.scan_history(keys=[name], use_cache=False))) for name in METRICS] for run in runs]
    return sum(rows for rows, _ in read)


def export() -> int:
    """Read both metrics of every run by the export route: what a collect does before it makes its tables."""
    listing = list_runs(connect(), WandbProject(ENTITY, PROJECT))
    with RunHistories(listing.runs) as histories:
        return sum(len(histories.fetch(list(listing.runs), name, None).value) for name in METRICS)


def collect(cache: Path | None = None) -> LossCurves:
    options = ReadOptions(loss=EVAL_LOSS, step="_step", cache_dir=cache)
    return WandbReader().collect(f"{ENTITY}/{PROJECT}", options)


def requests(server: Connection) -> str:
    """What the server was asked since the last call."""
    server.send("requests")
    return ", ".join(f"{count} {name}" for name, count in sorted(server.recv().items()))


def serve(control: Connection, folder: Path, runs: int, points: int) -> None:
    """The server's process: a project of finished runs; answers `requests` until told to end."""
    rng = np.random.default_rng(0)
    with WandbServer() as server:
        for index in range(runs):
            losses = rng.random(points)
            history = {
                TRAIN_LOSS: losses,
                EVAL_LOSS: losses + 0.1,
                EXAMPLES: 32.0 * np.arange(points),
                "grad_norm": rng.random(points),
            }
            config = {"lr": 1e-3 * 2 ** (index % 10), "batch_size": 32, "seed": index // 10}
            run = server.add_run(ENTITY, PROJECT, f"r{index}", config=config, history=history)
            run.export(
                server.store.exports
            )  # written before the clock starts, as a real server has long done
        control.send(client_environment(server, folder))
        while control.recv() == "requests":
            control.send(server.operations.counts())
            server.operations.clear()


def timed(work: Callable[[], _T]) -> tuple[float, _T]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
