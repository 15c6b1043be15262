"""A program that logs without steps leaves all points of a run at one: that is said, never read as one point a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from stored_rows import Store, what

from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers import collect

PARAMS = {"lr": 0.1, "batch_size": 8, "seed": 0}


def rows(*steps: float) -> list[dict[str, float]]:
    return [{"_step": step, "eval/loss": 3.0 / (index + 1)} for index, step in enumerate(steps)]


def test_a_project_without_steps_is_refused_with_what_to_do(
    uri: str, client: MlflowClient, foreign_run: Callable[..., str], tmp_path: Path
) -> None:
    for seed in range(2):
        run = foreign_run(PARAMS | {"seed": seed}, {}, status=None)
        for value in (3.0, 2.0, 1.5, 1.2):
            client.log_metric(run, "eval/loss", value)
        client.set_terminated(run)
    for cache in (None, tmp_path, tmp_path):
        with pytest.raises(SurgeError) as told:
            collect("foreign", uri=uri, cache_dir=cache)
        assert "points of 'eval/loss' stand at step 0" in told.value.what
        assert "mlflow.log_metric(name, value, step=n)" in (told.value.hint or "")
        assert "--step-column METRIC" in (told.value.hint or "")


def test_single_runs_without_steps_are_left_out_by_name() -> None:
    store = Store()
    for seed in range(3):
        store.log(PARAMS | {"seed": seed}, rows(1, 2, 3))
    store.log(PARAMS | {"seed": 3}, rows(*[0] * 1200))
    curves = store.read(own_step=True)
    assert curves.runs["run"].tolist() == ["run0", "run1", "run2"]
    assert what(curves, "run3") == "left out: its 1,200 points of 'eval/loss' all stand at step 0"


def test_as_many_runs_without_steps_as_with_are_refused() -> None:
    store = Store()
    store.log(PARAMS, rows(1, 2, 3))
    store.log(PARAMS | {"seed": 1}, rows(0, 0, 0, 0))
    with pytest.raises(
        SurgeError, match=r"in 1 run of 2 all stand at one \(in run1, its 4 points .* step 0\)"
    ):
        store.read(own_step=True)


@pytest.mark.parametrize("steps", [(7,), (7, 7), (0,), (0, 0, 1), (5, 6)])
def test_a_short_run_or_one_resumed_at_its_only_step_is_read(steps: tuple[float, ...]) -> None:
    store = Store()
    store.log(PARAMS, rows(*steps))
    curves = store.read(own_step=True)
    assert curves.points["step"].tolist() == sorted(set(steps))
    assert "all stand" not in what(curves, "run0")


@pytest.mark.parametrize("steps", [(0, 0), (7, 7, 7), (0, 0, 0)])
def test_points_that_only_differ_in_value_are_none_of_a_curve(steps: tuple[float, ...]) -> None:
    store = Store()
    store.log(PARAMS, rows(*steps))
    with pytest.raises(SurgeError, match=f"stand at step {steps[0]}"):
        store.read(own_step=True)


def test_a_table_whose_step_column_never_changes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    lines = [f"{lr},8,0,{loss}" for lr in (0.1, 0.2) for loss in (3.0, 2.0, 1.0)]
    path.write_text("\n".join(["lr,batch_size,step,loss", *lines]))
    with pytest.raises(SurgeError, match="all 6 losses of the table stand at step 0"):
        collect(path, step="step")
