"""The test server as a process of its own, filled for benchmarks: ``python -m wandb_server --runs 200 --rows 10000``.

Prints one line of JSON (url, api_key, entity, project) and serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys

from wandb_server.server import WandbServer

PROJECT = "bench"


def fill(server: WandbServer, runs: int, rows: int, metrics: int, state: str) -> None:
    """Add finished runs of a sweep over learning rates: ``train/loss`` falls, the other metrics are noise."""
    generator = random.Random(0)
    noise = [[generator.random() for _ in range(rows)] for _ in range(metrics)]
    decay = [math.exp(-step / rows) for step in range(rows)]
    for number in range(runs):
        columns: dict[str, list[float]] = {f"metric/{n}": noise[n] for n in range(1, metrics)}
        columns["train/loss"] = [
            1.0 + number / runs + a + 0.01 * b for a, b in zip(decay, noise[0], strict=True)
        ]
        columns["samples"] = [8.0 * (step + 1) for step in range(rows)]
        config = {"lr": 0.001 * 1.01**number, "batch_size": 8, "seed": 0}
        server.add_run(
            server.entity, PROJECT, f"run{number:05d}", config=config, history=columns, state=state
        )


def main() -> None:
    """Parse the command line, fill the server, say where it is, wait."""
    parser = argparse.ArgumentParser(prog="python -m wandb_server", description=__doc__)
    parser.add_argument("--runs", type=int, default=0, help="number of runs")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each run's history")
    parser.add_argument("--metrics", type=int, default=5, help="metrics in each row, besides samples")
    parser.add_argument("--state", default="finished", help="state of the runs; running ones have no export")
    options = parser.parse_args()
    with WandbServer() as server:
        fill(server, options.runs, options.rows, options.metrics, options.state)
        place = {"url": server.url, "api_key": server.api_key, "entity": server.entity, "project": PROJECT}
        print(json.dumps(place), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
