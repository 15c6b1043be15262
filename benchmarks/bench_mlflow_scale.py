"""Collecting and reporting at full size: time and memory against the number of points in an MLflow store on SQLite.

    python benchmarks/bench_mlflow_scale.py [--sizes 100x1000 1000x1000 10000x1000] [--folder FOLDER]

Each size is runs x points of one loss. The store is MLflow's own schema, made by MLflow and filled by plain SQL, 264 B
a point, in a temporary folder that is removed. Every way of reading runs in a process of its own; its peak is the
largest resident memory of that process (pages of the store that the system caches are not in it).

    collect             `collect` without a cache
    collect, new cache  the same, and the cache is written
    collect, cached     the same again, with nothing new
    collect, 1% new     the same after one run in a hundred has got a point
    cache to report     the whole of `surge-report`, from that cache

The largest that the package is built for is 10000x10000: it takes 27 GB of disk and half an hour to make.
"""

from __future__ import annotations

import argparse
import math
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PROJECT = "scale"
LOSS = "eval/loss"
BATCH_SIZES = tuple(8 * 2**index for index in range(10))
RATES = 20
STEPS_A_POINT = 10
#: Milliseconds since 1970 at which the first run began, and between two points.
BEGAN_MS, PACE_MS = 1_700_000_000_000, 50
#: The memory that a collect and a report are to stay below.
MOST_GB = 4.0

COLLECT = """
import sys, time
from pathlib import Path
from surge_sweeps.trackers import collect
began = time.perf_counter()
curves = collect({project!r}, uri={uri!r}, cache_dir=Path({cache!r}) if {cache!r} else None)
print(f"{{time.perf_counter() - began:.3f}} {{len(curves.points)}} {{curves.route}}")
"""


@dataclass(frozen=True)
class Size:
    """How many runs, and points of each."""

    runs: int
    points: int

    @property
    def total(self) -> int:
        """Points of all runs."""
        return self.runs * self.points


@dataclass(frozen=True)
class Measured:
    """One process: seconds of it all, its peak in GB, and the last line it printed."""

    seconds: float
    peak_gb: float
    said: str


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory against the size of a store.")
    parser.add_argument("--sizes", nargs="+", default=["100x1000", "1000x1000", "10000x1000"])
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    options = parser.parse_args()
    sizes = [Size(*map(int, text.split("x"))) for text in options.sizes]
    found = [(size, measure_size(size, options.folder)) for size in sizes]
    print_growth(found)


def measure_size(size: Size, folder: Path | None) -> dict[str, Measured]:
    """Make a store of a size and read it in each way."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="surge-scale-") as made:
        path, cache = Path(made) / "mlflow.db", str(Path(made) / "xdg" / "surge-sweeps")
        began = time.perf_counter()
        write_store(path, size)
        took_s, size_gb = time.perf_counter() - began, path.stat().st_size / 1e9
        print(
            f"\n{size.runs:,} runs x {size.points:,} points = {size.total:,}: {size_gb:.2f} GB, made in {took_s:.0f} s"
        )
        uri = f"sqlite:///{path}"
        found = {
            "collect": collect_once(uri, ""),
            "collect, new cache": collect_once(uri, cache),
            "collect, cached": collect_once(uri, cache),
        }
        add_points(path, size)
        found["collect, 1% new"] = collect_once(uri, cache)
        found["cache to report"] = report_once(uri, Path(made))
        cache_gb = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file()) / 1e9
    for name, one in found.items():
        rate = size.total / one.seconds / 1e6
        print(
            f"  {name:20} {one.seconds:8.2f} s  {rate:6.2f}M points/s  peak {one.peak_gb:5.2f} GB  {one.said}"
        )
    print(f"  the cache holds {cache_gb:.2f} GB", flush=True)
    return found


def collect_once(uri: str, cache: str) -> Measured:
    """`collect` in a new process; the seconds are those of the call, without Python's start."""
    measured = in_process([sys.executable, "-c", COLLECT.format(project=PROJECT, uri=uri, cache=cache)])
    seconds, points, route = measured.said.split(" ", 2)
    return Measured(float(seconds), measured.peak_gb, f"{int(points):,} points by {route}")


def report_once(uri: str, folder: Path) -> Measured:
    """The whole command in a new process, Python's start and the page included."""
    command = "from surge_sweeps.cli.entry import report_main; report_main()"
    arguments = [PROJECT, "--uri", uri, "--output", str(folder / "report"), "--quiet"]
    os.environ["XDG_CACHE_HOME"] = str(folder / "xdg")
    measured = in_process([sys.executable, "-c", command, *arguments])
    return Measured(measured.seconds, measured.peak_gb, "")


def in_process(command: list[str]) -> Measured:
    """Run a command, its own child alone measured."""
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        actions = [(os.POSIX_SPAWN_DUP2, said.fileno(), 1)]
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - began
        said.seek(0)
        lines = said.read().decode().strip().splitlines()
    if status != 0:
        raise SystemExit(f"{command[2][:60]!r} ended with {os.waitstatus_to_exitcode(status)}")
    return Measured(seconds, usage.ru_maxrss * 1024 / 1e9, lines[-1] if lines else "")


def write_store(path: Path, size: Size) -> None:
    """A store of MLflow's schema with one sweep of a program that is not this tool's own."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    uri = f"sqlite:///{path}"
    experiment = MlflowClient(uri, uri).create_experiment(
        PROJECT, artifact_location=str(path.parent / "files")
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as store:
        store.execute("PRAGMA synchronous = OFF")
        store.execute("PRAGMA journal_mode = MEMORY")
        # Indexes are several times quicker to make once than to keep while rows come.
        indexes = store.execute(
            "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'metrics' AND type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        store.execute("BEGIN")
        for name, _ in indexes:
            store.execute(f'DROP INDEX "{name}"')
        rng = np.random.default_rng(0)
        for number in range(size.runs):
            write_run(store, experiment, number, losses(number, size.points, rng))
        for _, sql in indexes:
            store.execute(sql)
        store.execute("COMMIT")


def setting(number: int) -> tuple[int, float, int]:
    """Batch size, learning rate and seed of a run; the seeds of a cell lie far apart."""
    cell, seed = number % (len(BATCH_SIZES) * RATES), number // (len(BATCH_SIZES) * RATES)
    return BATCH_SIZES[cell // RATES], 1e-4 * 10 ** (4 * (cell % RATES) / (RATES - 1)), seed


def losses(number: int, points: int, rng: np.random.Generator) -> np.ndarray:
    """A falling loss with noise, slower the further the learning rate is from its best; NaN once it diverges."""
    batch_size, rate, _ = setting(number)
    best = 3e-3 * math.sqrt(batch_size / 64)
    slowed = 1.0 + 0.4 * math.log(rate / best) ** 2
    step = STEPS_A_POINT * np.arange(1, points + 1)
    found = 0.3 + 4.0 * (1.0 + step / slowed) ** -0.35 + 0.01 * rng.normal(size=points)
    if rate > 20 * best:
        found[points // 5 :] = np.nan
    return found


def write_run(store: sqlite3.Connection, experiment: str, number: int, values: np.ndarray) -> None:
    """One run that has ended, with its parameters, its points and its newest point."""
    run, (batch_size, rate, seed) = f"{number * 2654435761 % 2**32:08x}{number:024x}", setting(number)
    began_ms = BEGAN_MS + number * PACE_MS * len(values)
    store.execute(
        "INSERT INTO runs (run_uuid, name, source_type, status, start_time, end_time, lifecycle_stage,"
        " artifact_uri, experiment_id) VALUES (?, ?, 'LOCAL', 'FINISHED', ?, ?, 'active', '', ?)",
        (run, f"run-{number}", began_ms, began_ms + PACE_MS * len(values), int(experiment)),
    )
    params = {"lr": repr(rate), "batch_size": str(batch_size), "seed": str(seed), "optimizer": "adamw"}
    store.executemany(
        "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
        [(key, value, run) for key, value in params.items()],
    )
    store.executemany(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)",
        rows(run, values, began_ms),
    )
    last = values[-1]
    store.execute(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)",
        (
            LOSS,
            0.0 if np.isnan(last) else float(last),
            began_ms + PACE_MS * (len(values) - 1),
            STEPS_A_POINT * len(values),
            bool(np.isnan(last)),
            run,
        ),
    )


def rows(run: str, values: np.ndarray, began_ms: int) -> Iterator[tuple[str, float, int, str, int, bool]]:
    """The points of a run as MLflow stores them: NaN as a flag."""
    for index, value in enumerate(values.tolist()):
        is_nan = value != value
        yield (
            LOSS,
            0.0 if is_nan else value,
            began_ms + PACE_MS * index,
            run,
            STEPS_A_POINT * (index + 1),
            is_nan,
        )


def add_points(path: Path, size: Size) -> None:
    """One more point, the newest, in one run of a hundred."""
    now_ms = time.time_ns() // 1_000_000
    step = STEPS_A_POINT * (size.points + 1)
    with closing(sqlite3.connect(path)) as store, store:
        for (run,) in store.execute("SELECT run_uuid FROM runs ORDER BY start_time").fetchall()[::100]:
            store.execute(
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, 0.3, ?, ?, ?, 0)",
                (LOSS, now_ms, run, step),
            )
            store.execute(
                "UPDATE latest_metrics SET value = 0.3, timestamp = ?, step = ?, is_nan = 0"
                " WHERE run_uuid = ? AND key = ?",
                (now_ms, step, run, LOSS),
            )


def print_growth(found: list[tuple[Size, dict[str, Measured]]]) -> None:
    """Time and memory for each point that is more, from the smallest size to the largest, and what 1e8 would take."""
    found = sorted(found, key=lambda one: one[0].total)
    (small, first), (large, last) = found[0], found[-1]
    if large.total == small.total:
        return
    print(f"\nfrom {small.total:,} to {large.total:,} points ({large.total / small.total:.0f} times as many)")
    for name, one in last.items():
        more = large.total - small.total
        grown = one.seconds / first[name].seconds
        bytes_each = (one.peak_gb - first[name].peak_gb) * 1e9 / more
        at_1e8 = one.peak_gb + bytes_each * (1e8 - large.total) / 1e9
        verdict = "under" if at_1e8 < MOST_GB else "OVER"
        print(
            f"  {name:20} time x{grown:.0f}, {bytes_each:.0f} bytes a point more:"
            f" {at_1e8:.2f} GB at 1e8 points by extrapolation, {verdict} {MOST_GB:g} GB"
        )


if __name__ == "__main__":
    main()
