"""Reading the file of an offline W&B run against W&B's own `wandb leet inspect --json`.

    python benchmarks/bench_offline.py [--rows 100000]

The file is written by the real client. W&B's reader is timed to the end of its output, which nobody parses, and again
with the columns made of it; ours makes the same columns. All in one process on one file in the page cache, the better
of two times each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import wandb

from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.wandb.offline.decode import decode
from surge_sweeps.trackers.wandb.offline.folder import OfflineFolder
from surge_sweeps.trackers.wandb.offline.inspect import inspect


def main() -> None:
    parser = argparse.ArgumentParser(description="Reading an offline run against W&B's own reader.")
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
            os.environ[f"WANDB_{name}"] = f"{folder}/client"
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        write_s = timed(lambda: write_run(folder, rows))
        path = next(Path(folder).glob("wandb/offline-run-*/*.wandb"))
        size = path.stat().st_size / 1e6
        decode(path)  # the schema is imported, the file is in the page cache
        leet_s = better(lambda: print_with_leet(path))
        parsed_s = better(lambda: inspect(path))
        decode_s = better(lambda: decode(path))
        collect_s = better(lambda: OfflineFolder().collect(str(path), ReadOptions(step="_step")))
    print(f"{rows} rows x 4 metrics, {size:.0f} MB, written by the client in {write_s:.1f} s")
    print(f"{'wandb leet inspect --json':34} {leet_s:8.3f} s   1x")
    for name, seconds in (
        ("the same, parsed into columns", parsed_s),
        ("our reader, columns", decode_s),
        ("our reader, whole collect", collect_s),
    ):
        print(f"{name:34} {seconds:8.3f} s   {leet_s / seconds:.1f}x   {rows / seconds / 1e3:.0f}k rows/s")


def write_run(folder: str, rows: int) -> None:
    """One offline run of `rows` rows."""
    settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", silent=True)
    config = {"lr": 1e-3, "batch_size": 32}
    run = wandb.init(project="bench", mode="offline", dir=folder, settings=settings, config=config)
    for step in range(rows):
        values = {
            "train/loss": 1 / (step + 1),
            "train/lr": 1e-3,
            "train/grad_norm": 1.0,
            "examples": step * 32,
        }
        run.log(values, step=step)
    run.finish()
    wandb.teardown()


def print_with_leet(path: Path) -> None:
    """W&B's own reader, its output thrown away."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def better(work: Callable[[], object]) -> float:
    return min(timed(work), timed(work))


if __name__ == "__main__":
    main()
