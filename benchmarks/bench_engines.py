"""What an engine costs beside the training, against a bare subprocess a trial, and what training together saves.

    python benchmarks/bench_engines.py [--trials 12] [--packed 96] [--engines local slurm ray]

Every way trains trials of the same sweep of handwritten digits, as many at a time, and writes them to a folder. The
bare way calls the trainer, one process a trial, with nothing around it. SLURM and Ray are real, on this machine; their
start is not counted. An engine that is not installed is left out, and that is said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from ray_cluster import RayCluster, ray_missing
from slurm_cluster import SlurmCluster, slurm_missing

from surge_sweeps.launch.base import Launcher
from surge_sweeps.launch.driver import launch_sweeps
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.plan import Resources
from surge_sweeps.launch.ray import RayLauncher, RayOptions
from surge_sweeps.launch.slurm import SlurmLauncher, SlurmOptions
from surge_sweeps.launch.target import Target
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import Tracker

MakeLauncher = Callable[[Tracker], Launcher]

ENGINES = ("local", "slurm", "ray")
AT_A_TIME = 2
#: Two of these fill the four cores of a node of the test clusters.
EACH = Resources(cpus_per_task=2)
SWEEP = Sweep(
    lr=(0.003,),
    batch_size=(16,),
    seed=(0,),
    constants={"workload": "digits", "model": "mlp", "optimizer": "adamw", "max_steps": 200},
    name="bench",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Seconds per trial of each engine against a bare subprocess."
    )
    parser.add_argument("--trials", type=int, default=12, help="trials in a process of their own")
    parser.add_argument("--packed", type=int, default=96, help="trials that train together")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    options = parser.parse_args()
    single = replace(SWEEP, seed=tuple(range(options.trials)))
    packed = replace(SWEEP, seed=tuple(range(options.packed)))
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"seconds per trial, {AT_A_TIME} at a time on {os.cpu_count()} cores: {single.constants}")
    bare = bare_seconds(single)
    print(f"{'bare subprocess':16} {bare:7.3f}")
    for engine in options.engines:
        if why := MISSING.get(engine, str)():
            print(f"{engine:16} left out: {why}")
            continue
        with OPENED[engine]() as make:
            one = engine_seconds(make, single, packed=False)
            together = engine_seconds(make, packed, packed=True)
        print(
            f"{engine:16} {one:7.3f}   one task a trial: {one - bare:+.3f} s, {one / bare:.2f}x the bare way"
        )
        print(
            f"{'':16} {together:7.3f}   {options.packed} trials together: {one / together:.0f}x the trials per"
            f" second of one task a trial, {bare / together:.0f}x of the bare way"
        )


@contextmanager
def local() -> Iterator[MakeLauncher]:
    """This machine."""
    yield lambda store: LocalLauncher(store, AT_A_TIME)


@contextmanager
def slurm() -> Iterator[MakeLauncher]:
    """A SLURM of its own."""

    def make(store: Tracker) -> Launcher:
        launcher = SlurmLauncher(SlurmOptions(at_most=AT_A_TIME))
        # A real controller is asked less often.
        launcher.poll_seconds = 1.0
        return launcher

    with SlurmCluster() as cluster, environment(cluster.environment):
        yield make


@contextmanager
def ray() -> Iterator[MakeLauncher]:
    """A Ray of its own, on which two tasks fit at a time."""
    with RayCluster() as cluster, environment(cluster.environment):
        yield lambda store: RayLauncher(RayOptions(address=cluster.address))


@contextmanager
def environment(added: Mapping[str, str]) -> Iterator[None]:
    """The environment with these, for a while."""
    before = dict(os.environ)
    os.environ.update(added)
    yield
    os.environ.clear()
    os.environ.update(before)


OPENED = {"local": local, "slurm": slurm, "ray": ray}
MISSING = {"slurm": slurm_missing, "ray": ray_missing}


def bare_seconds(sweep: Sweep) -> float:
    """The trainer, one process a trial, and nothing else."""

    def run(seed: int) -> None:
        parameters = {**sweep.constants, "lr": sweep.lr[0], "batch_size": sweep.batch_size[0], "seed": seed}
        flags = [f"--{name}={value}" for name, value in parameters.items()]
        command = [sys.executable, "-m", "surge_sweeps.training", *flags, "--tracker=files", "--project=runs"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_A_TIME) as pool:
        start = time.perf_counter()
        list(pool.map(run, sweep.seed))
        return (time.perf_counter() - start) / len(sweep.seed)


def engine_seconds(make: MakeLauncher, sweep: Sweep, *, packed: bool) -> float:
    """From the call of the launch to the last result."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            target = Target.of("runs", "files")
            store = open_tracker("files", target.project)
            launcher = make(store)
            start = time.perf_counter()
            resources = Resources() if launcher.name == "local" else EACH
            result = launch_sweeps([sweep], target, store, launcher, packed=packed, resources=resources)
            seconds = time.perf_counter() - start
            store.close()
        finally:
            os.chdir(home)
    if result.missing:
        raise SystemExit(f"{launcher.name}: {result.summary()} {sorted(set(result.failures.values()))}")
    return seconds / len(sweep.seed)


if __name__ == "__main__":
    main()
