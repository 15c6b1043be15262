"""Every benchmark, one after the other: `make bench`. Each prints ratios of the same work done two ways in one run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "bench_training.py",
    "bench_workloads.py",
    "bench_demo.py",
    "bench_engines.py",
    "bench_collect.py",
    "bench_mlflow_read.py",
    "bench_mlflow_write.py",
    "bench_mlflow_scale.py",
    "bench_wandb.py",
    "bench_offline.py",
    "bench_fit.py",
)


def main() -> None:
    """Run each script in a process of its own, so that none warms caches or threads for the next."""
    for script in SCRIPTS:
        print(f"\n== {script}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).parent / script)], check=True)


if __name__ == "__main__":
    main()
