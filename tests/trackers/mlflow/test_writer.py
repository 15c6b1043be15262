"""Writing sweeps into a real MLflow store on SQLite."""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
from forked_python import ForkedPython
from mlflow import MlflowClient
from mlflow.entities import ViewType

from surge_sweeps.errors import MissingExtraError, TrackerError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord, Tracker
from surge_sweeps.trackers.mlflow import buffer as mlflow_buffer
from surge_sweeps.trackers.mlflow import file as mlflow_file
from surge_sweeps.trackers.mlflow import writer as mlflow_writer
from surge_sweeps.trackers.mlflow.record import definition_from_tags

Make = Callable[..., RunRecord]


@pytest.fixture
def tracker(uri: str) -> Tracker:
    tracker = open_tracker("mlflow", "demo", uri)
    tracker.open_sweep("s1", "digits", {"name": "digits", "parameters": {"lr": {"values": [0.1, 0.2]}}})
    return tracker


def all_runs(client: MlflowClient, project: str = "demo") -> list[mlflow.entities.Run]:
    number = client.get_experiment_by_name(project).experiment_id
    return list(client.search_runs([number], run_view_type=ViewType.ALL))


def test_a_record_comes_back_as_it_was_written(tracker: Tracker, uri: str) -> None:
    losses = [(0, 2.5), (1, math.nan), (5, math.inf), (7, -math.inf), (9, 1e-300)]
    config = {"lr": 0.003, "batch_size": 32, "seed": 7, "optimizer": "adamw", "beta1": 0.9, "nesterov": True}
    summary = {"start_checkpoint": "loss-0.5", "start_loss": 0.5, "last_finite_step": 0}
    metrics = {"eval/loss": losses, "examples": [(step, 100.0 + step) for step, _ in losses]}
    tracker.write_runs("s1", [RunRecord(config, "t1", "diverged", metrics, summary)])

    curves = collect("demo", uri=uri)

    run = curves.runs.iloc[0]
    assert {key: run[key] for key in config} == config
    assert (run["trial_id"], run["sweep_id"], run["status"]) == ("t1", "s1", "diverged")
    assert (run["start_checkpoint"], run["start_loss"]) == ("loss-0.5", 0.5)
    assert "last_finite_step" not in curves.runs
    assert curves.points["step"].tolist() == [step for step, _ in losses]
    np.testing.assert_array_equal(curves.points["loss"], [loss for _, loss in losses])
    assert curves.points["examples"].tolist() == [100.0, 101.0, 105.0, 107.0, 109.0]
    assert curves.problems == ()
    assert curves.loss_name == "eval/loss"


def test_a_sweep_is_one_parent_with_a_named_child_per_trial(
    tracker: Tracker, client: MlflowClient, record: Make
) -> None:
    tracker.write_runs("s1", [record("t1", lr=0.003, batch_size=32, seed=1)])
    parent, child = sorted(all_runs(client), key=lambda run: run.data.tags["surge.kind"])
    assert (parent.info.run_name, parent.info.status) == ("digits", "RUNNING")
    assert definition_from_tags(parent.data.tags) == {
        "name": "digits",
        "parameters": {"lr": {"values": [0.1, 0.2]}},
    }
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.run_name == "lr=0.003 batch=32 seed=1"
    assert child.data.tags["surge.trial_id"] == "t1"
    assert child.data.params["trial_id"] == "t1"
    tracker.close()
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("status", "expected"),
    [("finished", "FINISHED"), ("diverged", "FINISHED"), ("capped", "FINISHED"), ("crashed", "FAILED")],
)
def test_diverged_is_a_result_and_crashed_a_failure(
    tracker: Tracker, client: MlflowClient, record: Make, status: str, expected: str
) -> None:
    tracker.write_runs("s1", [record("t1", status)])
    child = next(run for run in all_runs(client) if run.data.tags["surge.kind"] == "trial")
    assert child.info.status == expected
    assert child.data.tags["surge.status"] == status
    assert (dict(tracker.done_trials()) == {"t1": status}) == (status != "crashed")


def test_a_sweep_opened_again_is_found_not_doubled(tracker: Tracker, uri: str, client: MlflowClient) -> None:
    tracker.close()
    again = open_tracker("mlflow", "demo", uri)
    again.open_sweep("s1", "digits", {"longer": "x" * 9000})
    assert [run.info.status for run in all_runs(client)] == ["FINISHED"]
    again.start_run("s1", "t1", {"lr": 0.1, "batch_size": 8})
    parents = [run for run in all_runs(client) if run.data.tags["surge.kind"] == "sweep"]
    assert [run.info.status for run in parents] == ["RUNNING"]
    assert definition_from_tags(parents[0].data.tags) == {"longer": "x" * 9000}


def test_a_killed_run_is_closed_and_its_trial_runs_again_without_doubles(
    tracker: Tracker, uri: str, record: Make
) -> None:
    tracker.write_runs("s1", [record("t1")])
    abandoned = tracker.start_run("s1", "t2", {"lr": 0.2, "batch_size": 8, "seed": 0})
    abandoned.log(1, {"eval/loss": 1.0})
    del abandoned

    resumed = open_tracker("mlflow", "demo", uri)
    resumed.open_sweep("s1", "digits", {})
    assert resumed.close_stale("s1") == 1
    assert resumed.close_stale("s1") == 0
    assert dict(resumed.done_trials()) == {"t1": "finished"}
    resumed.write_runs("s1", [record("t2", lr=0.2)])
    resumed.close()

    assert dict(resumed.done_trials()) == {"t1": "finished", "t2": "finished"}
    results = collect("demo", uri=uri).results()
    assert sorted(results.runs["trial_id"]) == ["t1", "t2"]


def test_a_kill_between_the_status_and_the_end_loses_nothing(
    tracker: Tracker, client: MlflowClient, record: Make
) -> None:
    tracker.write_runs("s1", [record("t1")])
    child = next(run for run in all_runs(client) if run.data.tags["surge.kind"] == "trial")
    client.update_run(child.info.run_id, status="RUNNING")
    assert tracker.close_stale("s1") == 0
    assert client.get_run(child.info.run_id).info.status == "FINISHED"
    assert dict(tracker.done_trials()) == {"t1": "finished"}


def test_points_wait_for_a_batch_and_keep_the_time_they_were_logged(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracker.start_run("s1", "t1", {"lr": 0.1, "batch_size": 8})
    run_id = next(run for run in all_runs(client) if run.data.tags["surge.kind"] == "trial").info.run_id
    before_ms = time.time_ns() // 1_000_000
    run.log(1, {"eval/loss": 1.0})
    after_ms = time.time_ns() // 1_000_000
    assert client.get_metric_history(run_id, "eval/loss") == []
    time.sleep(0.02)
    run.finish("finished", {"start_loss": 2.0})
    run.finish("crashed")
    (point,) = client.get_metric_history(run_id, "eval/loss")
    assert before_ms <= point.timestamp <= after_ms
    assert client.get_run(run_id).data.tags["surge.status"] == "finished"
    with pytest.raises(TrackerError, match="finished"):
        run.log(2, {"eval/loss": 1.0})

    slow = tracker.start_run("s1", "t2", {"lr": 0.1, "batch_size": 8})
    monkeypatch.setattr(mlflow_buffer, "FLUSH_SECONDS", 0.0)
    slow.log(1, {"train/loss": 1.0})
    written = [run for run in all_runs(client) if run.data.metrics == {"train/loss": 1.0}]
    assert len(written) == 1


def test_many_points_go_out_in_few_calls(
    tracker: Tracker, uri: str, monkeypatch: pytest.MonkeyPatch, record: Make
) -> None:
    calls: list[int] = []
    log_batch = MlflowClient.log_batch

    def counted(self: MlflowClient, *args: object, **kwargs: object) -> object:
        calls.append(1)
        return log_batch(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    tracker.write_runs("s1", [record("t1", steps=50), record("t2", steps=50)])
    assert len(calls) == 2
    wide = record("t3", steps=700, **{f"option_{index}": index for index in range(150)})
    tracker.write_runs("s1", [wide])
    assert len(calls) <= 2 + 5
    run = tracker.start_run("s1", "t4", {"lr": 0.1, "batch_size": 8})
    calls.clear()
    for step in range(1500):
        run.log(step, {"eval/loss": 1.0})
    run.finish("finished")
    assert len(calls) == 2

    curves = collect("demo", uri=uri)
    counts = curves.points["run"].value_counts()
    by_trial = {
        trial: counts[run] for trial, run in zip(curves.runs["trial_id"], curves.runs["run"], strict=True)
    }
    assert by_trial == {"t1": 50, "t2": 50, "t3": 700, "t4": 1500}
    assert curves.runs.set_index("trial_id").loc["t3", "option_149"] == 149


def test_close_writes_what_is_buffered(tracker: Tracker, uri: str) -> None:
    run = tracker.start_run(None, "t1", {"lr": 0.1, "batch_size": 8})
    run.log(3, {"train/loss": 1.5})
    tracker.close()
    tracker.close()
    curves = collect("demo", uri=uri)
    assert curves.points["loss"].tolist() == [1.5]
    assert curves.runs["status"].tolist() == ["crashed"]


def test_a_trial_of_a_sweep_that_was_never_opened_is_refused(tracker: Tracker) -> None:
    with pytest.raises(TrackerError, match="no sweep 's2'"):
        tracker.start_run("s2", "t1", {"lr": 0.1, "batch_size": 8})


@pytest.mark.parametrize("name", ["a%b", "x" * 251, "../up", "/abs", "a//b", ""])
def test_names_that_mlflow_refuses_leave_no_run(
    tracker: Tracker, client: MlflowClient, record: Make, name: str
) -> None:
    with pytest.raises(TrackerError, match="MLflow refuses the parameter name"):
        tracker.write_runs("s1", [record("t1"), record("t2", **{name: 1})])
    with pytest.raises(TrackerError, match="MLflow refuses the metric name"):
        tracker.write_runs("s1", [RunRecord({"lr": 1.0}, "t1", "finished", {name: [(0, 1.0)]})])
    assert [run.data.tags["surge.kind"] for run in all_runs(client)] == ["sweep"]


def test_values_longer_than_mlflow_keeps_are_refused_not_cut(tracker: Tracker, record: Make) -> None:
    tracker.write_runs("s1", [record("t1", note="x" * 6000)])
    with pytest.raises(TrackerError, match="6001 characters"):
        tracker.write_runs("s1", [record("t2", note="x" * 6001)])
    with pytest.raises(TrackerError, match="8001 characters"):
        tracker.write_runs(
            "s1", [RunRecord({"lr": 1.0}, "t2", "finished", {}, {"start_checkpoint": "x" * 8001})]
        )


def test_a_deleted_experiment_names_the_way_back(client: MlflowClient, uri: str) -> None:
    number = client.create_experiment("demo")
    client.delete_experiment(number)
    with pytest.raises(TrackerError, match=f"restore --experiment-id {number}"):
        open_tracker("mlflow", "demo", uri).open_sweep("s1", "digits", {})
    with pytest.raises(TrackerError, match=f"restore --experiment-id {number}"):
        collect("demo", uri=uri)


@pytest.mark.parametrize("replace", [False, True], ids=["deleted", "replaced"])
def test_a_store_that_vanishes_in_mid_run_is_said_and_the_rest_runs_later(
    tracker: Tracker, database: Path, uri: str, record: Make, replace: bool
) -> None:
    tracker.write_runs("s1", [record("t1")])
    run = tracker.start_run("s1", "t2", {"lr": 0.2, "batch_size": 8})
    run.log(1, {"eval/loss": 1.0})
    aside = database.with_suffix(".aside")
    database.rename(aside)
    if replace:
        shutil.copy(aside, database)
    with pytest.raises(TrackerError, match="call the same command again"):
        run.finish("finished")
    with pytest.raises(TrackerError, match="deleted or replaced"):
        tracker.write_runs("s1", [record("t3")])
    assert replace or not database.exists()

    aside.replace(database)
    assert dict(tracker.done_trials()) == {"t1": "finished"}
    run.finish("finished")
    tracker.write_runs("s1", [record("t3")])
    assert sorted(collect("demo", uri=uri).results().runs["trial_id"]) == ["t1", "t2", "t3"]


def test_a_store_that_refuses_writes_in_mid_run_keeps_the_trials_done(
    tracker: Tracker, database: Path, uri: str, record: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker.write_runs("s1", [record("t1")])
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON metrics BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    with pytest.raises(TrackerError, match=r"disk is full.*The trials done are kept"):
        tracker.write_runs("s1", [record("t2")])
    assert "Traceback" not in capfd.readouterr().err
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TRIGGER full")
    assert tracker.close_stale("s1") == 1
    tracker.write_runs("s1", [record("t2")])
    assert sorted(collect("demo", uri=uri).results().runs["trial_id"]) == ["t1", "t2"]


def test_a_locked_store_is_said(database: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_file, "_LOCK_WAIT_S", 0.1)
    with closing(sqlite3.connect(database, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackerError, match="database is locked"):
            open_tracker("mlflow", "demo", uri).open_sweep("s1", "digits", {})


def test_a_run_deleted_while_it_is_written_is_said(tracker: Tracker, client: MlflowClient) -> None:
    run = tracker.start_run("s1", "t1", {"lr": 0.1, "batch_size": 8})
    child = next(run for run in all_runs(client) if run.data.tags["surge.kind"] == "trial")
    client.delete_run(child.info.run_id)
    run.log(1, {"eval/loss": 1.0})
    with pytest.raises(TrackerError, match="active"):
        run.finish("finished")
    client.restore_run(child.info.run_id)
    run.finish("finished")


def test_places_that_hold_no_store_are_refused_at_once(tmp_path: Path) -> None:
    text = tmp_path / "notes.db"
    text.write_text("not a database " * 100)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    for uri in (
        f"sqlite:///{text}",
        f"sqlite:///{tmp_path}",
        f"http://127.0.0.1:{port}",
        "sqlite://",
        "foo://bar",
        "mlruns",
    ):
        with pytest.raises(TrackerError) as caught:
            open_tracker("mlflow", "demo", uri).open_sweep("s1", "digits", {})
        assert caught.value.hint
    assert time.monotonic() - began < 20
    assert text.read_text().startswith("not a database")


def test_the_users_own_mlflow_and_logging_are_left_alone(
    record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    logger = logging.getLogger("mlflow.store.db.utils")
    level = logger.level
    tracker = open_tracker("mlflow", "demo", "sqlite:///fresh.db")
    tracker.open_sweep("s1", "digits", {})
    tracker.write_runs("s1", [record("t1")])
    tracker.close()
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before
    assert logger.level == level
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh.db"]
    assert capfd.readouterr() == ("", "")


SCRIPT = """
import sys, mlflow
with mlflow.start_run():
    mlflow.log_param("batch_size", 8.0)
    for step in range(3):
        mlflow.log_metric("loss", float(sys.argv[1]), step=step)
sys.exit(int(sys.argv[2]))
"""


def test_a_users_own_script_logs_into_the_run_of_its_trial(
    tracker: Tracker, uri: str, tmp_path: Path
) -> None:
    run = tracker.start_script("s1", "t1", {"lr": 0.25, "batch_size": 8, "seed": 3}, "loss")
    assert tracker.close_stale("s1") == 0
    with ForkedPython(["-c", SCRIPT, "0.5", "0"], environment={**os.environ, **run.environment}) as script:
        assert run.finish(script.wait(120)) == "finished"
    silent = tracker.start_script("s1", "t2", {"lr": 0.5, "batch_size": 8, "seed": 3}, "loss")
    assert silent.finish(0) == "crashed"
    assert dict(tracker.done_trials()) == {"t1": "finished"}
    curves = collect("demo", uri=uri, loss="loss")
    assert curves.runs[["trial_id", "lr", "batch_size", "seed"]].iloc[0].tolist() == ["t1", 0.25, 8, 3]
    assert curves.points["loss"].tolist() == [0.5] * 3


def test_a_script_that_outlived_its_launcher_is_run_again(
    tracker: Tracker, uri: str, client: MlflowClient
) -> None:
    run = tracker.start_script("s1", "t1", {"lr": 0.25, "batch_size": 8}, "loss")
    client.set_terminated(run.environment["MLFLOW_RUN_ID"])
    again = open_tracker("mlflow", "demo", uri)
    assert again.close_stale("s1") == 1
    assert dict(again.done_trials()) == {}


@pytest.mark.parametrize(
    ("exit_code", "metrics", "status"),
    [
        (0, {"val_loss": 1.0}, "finished"),
        (0, {"val_loss": math.inf}, "diverged"),
        (0, {"val_loss": 1.0, "aux_loss": math.nan}, "finished"),
        (0, {"train_loss": math.nan}, "diverged"),
        (1, {"val_loss": 1.0, "train_loss": math.nan}, "diverged"),
        (1, {"val_loss": 1.0}, "crashed"),
        (None, {"val_loss": math.nan}, "crashed"),
    ],
)
def test_a_scripts_status_follows_from_its_end_and_the_loss_of_its_sweep(
    tracker: Tracker,
    client: MlflowClient,
    exit_code: int | None,
    metrics: dict[str, float],
    status: str,
) -> None:
    run = tracker.start_script("s1", "t1", {"lr": 0.25, "batch_size": 8}, "val_loss")
    for name, value in metrics.items():
        client.log_metric(run.environment["MLFLOW_RUN_ID"], name, value, step=1)
    assert run.finish(exit_code) == status
    assert run.problem == ""


def test_a_script_that_ends_well_without_the_loss_says_what_it_logged(
    tracker: Tracker, client: MlflowClient
) -> None:
    run = tracker.start_script("s1", "t1", {"lr": 0.25, "batch_size": 8}, "val_loss")
    client.log_metric(run.environment["MLFLOW_RUN_ID"], "val_ppl", 3.0, step=1)
    assert run.finish(0) == "crashed"
    assert run.problem == "it logged no metric 'val_loss', only: val_ppl"


@pytest.mark.parametrize("through_client", [False, True])
def test_a_result_counts_for_every_sweep_of_the_project(
    tracker: Tracker,
    uri: str,
    client: MlflowClient,
    record: Make,
    monkeypatch: pytest.MonkeyPatch,
    through_client: bool,
) -> None:
    tracker.open_sweep("s2", "wider", {})
    tracker.write_runs("s1", [record("t1"), record("t2", "crashed"), record("t3"), record("t4", "diverged")])
    tracker.write_runs("s2", [record("t5", "capped")])
    tracker.start_run("s2", "t6", {"lr": 0.1, "batch_size": 8})
    deleted = next(run for run in all_runs(client) if run.data.tags.get("surge.trial_id") == "t3")
    client.delete_run(deleted.info.run_id)
    fresh = open_tracker("mlflow", "demo", uri)
    if through_client:
        monkeypatch.setattr(mlflow_writer, "sqlite_path", lambda _: None)
    assert dict(fresh.done_trials()) == {"t1": "finished", "t4": "diverged", "t5": "capped"}


def test_a_launch_with_nothing_to_do_leaves_the_store_as_it_is(
    tracker: Tracker, uri: str, database: Path, record: Make
) -> None:
    tracker.write_runs("s1", [record("t1")])
    tracker.close()
    before = database.read_bytes()
    again = open_tracker("mlflow", "demo", uri)
    definition = {"name": "digits", "parameters": {"lr": {"values": [0.1, 0.2]}}}
    again.open_sweep("s1", "digits", definition)
    assert dict(again.done_trials()) == {"t1": "finished"}
    again.write_runs("s1", [])
    again.close()
    assert database.read_bytes() == before


def test_looking_for_results_makes_no_store(tmp_path: Path, uri: str) -> None:
    assert dict(open_tracker("mlflow", "other", uri).done_trials()) == {}
    assert dict(open_tracker("mlflow", "demo", f"sqlite:///{tmp_path / 'new.db'}").done_trials()) == {}
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql+psycopg2://me:hunter2@db/runs", "pip install 'psycopg2-binary'"),
        ("mysql://me:hunter2@db/runs", "pip install 'mysqlclient'"),
        ("sqlite://me:hunter2@h/x.db", "sqlite://h/x.db"),
        ("postgresql://me:hunter2@db:port/runs", "postgresql://db:port/runs' is no address"),
        ("nonsense://me:hun/ter2@db/runs", "nonsense://db/runs"),
    ],
)
def test_databases_that_cannot_be_opened_name_the_driver_and_no_secret(uri: str, said: str) -> None:
    with pytest.raises((TrackerError, MissingExtraError)) as caught:
        open_tracker("mlflow", "demo", uri).open_sweep("s1", "digits", {})
    assert said in str(caught.value)
    assert "ter2" not in str(caught.value)
