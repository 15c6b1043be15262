"""The ensemble trainer against the plain loop: runs x steps per second on the same trials, in one process.

Twice for each model and batch size: whole runs, with the evaluations on 360 held-out images at log-spaced steps, which
cost both ways the same; and the training steps alone (the held-out set cut to one image). Both ways use the same
optimizers with the same fused kernels. The loop trains a part of the trials only, counted per trial. Each figure is
the median over pairs measured one after the other.

Run: python benchmarks/bench_training.py [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from surge_sweeps.training import TrialConfig
from surge_sweeps.training.ensemble import run_ensemble, stack_size
from surge_sweeps.training.loop import run_loop
from surge_sweeps.training.start import starts
from surge_sweeps.training.workloads.base import Workload
from surge_sweeps.training.workloads.digits import load

LOOP_RUNS = 4
#: Batch size -> steps of each run.
STEPS = {4: 400, 32: 400, 256: 60}


def configs(workload: Workload, model: str, batch_size: int, optimizer: str) -> list[TrialConfig]:
    """As many runs as train in one stack, at least those the loop trains."""
    settings = {
        "model": model,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "max_steps": STEPS[batch_size],
    }
    first = TrialConfig.from_parameters({**settings, "lr": 1e-3})
    runs = max(stack_size(workload, starts(workload, [first])[0].model, batch_size), LOOP_RUNS)
    return [
        TrialConfig.from_parameters({**settings, "lr": 1e-4 * 1.3 ** (i % 12), "seed": i // 12})
        for i in range(runs)
    ]


def steps_per_second(workload: Workload, runs: Sequence[TrialConfig], *, together: bool) -> float:
    start = time.perf_counter()
    begin = starts(workload, runs)
    if together and stack_size(workload, begin[0].model, runs[0].batch_size) > 1:
        run_ensemble(workload, runs, begin)
    else:
        for config in runs:
            run_loop(workload, config, begin[config.seed])
    return sum(config.steps for config in runs) / (time.perf_counter() - start)


def compare(workload: Workload, runs: Sequence[TrialConfig], pairs: int) -> str:
    """Both figures and their ratio, in words."""
    measured = [
        (
            steps_per_second(workload, runs, together=True),
            steps_per_second(workload, runs[:LOOP_RUNS], together=False),
        )
        for _ in range(pairs)
    ]
    ratio = statistics.median(together / alone for together, alone in measured)
    together, alone = (statistics.median(column) for column in zip(*measured, strict=True))
    return f"{together:7.0f} against {alone:5.0f} = {ratio:4.1f}x"


def main() -> None:
    """Print one line per model and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads; launch workers use 1")
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--optimizer", default="adamw", help="optimizer of all runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    digits = load()
    unevaluated = replace(digits, eval_inputs=digits.eval_inputs[:1], eval_targets=digits.eval_targets[:1])
    print(
        f"ensemble against plain loop, {options.optimizer}, {options.threads} thread(s), runs x steps per second"
    )
    for model in ("mlp", "cnn"):
        for batch_size in STEPS:
            runs = configs(digits, model, batch_size, options.optimizer)
            whole, steps = compare(digits, runs, options.pairs), compare(unevaluated, runs, options.pairs)
            print(
                f"{model} batch {batch_size:3d}: whole runs {whole}; training steps alone {steps}", flush=True
            )


if __name__ == "__main__":
    main()
