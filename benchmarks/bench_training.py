"""The ensemble trainer against the plain loop: runs x steps per second on the same trials, in one process.

Both go through `train`, evaluation and logging included. The loop trains a part of the trials only, and is counted
per trial. Each line is the median over pairs measured one after the other, with the range over pairs.

Run: python benchmarks/bench_training.py [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

from surge_sweeps.training import TrialConfig, train

LOOP_RUNS = 6
RUNS = 96
#: Batch size -> steps of each run.
STEPS = {4: 400, 32: 400, 256: 60}


def trials(model: str, batch_size: int, optimizer: str) -> list[tuple[str, TrialConfig]]:
    settings = {
        "model": model,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "max_steps": STEPS[batch_size],
    }
    runs = RUNS if model == "mlp" or batch_size < 256 else 12
    return [
        (f"{i}", TrialConfig.from_parameters({**settings, "lr": 1e-4 * 1.3 ** (i % 12), "seed": i // 12}))
        for i in range(runs)
    ]


def steps_per_second(work: Sequence[tuple[str, TrialConfig]], mode: str) -> float:
    start = time.perf_counter()
    train(work, mode="auto" if mode == "auto" else "loop")
    return sum(config.steps for _, config in work) / (time.perf_counter() - start)


def main() -> None:
    """Print one line per model and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads; launch workers use 1")
    parser.add_argument("--pairs", type=int, default=5, help="measurements of each kind")
    parser.add_argument("--optimizer", default="adamw", help="optimizer of all runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"ensemble against plain loop, {options.optimizer}, {options.threads} thread(s), runs x steps per second"
    )
    for model in ("mlp", "cnn"):
        for batch_size in STEPS:
            work = trials(model, batch_size, options.optimizer)
            train(work[:1], mode="loop")
            pairs = [
                (steps_per_second(work, "auto"), steps_per_second(work[:LOOP_RUNS], "loop"))
                for _ in range(options.pairs)
            ]
            ratios = [together / alone for together, alone in pairs]
            together, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"{model} batch {batch_size:3d}: {together:8.0f} against {alone:6.0f} = "
                f"{statistics.median(ratios):5.1f}x ({min(ratios):.1f} to {max(ratios):.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
