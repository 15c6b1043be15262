"""Runs of an engine's tasks on W&B: one that was killed goes on in its run, another task has another one."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from wandb_server import WandbServer

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import collect
from surge_sweeps.trackers.base import ResumableRun, RunRecord
from surge_sweeps.trackers.wandb.writer import WandbTracker

PROJECT = "test-entity/digits"
CONFIG = {"lr": 0.1, "batch_size": 8, "seed": 0}
#: A task as an engine starts it; it may hang in the middle.
TASK = """
import json, sys, time
from surge_sweeps.trackers.wandb.writer import WandbTracker
project, trial, owner, hang_after = json.loads(sys.argv[1])
tracker = WandbTracker(project)
run = tracker.resume_run("s1", trial, {"lr": 0.1, "batch_size": 8, "seed": 0}, owner)
print(run.run_id, run.logged_step, flush=True)
for step in range(10):
    run.log(step, {"eval/loss": 2.0 / (step + 1), "examples": 8.0 * step})
    if step == hang_after:
        print("hangs", flush=True)
        time.sleep(600)
run.finish("finished")
tracker.close()
"""


def start(trial: str, owner: str, hang_after: int = -1) -> subprocess.Popen[str]:
    order = json.dumps([PROJECT, trial, owner, hang_after])
    return subprocess.Popen([sys.executable, "-c", TASK, order], stdout=subprocess.PIPE, text=True)


def finish(trial: str, owner: str) -> str:
    """The id of the run."""
    said, _ = (task := start(trial, owner)).communicate(timeout=120)
    assert task.returncode == 0
    return said.split()[0]


def test_a_killed_task_goes_on_in_its_run_and_another_task_has_its_own(wandb_server: WandbServer) -> None:
    with start("t0", "launch/0", 5) as task:
        assert task.stdout is not None
        run_id = task.stdout.readline().split()[0]
        assert task.stdout.readline() == "hangs\n"
        deadline = time.monotonic() + 60
        while (
            not (wandb_server.runs and len(wandb_server.runs[0].history) >= 3) and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        os.kill(task.pid, signal.SIGKILL)
    tracker = WandbTracker(PROJECT)
    assert tracker.result_of("t0") is None
    assert tracker.close_stale("s1", in_flight={"t0"}) == 0
    assert finish("t0", "launch/0") == run_id
    assert tracker.result_of("t0") == "finished"
    assert finish("t0", "again/0") != run_id
    curves = collect(PROJECT, tracker="wandb")
    points = curves.points[curves.points["run"] == run_id]
    assert points["step"].tolist() == list(range(10))
    assert all(
        math.isclose(loss, 2.0 / (step + 1))
        for step, loss in zip(points["step"], points["loss"], strict=True)
    )


def test_a_task_that_makes_room_goes_on(wandb_server: WandbServer) -> None:
    tracker = WandbTracker(PROJECT)
    first = tracker.resume_run("s1", "t0", CONFIG, "launch/0")
    assert isinstance(first, ResumableRun)
    first.log(0, {"eval/loss": 1.0, "examples": 0.0})
    first.preempt()
    # It was called with another split of its batch meanwhile.
    again = tracker.resume_run("s1", "t0", {**CONFIG, "micro_batch_size": 4}, "launch/0")
    assert (again.run_id, again.logged_step) == (first.run_id, 0)
    again.log(0, {"eval/loss": 9.0, "examples": 0.0})
    again.log(1, {"eval/loss": 0.5, "examples": 8.0})
    again.finish("finished")
    assert dict(tracker.done_trials()) == {"t0": "finished"}
    assert [run.name for run in wandb_server.runs] == [first.run_id]
    assert collect(PROJECT, tracker="wandb").points["loss"].tolist() == [1.0, 0.5]


def test_a_script_of_a_task_has_the_same_run_whenever_it_starts(wandb_server: WandbServer) -> None:
    def run_of(owner: str) -> str:
        run = WandbTracker(PROJECT).start_script("s1", "t0", CONFIG, "loss", owner)
        run.preempt()
        assert run.environment["WANDB_RESUME"] == "allow"
        return run.environment["WANDB_RUN_ID"]

    assert run_of("launch/0") == run_of("launch/0")
    assert run_of("launch/0") != run_of("launch/1")
    with pytest.raises(TrackerError, match="Open the sweep"):
        WandbTracker(PROJECT).start_script("s1", "t0", CONFIG, "loss")


def test_offline_there_is_no_going_on(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(TrackerError, match="--tracker files"):
        WandbTracker(PROJECT).resume_run("s1", "t0", CONFIG, "launch/0")


def test_a_task_writes_the_runs_of_a_pack_without_the_sweeps_name(wandb_server: WandbServer) -> None:
    tracker = WandbTracker(PROJECT)
    tracker.write_runs("s1", [RunRecord(CONFIG, "t0", "finished", {"eval/loss": [(0, 1.0)]})])
    assert dict(tracker.done_trials()) == {"t0": "finished"}
    assert wandb_server.runs[0].values["sweep_id"] == "s1"


def test_what_was_launched_elsewhere_and_is_heard_of_is_left_alone(wandb_server: WandbServer) -> None:
    theirs = WandbTracker(PROJECT)
    run = theirs.resume_run("s1", "t0", CONFIG, "theirs/0")
    run.log(0, {"eval/loss": 1.0, "examples": 0.0})
    run.log(1, {"eval/loss": 1.0, "examples": 8.0})
    ours = WandbTracker(PROJECT)
    deadline = time.monotonic() + 60
    while not ours.busy_trials("s1") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ours.busy_trials("s1") == {"t0": run.run_id}
    assert ours.busy_trials("s1", ended={"theirs"}) == theirs.busy_trials("s1") == {}
    assert ours.close_stale("s1") == ours.close_stale("s1", ended={"theirs"}, only_whole=True) == 0
    assert "surge/status" not in wandb_server.runs[0].summary
    assert ours.close_stale("s1", ended={"theirs"}) == 1
    run.finish("finished")
    assert dict(ours.done_trials()) == {"t0": "finished"}
