"""The same flow through a real MLflow server over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow_stores import MlflowServer

from surge_sweeps.errors import TrackerError, UnknownNameError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord


def test_a_sweep_through_a_server_reads_like_the_file_behind_it(
    mlflow_server: MlflowServer,
    record: Callable[..., RunRecord],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server = mlflow_server.uri
    tracker = open_tracker("mlflow", "demo", server)
    tracker.open_sweep("s1", "digits", {"name": "digits"})
    broken = record("t2", "diverged", lr=9.0)
    broken.metrics["eval/loss"][2] = (2, float("nan"))  # type: ignore[index]
    tracker.write_runs("s1", [record("t1"), broken])
    run = tracker.start_run("s1", "t3", {"lr": 0.5, "batch_size": 8, "seed": 1})
    run.log(1, {"eval/loss": float("inf"), "examples": 8.0})
    run.log(2, {"eval/loss": 1.0, "examples": 16.0})
    run.finish("finished")
    abandoned = tracker.start_run("s1", "t4", {"lr": 0.5, "batch_size": 8, "seed": 2})
    assert dict(tracker.done_trials()) == {"t1": "finished", "t2": "diverged", "t3": "finished"}
    tracker.close()
    del abandoned
    assert open_tracker("mlflow", "demo", server).close_stale("s1") == 1

    through_server = collect("demo", uri=server, cache_dir=tmp_path / "cache")
    again = collect("demo", uri=server, cache_dir=tmp_path / "cache")
    direct = collect("demo", uri=mlflow_server.store)
    for curves in (through_server, again):
        pd.testing.assert_frame_equal(curves.runs, direct.runs)
        pd.testing.assert_frame_equal(curves.points, direct.points)
        assert curves.problems == direct.problems
    assert through_server.source == f"mlflow {server}"
    assert capfd.readouterr() == ("", "")

    with pytest.raises(UnknownNameError, match="nearest first: demo"):
        collect("demmo", uri=server)
    with pytest.raises(TrackerError, match="refuses"):
        tracker.write_runs("s1", [record("t9", **{"a%b": 1})])
