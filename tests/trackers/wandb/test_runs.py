"""Listing runs: what a page tells of each, and how few requests it takes."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from wandb_server import ENTITY, WandbServer

from surge_sweeps.curves import Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.trial_outcomes import trial_outcomes
from surge_sweeps.trackers.wandb import client
from surge_sweeps.trackers.wandb import runs as runs_module
from surge_sweeps.trackers.wandb.client import WandbProject, connect
from surge_sweeps.trackers.wandb.runs import list_runs, stored_runs
from surge_sweeps.trackers.wandb.sweeps import register

PROJECT = WandbProject(ENTITY, "digits")
CONFIG = {"lr": 0.1, "batch_size": 8, "seed": 0}
NAN, INF = math.nan, math.inf


def test_one_request_a_page_and_none_for_a_run(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runs_module, "PER_PAGE", 10)
    for index in range(25):
        wandb_server.add_run(*PROJECT[:2], f"r{index}", config=CONFIG, history=[{"eval/loss": 1.0}])
    api = connect()
    wandb_server.operations.clear()
    stored = stored_runs(api, PROJECT)
    assert [run.run for run in stored] == [f"r{index}" for index in range(25)]
    assert all(run.params and run.metrics for run in stored)
    # GetDefaultEntity: what the client asks once for whatever path it is given.
    assert wandb_server.operations.counts() == {"Runs": 3, "GetDefaultEntity": 1}
    assert len(stored_runs(api, PROJECT)) == 25
    assert wandb_server.operations.counts()["Runs"] == 6
    assert not (tmp_path / "wandb-home" / "dir" / ENTITY).exists()


def test_configuration_as_text_under_dotted_names(wandb_server: WandbServer) -> None:
    config = {
        "lr": 1e-5,
        "optim": {"lr": 0.1, "betas": [0.9, 0.95]},
        "name": "adamw",
        "nesterov": True,
        "clip": None,
        "warmup": math.inf,
    }
    wandb_server.add_run(*PROJECT[:2], "a", config=config)
    params = stored_runs(connect(), PROJECT)[0].params
    assert params == {
        "lr": "1e-05",
        "optim.lr": "0.1",
        "optim.betas": "[0.9, 0.95]",
        "name": "adamw",
        "nesterov": "True",
        "warmup": "inf",
    }


STATES: list[tuple[str, list[float], Status]] = [
    ("finished", [1.0, 0.5], "finished"),
    ("failed", [1.0, 0.5], "crashed"),
    ("failed", [1.0, NAN], "diverged"),
    ("failed", [1.0, -INF], "diverged"),
    ("crashed", [1.0, NAN], "crashed"),
    ("killed", [1.0, NAN], "crashed"),
    ("running", [1.0, NAN], "running"),
    ("pending", [], "running"),
    ("preempting", [1.0], "running"),
    ("preempted", [1.0], "running"),
]


def test_states_become_statuses(wandb_server: WandbServer) -> None:
    for index, (state, losses, _) in enumerate(STATES):
        rows = [{"train/loss": loss, "lr": 0.1} for loss in losses]
        wandb_server.add_run(*PROJECT[:2], f"r{index}", config=CONFIG, history=rows, state=state)
    stored = stored_runs(connect(), PROJECT)
    assert [run.status for run in stored] == [status for _, _, status in STATES]
    assert all(run.recorded is None and run.start_ms is not None for run in stored)
    assert all((run.end_ms is None) == (run.status == "running") for run in stored)


def test_a_recorded_status_decides(wandb_server: WandbServer) -> None:
    summary = {"surge/status": "capped", "surge/start_loss": 2.5, "eval/loss": 1.0}
    wandb_server.add_run(
        *PROJECT[:2], "a", config=CONFIG, state="failed", summary=summary, history=[{"eval/loss": 1.0}]
    )
    run = stored_runs(connect(), PROJECT)[0]
    assert run.status == "capped"
    assert run.params["start_loss"] == "2.5"
    assert list(run.metrics) == ["eval/loss"]


@pytest.mark.parametrize(
    ("written", "state", "status"),
    [
        ("finished", "finished", "finished"),
        ("finished", "running", "running"),
        ("finished", "crashed", "crashed"),
        ("capped", "killed", "crashed"),
        ("finished", "failed", "crashed"),
        ("diverged", "failed", "diverged"),
        ("diverged", "preempted", "running"),
        ("crashed", "running", "crashed"),
    ],
)
def test_a_status_from_before_a_resume_says_nothing(
    wandb_server: WandbServer, written: str, state: str, status: Status
) -> None:
    summary = {"surge/status": written, "eval/loss": 1.0}
    rows = [{"eval/loss": 1.0}]
    wandb_server.add_run(*PROJECT[:2], "a", config=CONFIG, state=state, summary=summary, history=rows)
    assert stored_runs(connect(), PROJECT)[0].status == status


def test_only_the_loss_itself_tells_that_a_run_diverged(wandb_server: WandbServer) -> None:
    for index, name in enumerate(("best_val_loss", "kl_loss", "aux/loss", "eval/loss", "train/loss")):
        rows = [{"train/loss": 1.0}, {"train/loss": 1.0, name: INF}]
        wandb_server.add_run(*PROJECT[:2], f"r{index}", config=CONFIG, history=rows, state="failed")
    stored = stored_runs(connect(), PROJECT)
    assert [run.status for run in stored] == ["crashed"] * 4 + ["diverged"]
    assert all(run.failed for run in stored)
    trials = [replace(run, params={"trial_id": run.run}) for run in stored]
    found = trial_outcomes(trials, {run.run: "eval/loss" for run in stored})
    assert [outcome.status for outcome in found.values()] == ["crashed"] * 3 + ["diverged"] * 2


def test_a_newest_value_that_is_not_told_is_no_divergence(wandb_server: WandbServer) -> None:
    config = {**CONFIG, "trial_id": "t1"}
    wandb_server.add_run(*PROJECT[:2], "a", config=config, history=[{"eval/loss": 1.0}])
    wandb_server.runs[0].summary = {"eval/loss": {"min": 1.0}}
    stored = stored_runs(connect(), PROJECT)
    assert not stored[0].metrics["eval/loss"].is_known
    assert trial_outcomes(stored, {"t1": "eval/loss"})["t1"].status == "finished"


def test_every_number_ever_logged_is_a_metric(wandb_server: WandbServer) -> None:
    rows = [
        {"train/loss": 2.0, "eval/loss": 3.0, "note": "warm", "val": {"acc": 0.5}},
        {"train/loss": "NaN", "plan": {"_type": "table-file"}},
        {"train/loss": 1.0},
    ]
    wandb_server.add_run(*PROJECT[:2], "a", config=CONFIG, history=rows)
    run = wandb_server.runs[0]
    # define_metric(summary="min"): the newest value is not there, and is not the minimum.
    run.summary = {
        "train/loss": {"min": 1.0},
        "eval/loss": {"last": 3.0, "max": 9.0},
        "val": {"acc": 0.5},
        "plan": rows[1]["plan"],
    }
    listing = list_runs(connect(), PROJECT)
    metrics = listing.stored[0].metrics
    assert {"train/loss", "eval/loss", "val.acc"} <= set(metrics)
    assert "plan" not in metrics
    assert not any(name.startswith("_") for name in metrics)
    assert math.isnan(metrics["train/loss"].value)
    assert (metrics["eval/loss"].value, metrics["val.acc"].value) == (3.0, 0.5)
    assert metrics["train/loss"].step == 2
    assert listing.runs["a"].counts["train/loss"] == 3
    assert listing.runs["a"].counts["eval/loss"] == 1


def test_a_failed_run_whose_minimum_is_known_alone_is_no_divergence(wandb_server: WandbServer) -> None:
    wandb_server.add_run(*PROJECT[:2], "a", config=CONFIG, state="failed", history=[{"loss": 1.0}])
    wandb_server.runs[0].summary = {"loss": {"min": "NaN"}}
    assert stored_runs(connect(), PROJECT)[0].status == "crashed"


def test_reports_are_no_runs(wandb_server: WandbServer) -> None:
    wandb_server.add_run(*PROJECT[:2], "a", config=CONFIG)
    wandb_server.add_run(*PROJECT[:2], "b", job_type="surge-report")
    assert [run.run for run in stored_runs(connect(), PROJECT)] == ["a"]


def test_filters_and_a_sweep(wandb_server: WandbServer) -> None:
    for name, sweep, state in (("a", "s1", "finished"), ("b", "s1", "failed"), ("c", "s2", "finished")):
        wandb_server.add_run(
            *PROJECT[:2], name, config={**CONFIG, "trial_id": name}, sweep=sweep, state=state
        )
    api = connect()

    def names(project: WandbProject, filters: dict[str, object] | None = None) -> list[str]:
        return [run.run for run in stored_runs(api, project, filters)]

    assert names(PROJECT) == ["a", "b", "c"]
    assert names(PROJECT._replace(sweep="s1")) == ["a", "b"]
    assert names(PROJECT._replace(sweep="s1"), {"state": "finished"}) == ["a"]
    assert names(PROJECT, {"state": "finished"}) == ["a", "c"]
    with pytest.raises(TrackerError, match=r"unknown operator \$wrong"):
        names(PROJECT, {"state": {"$wrong": 1}})


def test_a_run_of_our_sweep_gets_the_id_of_its_trial(wandb_server: WandbServer) -> None:
    sweep = Sweep(lr=(0.1, 0.2), batch_size=(8,), seed=(0, 1), program="train.py", command=("python", "t.py"))
    api = connect()
    name = register(PROJECT, sweep)
    for index, trial in enumerate(sweep.trials()):
        config = {"lr": trial.lr, "batch_size": float(trial.batch_size), "seed": trial.seed, "note": index}
        wandb_server.add_run(*PROJECT[:2], f"r{index}", config=config, sweep=name)
    wandb_server.add_run(*PROJECT[:2], "off", config={**CONFIG, "lr": 0.7}, sweep=name)
    wandb_server.add_run(*PROJECT[:2], "own", config={**CONFIG, "trial_id": "t1"}, sweep=name)
    wandb_server.operations.clear()
    stored = {run.run: run.params for run in stored_runs(api, PROJECT)}
    assert [stored[f"r{index}"]["trial_id"] for index in range(4)] == [t.trial_id for t in sweep.trials()]
    assert "trial_id" not in stored["off"]
    assert stored["own"]["trial_id"] == "t1"
    assert stored["r0"]["sweep_id"] == name
    assert wandb_server.operations.counts()["GetSweep"] == 1


def test_sweeps_that_are_not_ours_or_are_deleted(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WANDB_ENTITY", PROJECT.entity), ("WANDB_PROJECT", PROJECT.project)):
        monkeypatch.setenv(name, value)  # wandb.sweep would, and leave it so
    api = connect()
    random = {"method": "random", "program": "t.py", "parameters": {"lr": {"min": 0.1, "max": 0.2}}}
    other = wandb.sweep(random, entity=PROJECT.entity, project=PROJECT.project)
    gone = register(PROJECT, Sweep(lr=(0.1,), batch_size=(8,), seed=(0,)))
    for index, name in enumerate((other, gone, gone)):
        wandb_server.add_run(*PROJECT[:2], f"r{index}", config=CONFIG, sweep=name)
    wandb_server.delete_sweep(gone)
    listing = list_runs(api, PROJECT)
    assert all("trial_id" not in run.params for run in listing.stored)
    assert [problem.what for problem in listing.problems] == [
        f"the sweep {gone} of 2 runs is deleted: which trials they did is not known"
    ]


@pytest.mark.parametrize("ahead_s", [0, 7200])
def test_a_silent_run_is_told_by_the_servers_clock(wandb_server: WandbServer, ahead_s: int) -> None:
    wandb_server.store.clock_offset_s = ahead_s
    for name, silent_s in (("alive", 10), ("dead", 5400)):
        run = wandb_server.add_run(
            *PROJECT[:2],
            name,
            config=CONFIG,
            history=[{"eval/loss": 1.0}],
            created_at=time.time() + ahead_s - 9000,
        )
        wandb_server.set_state(run, "running", silent_for_s=silent_s)
    listing = list_runs(connect(), PROJECT)
    newest = {run.run: run.metrics["eval/loss"].timestamp_ms / 1000 for run in listing.stored}
    assert time.time() - newest["alive"] < 60
    assert 5300 < time.time() - newest["dead"] < 5500
    named = [problem.what for problem in listing.problems]
    assert named == (
        ["the clock of the W&B server is 120 minutes ahead of this machine's, which is allowed for"]
        if ahead_s
        else []
    )


def test_a_slow_server_is_asked_for_smaller_pages(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(30):
        wandb_server.add_run(*PROJECT[:2], f"r{index}", config=CONFIG)
    monkeypatch.setattr(runs_module, "PER_PAGE", 80)
    monkeypatch.setitem(client.BOUNDS, "x_graphql_retry_max", 1)
    api = connect()
    wandb_server.operations.clear()
    wandb_server.faults.add("Runs", 500, times=2)  # as often as W&B's client tries
    assert len(stored_runs(api, PROJECT)) == 30
    assert [entry.variables["perPage"] for entry in wandb_server.operations.of("Runs")] == [80] * 2 + [20] * 2


def test_an_unknown_project_is_told_apart_from_an_empty_one(wandb_server: WandbServer) -> None:
    wandb_server.store.make_project(*PROJECT[:2])
    api = connect()
    assert stored_runs(api, PROJECT) == []
    with pytest.raises(ValueError, match="nope"):
        stored_runs(api, WandbProject(ENTITY, "nope"))
