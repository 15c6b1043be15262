"""Writing trials into W&B: the real client against the test server."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("wandb")
import wandb
from wandb_server import WandbServer
from wandb_server.clients import child_environment
from wandb_server.store import Run

from surge_sweeps.curves import RESULT_STATUSES
from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import ReadOptions, ResumableRun, RunRecord
from surge_sweeps.trackers.wandb import open_run
from surge_sweeps.trackers.wandb.client import WandbProject, connect
from surge_sweeps.trackers.wandb.offline.folder import OfflineFolder
from surge_sweeps.trackers.wandb.runs import stored_runs
from surge_sweeps.trackers.wandb.writer import WandbTracker

Make = Callable[..., RunRecord]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]

PROJECT = WandbProject("test-entity", "digits")


@pytest.fixture
def tracker(wandb_server: WandbServer) -> Iterator[WandbTracker]:
    tracker = opened()
    yield tracker
    tracker.close()


def opened() -> WandbTracker:
    tracker = open_tracker("wandb", "test-entity/digits")
    assert isinstance(tracker, WandbTracker)
    tracker.open_sweep("s1", "first sweep", {"name": "digits"})
    return tracker


def results(server: WandbServer) -> list[tuple[str, str]]:
    """(trial, status) of every run of the project that holds a result, as the real API lists them."""
    runs = stored_runs(connect(), PROJECT)
    return sorted((run.params["trial_id"], run.status) for run in runs if run.status in RESULT_STATUSES)


def rows(run: Run, *names: str) -> list[tuple[object, ...]]:
    return [tuple(row.get(name) for name in ("_step", *names)) for row in run.history.rows()]


def test_a_record_comes_back_as_it_was_written(tracker: WandbTracker, wandb_server: WandbServer) -> None:
    losses = [(0, 2.5), (1, math.nan), (5, math.inf), (7, -math.inf), (9, 1e-300), (11, 0.1 + 0.2)]
    config = {"lr": 0.003, "batch_size": 32, "seed": 7, "optimizer": "adamw", "nesterov": True}
    summary = {"start_checkpoint": "ab12", "start_loss": math.nan, "last_finite_step": 0}
    metrics = {"eval/loss": losses, "examples": [(step, 100.0 + step) for step, _ in losses]}
    tracker.write_runs("s1", [RunRecord(config, "t1", "diverged", metrics, summary)])

    run = wandb.Api().run(f"test-entity/digits/{wandb_server.runs[0].name}")
    assert run.config == config | {"trial_id": "t1", "sweep_id": "s1"}
    found = list(run.scan_history(keys=["_step", "eval/loss", "examples"]))
    assert [row["_step"] for row in found] == [0, 1, 5, 7, 9, 11]
    read = [float(row["eval/loss"]) for row in found]
    assert repr(read) == repr([loss for _, loss in losses])
    assert [row["examples"] for row in found] == [100, 101, 105, 107, 109, 111]
    ours = {key: run.summary[key] for key in dict(run.summary) if key.startswith("surge/")}
    assert ours == {
        "surge/start_checkpoint": "ab12",
        "surge/start_loss": "NaN",
        "surge/last_finite_step": 0,
        "surge/whole": True,
        "surge/status": "diverged",
    }
    assert (run.state, run.name, run.group) == ("finished", "lr=0.003 batch=32 seed=7", "bs=32")
    assert (run.job_type, run.tags) == ("train", ["surge", "first sweep", "adamw"])
    assert dict(tracker.done_trials()) == {"t1": "diverged"}


def test_losses_are_drawn_over_examples_and_summaries_stay_at_the_last_value(
    tracker: WandbTracker, wandb_server: WandbServer
) -> None:
    points = {"train/loss": [(1, 1.0), (2, 3.0)], "examples": [(1, 8.0), (2, 16.0)]}
    tracker.write_runs("s1", [RunRecord({"lr": 0.1, "batch_size": 8}, "t1", "finished", points)])
    (run,) = wandb_server.runs
    metrics = run.config["_wandb"]["value"]["m"]
    names = [metric["1"] for metric in metrics]
    assert sorted(names) == ["eval/loss", "examples", "tokens", "train/loss"]
    by_name = dict(zip(names, metrics, strict=True))
    assert names[by_name["train/loss"]["5"] - 1] == "examples"
    assert run.summary["train/loss"] == 3.0


@pytest.mark.parametrize(
    ("status", "state"), [("finished", "finished"), ("capped", "finished"), ("crashed", "failed")]
)
def test_a_crash_is_no_result(
    tracker: WandbTracker, wandb_server: WandbServer, record: Make, status: str, state: str
) -> None:
    tracker.write_runs("s1", [record("t1", status)])
    assert [(run.state, run.summary["surge/status"]) for run in wandb_server.runs] == [(state, status)]
    assert (dict(tracker.done_trials()) == {"t1": status}) == (status != "crashed")


def test_twenty_runs_are_written_whole_each_with_its_own_points(
    tracker: WandbTracker, wandb_server: WandbServer, record: Make
) -> None:
    records = [record(f"t{index}", steps=30 + index, lr=0.1 + index) for index in range(20)]
    tracker.write_runs("s1", records)
    by_trial = {run.values["trial_id"]: run for run in wandb_server.runs}
    assert len(by_trial) == len(wandb_server.runs) == 20
    for written in records:
        run = by_trial[written.trial_id]
        assert (run.values["lr"], run.summary["surge/status"]) == (written.config["lr"], "finished")
        assert rows(run, "eval/loss") == [
            (step, pytest.approx(loss, abs=0)) for step, loss in written.metrics["eval/loss"]
        ]
    before = wandb_server.operations.counts()
    assert len(tracker.done_trials()) == 20
    assert wandb_server.operations.counts()["UpsertBucket"] == before["UpsertBucket"]
    assert wandb.run is None


def test_faults_on_the_way_lose_nothing_and_double_nothing(
    tracker: WandbTracker, wandb_server: WandbServer, record: Make
) -> None:
    for operation in ("UpsertBucket", "file_stream"):
        for kind in (429, 500, "drop", "drop_after", "slow"):
            wandb_server.faults.add(operation, kind, seconds=0.5)
    tracker.write_runs("s1", [record(f"t{index}", steps=10) for index in range(8)])
    assert wandb_server.faults.pending() == []
    assert results(wandb_server) == [(f"t{index}", "finished") for index in range(8)]
    assert [len(rows(run)) for run in wandb_server.runs] == [10] * 8


def test_a_server_that_refuses_the_rows_is_told_and_nothing_is_lost(
    tracker: WandbTracker,
    wandb_server: WandbServer,
    wandb_cli: Cli,
    record: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_run, "SHOW_TIMEOUT_S", 0.5)
    wandb_server.faults.add("file_stream", 403, times=1000)
    with pytest.raises(TrackerError, match="did not take all of a run") as caught:
        tracker.write_runs("s1", [record("t1")])
    assert dict(tracker.done_trials()) == {}
    wandb_server.faults.clear()
    command = re.search(r"`wandb (sync .*)`", str(caught.value))
    assert command is not None
    wandb_cli(*command[1].split())
    assert dict(opened().done_trials()) == {"t1": "finished"}
    assert len(rows(wandb_server.runs[0])) == 3


def test_a_server_that_goes_away_before_the_end_is_told_in_time(
    tracker: WandbTracker, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_run, "FINISH_TIMEOUT_S", 1.0)
    run = tracker.start_run("s1", "t1", {"lr": 0.1, "batch_size": 8})
    run.log(0, {"eval/loss": 2.0})
    wandb_server.faults.add("file_stream", 500, times=1000)
    with pytest.raises(TrackerError, match=r"wandb sync --include-online .*run-"):
        run.finish("finished")
    run.finish("crashed")
    with pytest.raises(TrackerError, match="finished and takes no more"):
        run.log(1, {"eval/loss": 1.0})


KILLED = """
import os, signal, sys
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.wandb import run as module

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "status":
    module.close_run = kill
tracker = open_tracker("wandb", "test-entity/digits")
tracker.open_sweep("s1", "first sweep", {})
run = tracker.start_run("s1", "t1", {"lr": 0.1, "batch_size": 8})
run.log(0, {"eval/loss": 2.0})
run.log(1, {"eval/loss": 1.0})
if sys.argv[1] == "logged":
    kill()
if sys.argv[1] == "left":
    sys.exit(0)
run.finish("finished")
"""


@pytest.mark.parametrize("moment", ["logged", "status", "left"])
def test_a_killed_writer_leaves_no_second_result(
    wandb_server: WandbServer, record: Make, moment: str, tmp_path: Path
) -> None:
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, moment],
        env=child_environment({"PYTHONPATH": root}),
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == (0 if moment == "left" else -signal.SIGKILL)
    tracker = opened()
    before = dict(tracker.done_trials())
    assert before in ({}, {"t1": "finished"})
    stale = tracker.close_stale("s1")
    assert (stale == 1) == (not before)
    tracker.write_runs("s1", [record(trial) for trial in ("t1", "t2") if trial not in before])
    time.sleep(1)  # time for what the killed writer's client may still send
    assert results(wandb_server) == [("t1", "finished"), ("t2", "finished")]
    assert dict(tracker.done_trials()) == {"t1": "finished", "t2": "finished"}
    assert tracker.close_stale("s1") == 0


def test_the_users_process_is_left_alone(
    tracker: WandbTracker, record: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    def state() -> list[object]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)]
        return [sys.stdout, sys.stderr, sys.exit, sys.excepthook, handlers, Path.cwd(), wandb.run]

    before = state()
    run = tracker.start_run("s1", "t1", {"lr": 0.1, "batch_size": 8})
    assert state() == before
    run.log(0, {"eval/loss": 1.0})
    run.finish("finished")
    tracker.write_runs("s1", [record("t2"), record("t3")])
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_points_at_one_step_are_one_row(tracker: WandbTracker, wandb_server: WandbServer) -> None:
    run = tracker.start_run("s1", "t1", {"lr": 0.1, "batch_size": 8})
    run.log(3, {"eval/loss": 1.0})
    run.log(3, {"train/loss": 2.0})
    run.finish("finished")
    assert rows(wandb_server.runs[0], "eval/loss", "train/loss") == [(3, 1.0, 2.0)]
    assert not isinstance(run, ResumableRun)


def test_close_ends_an_open_run_without_a_status(tracker: WandbTracker, wandb_server: WandbServer) -> None:
    run = tracker.start_run("s1", "t1", {"lr": 0.1, "batch_size": 8})
    run.log(3, {"train/loss": 1.5})
    assert tracker.close_stale("s1") == 0
    tracker.close()
    tracker.close()
    (stored,) = wandb_server.runs
    assert (stored.state, rows(stored, "train/loss")) == ("failed", [(3, 1.5)])
    assert "surge/status" not in stored.summary
    assert tracker.close_stale("s1") == 1
    assert stored.summary["surge/status"] == "crashed"
    assert stored.summary["train/loss"] == 1.5


SCRIPT = """
import os, sys
assert not os.environ["WANDB_SERVICE"]
import wandb
settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off")
with wandb.init(config={"batch_size": 8.0}, settings=settings, **eval(sys.argv[3])) as run:
    for step in range(3):
        run.log({"val_loss": float(sys.argv[1]), "aux": 1.0})
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("loss", "code", "arguments", "status", "problem"),
    [
        ("0.5", 0, {}, "finished", ""),
        ("nan", 0, {}, "diverged", ""),
        ("0.5", 1, {}, "crashed", ""),
        ("0.5", 0, {"project": "mine"}, "crashed", "remove project="),
    ],
)
def test_a_users_own_script_logs_into_the_run_of_its_trial(
    tracker: WandbTracker,
    wandb_server: WandbServer,
    tmp_path: Path,
    loss: str,
    code: int,
    arguments: dict[str, str],
    status: str,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("surge_sweeps.trackers.wandb.script.SHOW_TIMEOUT_S", 0.2)
    run = tracker.start_script("s1", "t1", {"lr": 0.25, "batch_size": 8, "seed": 3}, "val_loss")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, loss, str(code), repr(arguments)],
        env={**os.environ, **run.environment},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == code
    assert run.finish(done.returncode) == status
    assert problem in run.problem
    assert bool(run.problem) == bool(problem)
    if not arguments:
        (stored,) = wandb_server.runs
        assert stored.values["trial_id"] == "t1"
        assert (stored.values["lr"], stored.values["batch_size"]) == (0.25, 8.0)
        assert (stored.group, stored.job_type, stored.display_name) == (
            "bs=8",
            "train",
            "lr=0.25 batch=8 seed=3",
        )
    assert dict(tracker.done_trials()) == ({} if status == "crashed" else {"t1": status})


def test_a_script_without_the_loss_says_what_it_logged(
    tracker: WandbTracker, wandb_server: WandbServer
) -> None:
    run = tracker.start_script("s1", "t1", {"lr": 0.25, "batch_size": 8}, "val_loss")
    name = run.environment["WANDB_RUN_ID"]
    wandb_server.add_run("test-entity", "digits", name, history=[{"val_ppl": 3.0}])
    assert run.finish(0) == "crashed"
    assert run.problem == "it logged no metric 'val_loss', only: val_ppl"


def test_a_loss_whose_summary_is_its_minimum_is_read_from_the_history(
    tracker: WandbTracker, wandb_server: WandbServer
) -> None:
    run = tracker.start_script("s1", "t1", {"lr": 0.25, "batch_size": 8}, "val_loss")
    history = [{"val_loss": 1.0}, {"val_loss": "NaN"}]
    name = run.environment["WANDB_RUN_ID"]
    wandb_server.add_run("test-entity", "digits", name, history=history, summary={"val_loss": {"min": 1.0}})
    assert run.finish(0) == "diverged"


def test_offline_runs_carry_the_same_record(
    tmp_path: Path, record: Make, monkeypatch: pytest.MonkeyPatch, wandb_server: WandbServer
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb.teardown()
    tracker = opened()
    assert dict(tracker.done_trials()) == {}
    tracker.write_runs("s1", [record("t1"), record("t2", "diverged", steps=5), record("t3", "crashed")])
    run = tracker.start_run("s1", "t4", {"lr": 0.5, "batch_size": 4})
    run.log(0, {"eval/loss": math.nan})
    run.finish("diverged", {"last_finite_step": 0})
    assert dict(opened().done_trials()) == {"t1": "finished", "t2": "diverged", "t4": "diverged"}
    assert opened().close_stale("s1") == 0
    assert dict(open_tracker("wandb", "test-entity/other").done_trials()) == {}

    curves = OfflineFolder().collect(str(tmp_path / "wandb"), ReadOptions())
    runs = curves.runs.set_index("trial_id")
    assert runs["status"].to_dict() == {"t1": "finished", "t2": "diverged", "t3": "crashed", "t4": "diverged"}
    points = curves.points[curves.points["run"] == runs.loc["t2", "run"]]
    assert points["step"].tolist() == [0, 1, 2, 3, 4]
    assert points["loss"].tolist() == [2.0 / (step + 1) for step in range(5)]
    assert wandb_server.runs == []
    with pytest.raises(TrackerError, match="WANDB_MODE"):
        tracker.start_script("s1", "t5", {"lr": 0.1, "batch_size": 8}, "loss")


def test_an_unknown_project_has_no_done_trials_and_is_not_made(
    tracker: WandbTracker, wandb_server: WandbServer
) -> None:
    assert dict(tracker.done_trials()) == {}
    tracker.write_runs("s1", [])
    assert wandb_server.operations.counts()["UpsertBucket"] == 0


def test_mistakes_are_told_before_anything_is_written(
    tracker: WandbTracker, wandb_server: WandbServer, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SurgeError, match="is no W&B project"):
        open_tracker("wandb", "a/b/c/d")
    with pytest.raises(SurgeError, match="one sweep"):
        open_tracker("wandb", "team/digits/ab12cd34")
    with pytest.raises(TrackerError, match="no sweep 's2'"):
        tracker.start_run("s2", "t1", {"lr": 0.1, "batch_size": 8})
    with pytest.raises(TrackerError, match="W&B refuses the parameter name '_wandb'"):
        tracker.write_runs("s1", [record("t1"), record("t2", _wandb=1)])
    with pytest.raises(TrackerError, match="W&B refuses the metric name ''"):
        tracker.write_runs("s1", [RunRecord({"lr": 1.0}, "t1", "finished", {"": [(0, 1.0)]})])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.teardown()
    with pytest.raises(TrackerError, match="records nothing"):
        tracker.write_runs("s1", [record("t1")])
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()
    with pytest.raises(TrackerError, match="no W&B key"):
        opened().write_runs("s1", [record("t1")])
    assert wandb_server.runs == []


def test_an_agents_process_writes_no_runs_but_its_own(
    wandb_server: WandbServer, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "ab12cd34")
    wandb.teardown()
    tracker = opened()
    with pytest.raises(TrackerError, match="unset WANDB_SWEEP_ID"):
        tracker.write_runs("s1", [record("t1")])
    with pytest.raises(TrackerError, match="unset WANDB_SWEEP_ID"):
        tracker.start_run("s1", "t1", {"lr": 0.1, "batch_size": 8})
    with pytest.raises(TrackerError, match="unset WANDB_SWEEP_ID"):
        tracker.start_script("s1", "t1", {"lr": 0.1, "batch_size": 8}, "loss")
    assert wandb_server.runs == []


def test_a_run_given_to_this_process_is_filled_and_resumed(
    wandb_server: WandbServer, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "given123")
    wandb.teardown()
    tracker = opened()
    tracker.write_runs("s1", [record("t8"), record("t9")])
    given = tracker.start_run(None, "t1", {"lr": 0.1, "batch_size": 8})
    assert isinstance(given, ResumableRun)
    assert (given.run_id, given.logged_step) == ("given123", -1)
    for step in range(3):
        given.log(step, {"eval/loss": 1.0 - step})
    given.preempt()
    given.finish("crashed")
    again = tracker.start_run(None, "t1", {"lr": 0.1, "batch_size": 8})
    assert isinstance(again, ResumableRun)
    assert again.logged_step == 2
    for step in range(5):
        again.log(step, {"eval/loss": 1.0 - step})
    again.finish("finished")
    run = wandb_server.run("test-entity/digits/given123")
    assert rows(run, "eval/loss") == [(step, 1.0 - step) for step in range(5)]
    assert (run.state, run.values["trial_id"]) == ("finished", "t1")
    assert len(wandb_server.runs) == 3
    with pytest.raises(TrackerError, match=r"has lr=0\.1, and this trial has 0\.2"):
        tracker.start_run(None, "t2", {"lr": 0.2, "batch_size": 8})
