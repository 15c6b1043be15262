"""What a server is given besides the runs: history artifacts, and many runs at a time."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_stores import MlflowServer

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow import artifact, experiment
from surge_sweeps.trackers.mlflow.history import HistoryTag, decode_history

Make = Callable[..., RunRecord]
CONFIG = {"lr": 0.1, "batch_size": 8, "seed": 0}
STEPS = artifact.MIN_POINTS


def trials(uri: str, project: str) -> list[Run]:
    client = MlflowClient(uri)
    found = client.search_runs(
        [client.get_experiment_by_name(project).experiment_id],
        "tags.`surge.kind` = 'trial'",
        order_by=["attributes.start_time ASC"],
    )
    return list(found)


def assert_artifact_is_the_run(uri: str, run: Run, folder: Path) -> None:
    tag = HistoryTag.parse(run.data.tags["surge.history"])
    assert tag is not None
    client = MlflowClient(uri)
    content = Path(client.download_artifacts(run.info.run_id, tag.path, str(folder))).read_bytes()
    assert tag.holds(content)
    found = decode_history(content)
    assert set(found) == set(run.data.metrics) == set(tag.points)
    for name, points in found.items():
        stored = client.get_metric_history(run.info.run_id, name)
        assert len(stored) == tag.points[name]
        by_step = sorted(stored, key=lambda point: point.step)
        order = np.argsort(points.step)
        np.testing.assert_array_equal(points.step[order], [point.step for point in by_step])
        np.testing.assert_array_equal(points.timestamp[order], [point.timestamp for point in by_step])
        values = np.clip(points.value[order], -np.finfo(float).max, np.finfo(float).max)  # MLflow's infinity
        np.testing.assert_array_equal(values, [point.value for point in by_step])


def test_long_runs_keep_their_whole_history_as_an_artifact_short_ones_none(
    shared_server: MlflowServer, record: Make, tmp_path: Path
) -> None:
    tracker = open_tracker("mlflow", "artifacts", shared_server.uri)
    tracker.open_sweep("s1", "digits", {})
    odd = record("t0", "diverged", steps=STEPS)
    odd.metrics["eval/loss"][5:8] = [(5, math.nan), (6, math.inf), (7, -math.inf)]  # type: ignore[index]
    tracker.write_runs("s1", [odd, record("t1", steps=STEPS - 1, seed=1)])
    run = tracker.start_run("s1", "t2", {**CONFIG, "seed": 2})
    crashed = tracker.start_run("s1", "t3", {**CONFIG, "seed": 3})
    for step in range(STEPS):
        run.log(step, {"eval/loss": 1.0, "train/loss": 2.0})
        crashed.log(step, {"eval/loss": 1.0})
    run.finish("finished")
    crashed.finish("crashed")
    tracker.close()
    found = {run.data.tags["surge.trial_id"]: run for run in trials(shared_server.uri, "artifacts")}
    assert [trial for trial, run in found.items() if "surge.history" in run.data.tags] == ["t0", "t2"]
    for trial in ("t0", "t2"):
        assert_artifact_is_the_run(shared_server.uri, found[trial], tmp_path / trial)


def test_a_run_that_went_on_has_no_artifact_since_no_process_holds_all_of_it(
    shared_server: MlflowServer,
) -> None:
    for first, last in ((0, 5), (0, STEPS)):
        tracker = open_tracker("mlflow", "gone-on", shared_server.uri)
        run = tracker.start_run(None, "t0", CONFIG)
        for step in range(first, last):
            run.log(step, {"eval/loss": 1.0})
        if last == STEPS:
            run.finish("finished")
        else:
            run.preempt()  # type: ignore[attr-defined]
    (run_read,) = trials(shared_server.uri, "gone-on")
    assert "surge.history" not in run_read.data.tags
    assert len(collect("gone-on", uri=shared_server.uri).points) == STEPS


def test_an_artifact_that_is_not_taken_costs_the_run_nothing_and_is_said_once(
    mlflow_server: MlflowServer, record: Make, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(mlflow_server.artifacts, ignore_errors=True)
    mlflow_server.artifacts.write_text("where a folder should be")
    tracker = open_tracker("mlflow", "demo", mlflow_server.uri)
    tracker.open_sweep("s1", "digits", {})
    with caplog.at_level(logging.WARNING):
        tracker.write_runs("s1", [record(f"t{seed}", steps=STEPS, seed=seed) for seed in range(6)])
    tracker.close()
    assert caplog.text.count("history artifact of a run could not be stored") == 1
    runs = trials(mlflow_server.uri, "demo")
    assert not [run for run in runs if "surge.history" in run.data.tags]
    assert len(collect("demo", uri=mlflow_server.uri).points) == 6 * STEPS


def test_runs_written_several_at_a_time_are_listed_in_their_order(
    shared_server: MlflowServer, record: Make
) -> None:
    tracker = open_tracker("mlflow", "order", shared_server.uri)
    tracker.open_sweep("s1", "digits", {})
    ids = [f"t{index:02d}" for index in range(20)]
    tracker.write_runs("s1", [record(trial, seed=index) for index, trial in enumerate(ids)])
    tracker.close()
    assert [run.data.tags["surge.trial_id"] for run in trials(shared_server.uri, "order")] == ids
    assert list(tracker.done_trials()) == ids


def test_a_run_that_cannot_be_written_stops_the_rest_and_those_written_stay(
    shared_server: MlflowServer, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker("mlflow", "stopped", shared_server.uri)
    tracker.open_sweep("s1", "digits", {})
    end_trial = experiment.OpenExperiment.end_trial
    count = 0

    def fails_once(self: experiment.OpenExperiment, *args: object, **kwargs: object) -> None:
        nonlocal count
        count += 1
        if count == 10:
            raise TrackerError("no.", "Mend it.")
        end_trial(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment.OpenExperiment, "end_trial", fails_once)
    with pytest.raises(TrackerError, match="no"):
        tracker.write_runs("s1", [record(f"t{index}", seed=index) for index in range(40)])
    monkeypatch.undo()
    written = set(tracker.done_trials())
    assert 9 <= len(written) < 20
    assert tracker.close_stale("s1") == 1
    rest = [index for index in range(40) if f"t{index}" not in written]
    tracker.write_runs("s1", [record(f"t{index}", seed=index) for index in rest])
    tracker.close()
    results = collect("stopped", uri=shared_server.uri).results()
    assert sorted(results.runs["trial_id"]) == sorted(f"t{index}" for index in range(40))
    assert len(results.points) == 40 * 3


@pytest.mark.parametrize("route", ["file", "server"])
def test_axes_for_the_charts_change_nothing_that_is_read(
    uri: str, shared_server: MlflowServer, record: Make, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    store = uri if route == "file" else shared_server.uri

    def write(project: str) -> None:
        tracker = open_tracker("mlflow", project, store)
        tracker.open_sweep("s1", "digits", {})
        tracker.write_runs("s1", [record("t0"), record("t1", "crashed", lr=0.01), record("t2", lr=0.02)])
        run = tracker.start_run("s1", "t3", {**CONFIG, "lr": 0.04})
        run.log(0, {"eval/loss": 1.0, "train/loss": 1.0, "examples": 0.0})
        run.finish("finished")
        tracker.close()

    write("with")
    monkeypatch.setattr("surge_sweeps.trackers.mlflow.writer.axis_metrics", lambda _: {})
    monkeypatch.setattr("surge_sweeps.trackers.mlflow.buffer.axis_metrics", lambda _: {})
    write("without")
    axes = {
        run.data.tags["surge.trial_id"]: {k: v for k, v in run.data.metrics.items() if k.startswith("hp/")}
        for run in trials(store, "with")
    }
    assert axes["t0"] == {"hp/log10_lr": pytest.approx(-1), "hp/log2_batch_size": 3.0}
    assert (axes["t1"], set(axes["t3"])) == ({}, set(axes["t0"]))
    one, other = (collect(project, uri=store) for project in ("with", "without"))
    assert one.loss_name == other.loss_name == "eval/loss"
    assert (one.problems, one.read_as) == ((), other.read_as)
    pd.testing.assert_frame_equal(by_trial(one), by_trial(other))


def by_trial(curves: LossCurves) -> pd.DataFrame:
    joined = curves.runs.merge(curves.points, on="run").drop(columns="run")
    return joined.sort_values(["trial_id", "step"], ignore_index=True)
