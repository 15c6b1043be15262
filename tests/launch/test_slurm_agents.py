"""Real `wandb agent` processes on a real SLURM, one an element: each cell ends once, whoever is preempted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from wandb_server import WandbServer
from wandb_server.clients import child_environment

from surge_sweeps.launch import agents, claims
from surge_sweeps.launch.agents import AgentLauncher
from surge_sweeps.launch.base import LaunchResult
from surge_sweeps.launch.engine_agents import AgentEngine
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.plan import Resources
from surge_sweeps.launch.slurm import SlurmLauncher, SlurmOptions
from surge_sweeps.launch.target import Target
from surge_sweeps.progress import no_progress
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep
from surge_sweeps.trackers.wandb.client import WandbProject

pytestmark = pytest.mark.slow

PROJECT = WandbProject("test-entity", "study")
SCRIPT = """
import argparse, os, wandb
parser = argparse.ArgumentParser()
for name, kind in (("lr", float), ("batch_size", int), ("seed", int)):
    parser.add_argument(f"--{name}", type=kind)
args = parser.parse_args()
if args.lr == 0.5:
    raise SystemExit("no such luck")
run = wandb.init(settings=wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off"))
for step in range(1, 4):
    run.log({"val/loss": 1 / (step * args.lr)}, step=step)
"""
SWEEP = Sweep(
    lr=(0.1, 0.3, 0.5), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py", name="study",
    loss="val/loss",
)  # fmt: skip
BUILTIN = Sweep(
    lr=(0.002,),
    batch_size=(8,),
    seed=(0,),
    constants={"workload": "digits", "max_steps": 12_000},
    name="long",
)


@pytest.fixture
def folder(
    slurm: SlurmCluster, wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    for name, value in child_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(claims, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(agents, "HEARTBEAT_WAIT_SECONDS", 0.5)
    return tmp_path


def launch(sweep: Sweep, *, wait: bool = True) -> LaunchResult:
    launcher = SlurmLauncher(SlurmOptions(at_most=2))
    launcher.poll_seconds = 0.5
    target = Target(PROJECT.path, "wandb", None, Path.cwd())
    engine = AgentEngine(launcher, target, Resources(), wait=wait)
    return AgentLauncher(PROJECT, engine=engine).launch([sweep], no_progress)


def wait_for(is_so: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def test_each_cell_is_done_by_an_agent_of_its_own_and_none_twice(
    folder: Path, wandb_server: WandbServer
) -> None:
    result = launch(SWEEP)
    assert (result.planned, result.ended, result.missing) == (3, Counter(finished=2), 1), result.failures
    assert len(wandb_server.store.agents) == 3
    (made,) = Launch.all_in(folder)
    assert [task.kind for task in made.plan.tasks] == ["agent"] * 3
    assert made.is_over
    assert wandb_server.api_key not in "".join(
        path.read_text(errors="replace") for path in made.folder.rglob("*") if path.is_file()
    )
    (folder / "train.py").write_text(SCRIPT.replace("args.lr == 0.5", "False"))
    again = launch(SWEEP)
    assert (again.already_done, again.ended, again.missing) == (2, Counter(finished=1), 0), again.failures
    assert launch(SWEEP).already_done == 3


def test_what_the_queue_holds_is_not_handed_out_again(
    folder: Path, slurm: SlurmCluster, wandb_server: WandbServer
) -> None:
    two = replace(SWEEP, lr=(0.1, 0.3))
    for node in slurm.names:
        slurm.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        first = launch(two, wait=False)
        assert (len(first.running), first.missing) == (2, 0)
        assert list(first.launches.values()) == ["slurm"]
        second = launch(two, wait=False)
        assert len(second.running) == 2
        assert len(Launch.all_in(folder)) == 1
        assert len(wandb_server.sweeps) == 1
    finally:
        for node in slurm.names:
            slurm.run("scontrol", "update", f"nodename={node}", "state=resume")
    wait_for(lambda: [run.state for run in wandb_server.runs].count("finished") == 2)
    assert launch(two).already_done == 2


def test_a_preempted_trial_is_taken_up_by_the_agent_that_comes_back(
    folder: Path, slurm: SlurmCluster, wandb_server: WandbServer
) -> None:
    assert len(launch(BUILTIN, wait=False).running) == 1
    (made,) = Launch.all_in(folder)
    launcher = SlurmLauncher()
    wait_for(lambda: len(wandb_server.runs) == 1)
    time.sleep(1.0)
    job = next(iter(slurm.states(f"surge-{made.plan.launch_id}")))
    ids = slurm.run(
        "squeue", "--noheader", "--array", f"--name=surge-{made.plan.launch_id}", "--format=%F_%K"
    ).split()
    slurm.run("scancel", "--batch", "--signal=USR2", ids[job])
    wait_for(lambda: wandb_server.runs[0].state == "preempted")
    wait_for(lambda: wandb_server.runs[0].state == "finished")
    wait_for(lambda: launcher.status(made)[0].state == "ended")
    assert len(wandb_server.runs) == 1
    log = launcher.logs(made, 0)
    assert "made room" in log
    assert "starting over" not in log
    assert launch(BUILTIN).already_done == 1
