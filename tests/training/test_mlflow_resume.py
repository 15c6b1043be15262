"""Runs on MLflow that are asked to make room, by a real signal, and go on when the same trial is started again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from forked_python import ForkedPython

pytest.importorskip("mlflow")

from mlflow import MlflowClient
from mlflow.entities import Run

from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.training.__main__ import main
from surge_sweeps.training.preemption import StopRequest

TRIAL = ["--lr=0.002", "--batch_size=8", "--seed=2", "--max_steps=300"]


@pytest.fixture(autouse=True)
def store(uri_of_tests: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of_tests)
    for name in ("WANDB_SWEEP_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return uri_of_tests


@pytest.fixture
def uri_of_tests(empty_store: Path, tmp_path: Path) -> str:
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_store.read_bytes())
    return f"sqlite:///{database}"


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int | None) -> None:
    """The next run is asked for room by SIGTERM after some optimizer steps; None: never."""
    looks = 0

    def requested(self: StopRequest) -> bool:
        nonlocal looks
        looks += 1
        if looks == steps:
            signal.raise_signal(signal.SIGTERM)
        return bool(self.__dict__.get("requested", False))

    monkeypatch.setattr(
        StopRequest,
        "requested",
        property(requested, lambda self, value: self.__dict__.__setitem__("requested", value)),
        raising=False,
    )


def runs(store: str, project: str) -> list[Run]:
    client = MlflowClient(store)
    return list(client.search_runs([client.get_experiment_by_name(project).experiment_id]))


def points(store: str, project: str) -> pd.DataFrame:
    curves = collect(project, uri=store)
    assert curves.problems == ()  # doubled points would be told here
    assert curves.runs["status"].tolist() == ["finished"]
    return curves.points.drop(columns="run")


def test_a_run_stopped_twice_is_one_run_with_the_bits_of_one_that_was_not(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRIAL, "--project=whole"]) == 0
    for steps in (20, 150):
        stop_after(monkeypatch, steps)
        assert main([*TRIAL, "--project=parted"]) == 143
        assert "it goes on there once it is started again" in capsys.readouterr().err
        (left,) = runs(store, "parted")
        assert (left.info.status, left.data.tags["surge.preempted"]) == ("KILLED", "yes")
        assert collect("parted").runs["status"].tolist() == ["crashed"]  # no result until it has gone on
    stop_after(monkeypatch, None)
    assert main([*TRIAL, "--project=parted"]) == 0
    (run,) = runs(store, "parted")
    assert run.info.status == "FINISHED"
    assert "surge.preempted" not in run.data.tags
    pd.testing.assert_frame_equal(points(store, "parted"), points(store, "whole"))
    for metric in run.data.metrics:
        logged_steps = [
            point.step for point in MlflowClient(store).get_metric_history(run.info.run_id, metric)
        ]
        assert len(logged_steps) == len(set(logged_steps)), metric
    assert list(Path(".surge/checkpoints").iterdir()) == []


def test_without_its_state_a_run_starts_over_and_doubles_nothing(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRIAL, "--project=whole"]) == 0
    stop_after(monkeypatch, 100)
    assert main([*TRIAL, "--project=parted"]) == 143
    next(Path(".surge/checkpoints").iterdir()).unlink()
    stop_after(monkeypatch, None)
    assert main([*TRIAL, "--project=parted"]) == 0
    assert "starting over from step 0" in capsys.readouterr().err
    pd.testing.assert_frame_equal(points(store, "parted"), points(store, "whole"))


def test_another_trial_and_a_finished_one_get_runs_of_their_own(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 5)
    assert main([*TRIAL, "--project=many"]) == 143
    stop_after(monkeypatch, None)
    assert main([*TRIAL[1:], "--lr=0.004", "--project=many"]) == 0
    assert main([*TRIAL, "--project=many"]) == 0
    assert main([*TRIAL, "--project=many"]) == 0
    assert sorted(run.data.params["lr"] for run in runs(store, "many")) == ["0.002", "0.002", "0.004"]
    assert {run.info.status for run in runs(store, "many")} == {"FINISHED"}


def test_a_killed_run_goes_on_under_its_id_without_doubles(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in mid-run; the scheduler starts it again with the run that it had."""
    trial = ["--lr=1e-4", "--batch_size=8", "--max_steps=1000", "--project=killed"]
    client = MlflowClient(store)
    run = client.create_run(client.create_experiment("killed"))
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    flush_often = "import surge_sweeps.trackers.mlflow.buffer as b; b.FLUSH_SECONDS = 0.0; "
    code = f"{flush_often}from surge_sweeps.training.__main__ import main; main({[*trial, '--max_steps=1000']!r})"
    with ForkedPython(["-c", code]) as process:
        deadline = time.monotonic() + 60
        while len(logged(client, run)) < 20 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    before = logged(client, run)
    assert 20 <= len(before) < 300
    assert main(trial) == 0
    assert main([*trial[:-1], "--project=whole"]) == 1  # of another experiment
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert main([*trial[:-1], "--project=whole"]) == 0
    after = logged(client, run)
    assert after[: len(before)] == before
    assert len({step for step, _, _ in after}) == len(after)
    pd.testing.assert_frame_equal(points(store, "killed"), points(store, "whole"))


def of_task(project: str, owner: str) -> list[str]:
    """The arguments of a task of an engine, whose sweep is opened."""
    tracker = open_tracker("mlflow", project)
    tracker.open_sweep("a-sweep", "a sweep", {})
    tracker.close()
    trial = ["--lr=1e-4", "--batch_size=8", "--max_steps=1500", f"--project={project}"]
    return [*trial, "--sweep-id=a-sweep", "--trial-id=a-trial", f"--owner={owner}"]


def test_a_killed_task_that_is_started_again_goes_on_from_its_last_state(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL of the real command; the engine starts the same task again."""
    task, states = of_task("killed", "launch/3"), Path(".surge/checkpoints")
    command = ["-m", "surge_sweeps.training", *task, "--checkpoint-every-minutes=0.0005"]
    with ForkedPython(command) as process:
        deadline = time.monotonic() + 120
        while (
            not list(states.glob("a-trial-*.pt")) and time.monotonic() < deadline and process.poll() is None
        ):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (state,) = states.glob("a-trial-*.pt")
    saved = torch.load(state, weights_only=True)["step"]
    assert 0 < saved < 1500
    capsys.readouterr()
    assert main(task) == 0
    assert "starting over" not in capsys.readouterr().err
    assert not state.exists()
    assert main(of_task("whole", "launch/3")) == 0
    pd.testing.assert_frame_equal(points(store, "killed"), points(store, "whole"))
    (run,) = [run for run in runs(store, "killed") if run.data.tags["surge.kind"] == "trial"]
    assert (run.info.status, run.data.params["trial_id"]) == ("FINISHED", "a-trial")
    assert run.data.tags["surge.sweep_id"] == "a-sweep"


def test_a_task_that_made_room_goes_on_with_the_trials_state_in_its_own_run(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 300)
    assert main(of_task("parted", "launch/3")) == 143
    stop_after(monkeypatch, None)
    assert main(of_task("parted", "launch/3")) == 0
    assert main(of_task("whole", "launch/3")) == 0
    pd.testing.assert_frame_equal(points(store, "parted"), points(store, "whole"))


def test_how_a_batch_is_cut_is_no_hyper_parameter(store: str) -> None:
    plain = [*TRIAL, "--project=cut"]
    assert main([*plain, "--micro-batch-size=2"]) == 0
    (run,) = runs(store, "cut")
    summary = {
        name: run.data.tags[f"surge.summary.{name}"]
        for name in ("micro_batch_size", "accumulation", "world_size")
    }
    assert summary == {"micro_batch_size": "2", "accumulation": "4", "world_size": "1"}
    assert "micro_batch_size" not in run.data.params
    assert main([*plain[:2], "--seed=3", *plain[3:]]) == 0
    curves = collect("cut", uri=store)
    assert curves.runs["trial_id"].nunique() == 2
    assert not {"micro_batch_size", "accumulation", "world_size"} & set(curves.runs.columns)
    assert curves.runs["batch_size"].tolist() == [8, 8]


def logged(client: MlflowClient, run: Run) -> list[tuple[int, float, int]]:
    history = client.get_metric_history(run.info.run_id, "eval/loss")
    return sorted((point.step, point.value, point.timestamp) for point in history)


def test_a_run_id_of_something_else_is_refused_with_the_way_out(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert main([*arguments, "--project=mine"]) == 1
        return capsys.readouterr().err

    assert main([*TRIAL, "--project=mine"]) == 0
    (done,) = runs(store, "mine")
    monkeypatch.setenv("MLFLOW_RUN_ID", done.info.run_id)
    assert "has its result: finished. Unset MLFLOW_RUN_ID" in refused(*TRIAL)
    client = MlflowClient(store)
    other = client.create_run(done.info.experiment_id)
    client.log_param(other.info.run_id, "lr", 2e-3)
    client.log_param(other.info.run_id, "batch_size", 16)
    monkeypatch.setenv("MLFLOW_RUN_ID", other.info.run_id)
    assert "has batch_size='16', and this trial has '8'" in refused(*TRIAL)
    client.delete_run(other.info.run_id)
    assert "which is deleted" in refused(*TRIAL)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert f"could not be read: Run with id={'0' * 32} not found" in refused(*TRIAL)
