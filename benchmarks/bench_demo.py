"""The demo's AdamW sweep through the local engine against one process per trial, seconds per trial.

Both ways train trials of the same sweep on all cores and log them to an MLflow store of their own. The engine runs the
whole sweep; of the one-process way only a sample, evenly spread over the sweep, since all of it would take an hour.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from surge_sweeps.demo import scratch_sweeps
from surge_sweeps.launch.driver import launch_sweeps
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.slots import available_cores
from surge_sweeps.launch.target import Target
from surge_sweeps.sweep import Sweep, Trial
from surge_sweeps.trackers import open_tracker


def engine_seconds_per_trial(sweep: Sweep, folder: Path) -> float:
    """The whole sweep through the local engine, start of the workers included."""
    uri = f"sqlite:///{folder / 'engine.db'}"
    tracker = open_tracker("mlflow", "bench", uri)
    target = Target("bench", "mlflow", uri, folder)
    start = time.perf_counter()
    launch_sweeps([sweep], target, tracker, LocalLauncher(tracker), packed=True)
    tracker.close()
    return (time.perf_counter() - start) / len(sweep.trials())


def process_seconds_per_trial(trials: Sequence[Trial], folder: Path) -> float:
    """One `python -m surge_sweeps.training` a trial, as many at a time as there are cores."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'processes.db'}",
        "OMP_NUM_THREADS": "1",
    }
    # The store is made first: several processes cannot make one at the same moment.
    _run(trials[0], environment)
    start = time.perf_counter()
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(lambda trial: _run(trial, environment), trials))
    return (time.perf_counter() - start) / len(trials)


def _run(trial: Trial, environment: dict[str, str]) -> None:
    flags = [f"--{name}={value}" for name, value in trial.parameters.items()]
    command = [sys.executable, "-m", "surge_sweeps.training", *flags, "--tracker=mlflow", "--project=bench"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """Print both figures and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=16, help="trials run in a process of their own")
    sample = parser.parse_args().sample
    (sweep,) = [item for item in scratch_sweeps() if item.name == "digits-adamw"]
    trials = sweep.trials()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = process_seconds_per_trial(trials[:: len(trials) // sample], folder)
        engine = engine_seconds_per_trial(sweep, folder)
    print(f"one process per trial: {processes:.3f} s per trial ({sample} of {len(trials)} trials)")
    print(f"local engine:          {engine:.3f} s per trial (all {len(trials)} trials)")
    print(f"ratio: {processes / engine:.1f}x")


if __name__ == "__main__":
    main()
