"""Experiments that this tool did not create, logged by the real integrations, read as the programs really ran."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from typer.testing import CliRunner

from surge_sweeps import collect
from surge_sweeps.cli.report import app as report_app
from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting.observables.groups import split_groups

PROGRAMS = Path(__file__).parent / "foreign_programs.py"
PACKAGES = ("lightning", "optuna", "ray", "transformers")


class Foreign:
    """The store that the programs of `foreign_programs.py` filled, and what they really did."""

    def __init__(self, uri: str, truth: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self.uri = uri
        self._truth = truth

    def collect(self, experiment: str, **options: Any) -> LossCurves:
        return collect(experiment, uri=self.uri, **options)

    def done(self, experiment: str, behind: int = 0) -> dict[tuple[float, int], list[tuple[int, float]]]:
        """Learning rate and batch size -> steps and losses; `behind`: how many steps the integration writes too few."""
        return {
            (run["lr"], run["batch_size"]): [
                (int(step) - behind, loss) for step, loss in run["losses"].items()
            ]
            for run in self._truth[experiment]
        }


@pytest.fixture(scope="module")
def foreign(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    for package in PACKAGES:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("foreign")
    store = folder / "mlflow.db"
    store.write_bytes(empty_store.read_bytes())
    quick = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(PROGRAMS), f"sqlite:///{store}", "truth.json"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | quick, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Foreign(f"sqlite:///{store}", json.loads((folder / "truth.json").read_text()))


def read(curves: LossCurves) -> dict[tuple[float, int], list[tuple[int, float]]]:
    """Learning rate and batch size -> steps and losses; each point has seen steps times batch size."""
    points = curves.points.merge(curves.runs[["run", "lr", "batch_size"]], on="run")
    assert (points["examples"] == points["step"] * points["batch_size"]).all()
    return {
        cell: list(zip(rows["step"], rows["loss"], strict=True))
        for cell, rows in points.groupby(["lr", "batch_size"])
    }


def what(curves: LossCurves, run: str | None = None) -> str:
    return "; ".join(problem.what for problem in curves.problems if problem.run == run)


def refused(foreign: Foreign, experiment: str, **options: Any) -> str:
    with pytest.raises(SurgeError) as caught:
        foreign.collect(experiment, **options)
    return str(caught.value)


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.slow
class TestIntegrations:
    def test_rays_callback_by_a_metric_that_counts_steps(self, foreign: Foreign) -> None:
        curves = foreign.collect("ray")
        assert read(curves) == foreign.done("ray")
        assert curves.read_as["step"] == "global_step, by its name"
        assert len(split_groups(curves)[0]) == 1

    def test_rays_reports_are_no_optimizer_steps_unless_the_user_says_so(self, foreign: Foreign) -> None:
        message = refused(foreign, "ray_reports")
        assert "counts reports to Ray, as 'training_iteration' does" in message
        assert "--step-column _step" in message
        assert read(foreign.collect("ray_reports", step="_step")) == foreign.done("ray_reports")

    def test_a_trainable_of_ray_that_logs_by_itself(self, foreign: Foreign) -> None:
        curves = foreign.collect("ray_setup")
        assert read(curves) == foreign.done("ray_setup")
        assert curves.read_as["step"] == "_step, which max_steps confirms"

    def test_a_study_of_optuna(self, foreign: Foreign) -> None:
        assert "trial.report, often the epoch" in refused(foreign, "optuna")
        curves = foreign.collect("optuna", step="_step")
        assert read(curves) == foreign.done("optuna")
        assert curves.loss_name == "intermediate_value"
        status = dict(
            zip(
                zip(curves.runs["lr"], curves.runs["batch_size"], strict=True),
                curves.runs["status"],
                strict=True,
            )
        )
        assert status.pop((0.01, 16)) == "crashed"
        assert set(status.values()) == {"finished"}
        assert "1 of 4 trials of Optuna were pruned" in what(curves)
        assert "whatever the program gave to trial.report" in what(curves)
        (study,) = (problem for problem in curves.problems if problem.run is not None)
        assert study.what == "left out: 4 runs nested in it, and no loss of its own"

    def test_transformers(self, foreign: Foreign) -> None:
        message = refused(foreign, "transformers")
        product = "per_device_train_batch_size * gradient_accumulation_steps"
        assert f"--batch-column '{product}'" in message
        assert "not how many processes" in message
        curves = foreign.collect("transformers", batch_size=product)
        assert read(curves) == foreign.done("transformers")
        assert curves.read_as["step"] == "_step (Transformers)"
        # Neither the output folder nor the run's name, nor a micro-batch, makes groups.
        assert len(split_groups(curves)[0]) == 1
        world = foreign.collect("transformers_world")
        assert read(world) == foreign.done("transformers_world")
        assert world.read_as["batch size"] == f"{product} * world_size"

    def test_lightnings_logger_is_one_step_behind_and_it_is_said(self, foreign: Foreign) -> None:
        curves = foreign.collect("lightning")
        assert read(curves) == foreign.done("lightning", behind=1)
        assert "its steps may be one too low" in what(curves)
        assert "nothing confirms that the step of 'val_loss' counts optimizer steps" in what(curves)
        assert len(split_groups(curves)[0]) == 1

    def test_autologging_gives_epochs(self, foreign: Foreign) -> None:
        message = refused(foreign, "autolog")
        assert "autologging gives the epoch as the step" in message
        curves = foreign.collect("autolog", step="_step")
        losses = {cell: [loss for _, loss in points] for cell, points in foreign.done("autolog").items()}
        assert read(curves) == {cell: list(enumerate(values)) for cell, values in losses.items()}

    def test_every_experiment_has_a_report(
        self, foreign: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        done = CliRunner().invoke(report_app, ["ray", "--uri", foreign.uri, "--draws", "200"])
        assert done.exit_code == 0, done.output
        assert "step: global_step, by its name" in done.output
        assert (tmp_path / "reports" / "ray" / "report.html").exists()


CELLS = [(lr, batch) for lr in (0.01, 0.1) for batch in (8, 16)]


@pytest.fixture
def sweep(foreign_run: Callable[..., str]) -> Callable[..., list[str]]:
    """Four runs of a program that logs `val_loss` at some steps, and what else is told."""

    def log(
        steps: Sequence[int], params: Mapping[str, Any] | None = None, **metrics: Callable[[int, int], float]
    ) -> list[str]:
        return [
            foreign_run(
                {"lr": lr, "batch_size": batch} | dict(params or {}),
                {"val_loss": [(step, lr + 1 / (index + 1)) for index, step in enumerate(steps)]}
                | {name: [(step, value(step, batch)) for step in steps] for name, value in metrics.items()},
            )
            for lr, batch in CELLS
        ]

    return log


def steps(curves: LossCurves) -> set[tuple[int, ...]]:
    return {tuple(rows["step"]) for _, rows in curves.points.groupby("run")}


@pytest.mark.parametrize(
    ("params", "metrics", "told"),
    [
        ({"epochs": 10}, {}, "epochs: the runs end where 'epochs' says"),
        ({"trainer/max_epochs": "9"}, {}, "epochs: the runs end where 'trainer/max_epochs' says"),
        ({}, {"epoch": lambda step, batch: step}, "epochs, as 'epoch' does"),
        ({}, {"epoch": lambda step, batch: step + 1}, "epochs, as 'epoch' does"),
        ({}, {}, "a point at every single one"),
        ({}, {"iteration": lambda step, batch: 7 * step}, "a point at every single one"),
    ],
)
def test_steps_that_count_epochs_are_not_believed(
    sweep: Callable[..., list[str]], uri: str, params: dict[str, Any], metrics: dict[str, Any], told: str
) -> None:
    sweep(range(10), params, **metrics)
    with pytest.raises(SurgeError, match="--step-column METRIC or --examples-column METRIC") as caught:
        collect("foreign", uri=uri)
    assert told in caught.value.what
    assert steps(collect("foreign", uri=uri, step="_step")) == {tuple(range(10))}


def test_epochs_with_a_metric_that_counts_steps_are_put_on_it(
    sweep: Callable[..., list[str]], uri: str
) -> None:
    sweep(range(10), {"epochs": 10}, updates=lambda epoch, batch: (epoch + 1) * 64 / batch)
    curves = collect("foreign", uri=uri, step="updates")
    assert steps(curves) == {tuple(range(8, 81, 8)), tuple(range(4, 41, 4))}
    assert curves.points["loss"].min() == 0.01 + 1 / 10


def test_epochs_with_a_count_of_examples_need_no_flag(sweep: Callable[..., list[str]], uri: str) -> None:
    sweep(range(10), {"epochs": 10}, examples_seen=lambda epoch, batch: (epoch + 1) * 64)
    curves = collect("foreign", uri=uri)
    assert curves.read_as["step"] == "examples_seen / batch_size"
    assert steps(curves) == {tuple(range(8, 81, 8)), tuple(range(4, 41, 4))}


def test_epochs_from_one_on_with_a_count_of_examples(sweep: Callable[..., list[str]], uri: str) -> None:
    sweep(range(1, 11), {}, examples_seen=lambda epoch, batch: epoch * 64)
    # As well a batch of 64 in micro-batches of 8 and 16.
    with pytest.raises(SurgeError, match="Or --examples-column examples_seen if _step counts epochs"):
        collect("foreign", uri=uri)
    curves = collect("foreign", uri=uri, examples="examples_seen")
    assert steps(curves) == {tuple(range(8, 81, 8)), tuple(range(4, 41, 4))}
    assert "adds 64 examples whatever the batch size" in what(curves)


def test_epochs_that_a_setting_tells_need_no_flag_with_a_count_of_examples(
    sweep: Callable[..., list[str]], uri: str
) -> None:
    sweep(range(1, 11), {"epochs": 10}, examples_seen=lambda epoch, batch: epoch * 64)
    assert steps(collect("foreign", uri=uri)) == {tuple(range(8, 81, 8)), tuple(range(4, 41, 4))}


@pytest.mark.parametrize(
    ("params", "metrics", "why"),
    [
        ({"max_steps": 40}, {}, "_step, which max_steps confirms"),
        ({}, {"samples": lambda step, batch: step * batch}, "_step, which samples confirms"),
        ({}, {"global_step": lambda step, batch: step}, "_step, which global_step confirms"),
    ],
)
def test_what_confirms_the_step(
    sweep: Callable[..., list[str]], uri: str, params: dict[str, Any], metrics: dict[str, Any], why: str
) -> None:
    sweep(range(41), params, **metrics)
    curves = collect("foreign", uri=uri)
    assert curves.read_as["step"] == why
    assert "confirms" not in what(curves)
    assert steps(curves) == {tuple(range(41))}


@pytest.mark.parametrize("given", [range(0, 100, 5), [*range(0, 96, 5), 99], [1, *range(10, 101, 10)]])
def test_evenly_spaced_epochs_are_asked_about(
    sweep: Callable[..., list[str]], uri: str, given: Sequence[int]
) -> None:
    sweep(given)
    with pytest.raises(SurgeError, match=r"counts optimizer steps or epochs: there is a point every (5|10),"):
        collect("foreign", uri=uri)
    assert steps(collect("foreign", uri=uri, step="_step")) == {tuple(given)}


@pytest.mark.parametrize("params", [{}, {"epochs": 3}])
def test_a_step_that_nothing_confirms_and_that_leaves_gaps_is_taken_and_said(
    sweep: Callable[..., list[str]], uri: str, params: dict[str, Any]
) -> None:
    sweep([1, 2, 4, 8, 16], params)
    curves = collect("foreign", uri=uri)
    assert steps(curves) == {(1, 2, 4, 8, 16)}
    assert "nothing confirms that the step of 'val_loss' counts optimizer steps" in what(curves)
    assert "nothing confirms" not in what(collect("foreign", uri=uri, step="_step"))


def test_a_parent_of_others_is_no_trial(
    foreign_run: Callable[..., str], sweep: Callable[..., list[str]], uri: str, client: MlflowClient
) -> None:
    empty = foreign_run({}, {})
    best = foreign_run({"lr": 0.1, "batch_size": 8}, {"val_loss": [(0, 0.2)]})
    trained = foreign_run({"lr": 0.5, "batch_size": 8}, {"val_loss": [(1, 3.0), (4, 2.0)]})
    for parent in (empty, best, trained):
        for run in sweep([1, 2, 4, 8]):
            client.set_tag(run, "mlflow.parentRunId", parent)
    curves = collect("foreign", uri=uri)
    assert len(curves.runs) == 13
    assert what(curves, empty) == "left out: 4 runs nested in it, and no loss of its own"
    assert what(curves, best) == "left out: 4 runs with 'val_loss' nested in it, and one value of its own"
    assert "counts as a trial too" in what(curves, trained)


def test_a_study_that_maximizes_has_no_loss(
    foreign_run: Callable[..., str], client: MlflowClient, uri: str
) -> None:
    study = foreign_run({}, {}, tags={"optuna.study_direction": "MAXIMIZE"})
    for lr, batch in CELLS:
        values = {"intermediate_value": [(1, 0.1), (2, 0.9)]}
        foreign_run({"lr": lr, "batch_size": batch}, values, tags={"mlflow.parentRunId": study})
    with pytest.raises(SurgeError, match="'intermediate_value' is no loss"):
        collect("foreign", uri=uri, step="_step")
    curves = collect("foreign", uri=uri, step="_step", loss="intermediate_value")
    assert steps(curves) == {(1, 2)}
    client.set_tag(study, "optuna.study_direction", "MINIMIZE")
    assert steps(collect("foreign", uri=uri, step="_step")) == {(1, 2)}


def test_one_value_a_trial_is_no_curve_and_it_is_said(foreign_run: Callable[..., str], uri: str) -> None:
    for lr, batch in CELLS:
        foreign_run({"lr": lr, "batch_size": batch}, {"val_loss": [(100, lr)]})
    assert "one point of 'val_loss', no curve" in what(collect("foreign", uri=uri))


class TestResumed:
    """A run that logged up to step 500, was killed and went on from 400 with other values and half as many points."""

    def log(self, client: MlflowClient) -> str:
        run = client.create_run(client.create_experiment("resumed")).info.run_id
        params = {"lr": 0.1, "batch_size": 8, "max_steps": 700}
        client.log_batch(run, params=[Param(key, str(value)) for key, value in params.items()])
        first = [(step, 10.0 - step / 100) for step in range(20, 401, 20)]
        abandoned = [(420, 90.0), (440, 85.0), (460, 80.0), (480, 75.0), (500, 70.0)]
        then = [(step, 5.0 - step / 1000) for step in range(420, 701, 40)]
        logged = [*first, *abandoned, *then]
        points = [Metric("val_loss", loss, 1_000 * n, step) for n, (step, loss) in enumerate(logged)]
        # In any order: the store's own says nothing.
        client.log_batch(run, sorted(points, key=lambda point: (point.step * 7) % 1000))
        client.set_terminated(run)
        return run

    @pytest.mark.parametrize("store", ["uri", "served", pytest.param("postgres_uri", marks=pytest.mark.slow)])
    def test_the_abandoned_branch_is_left_out_on_every_route(
        self, store: str, request: pytest.FixtureRequest
    ) -> None:
        where = (
            request.getfixturevalue("shared_server").uri
            if store == "served"
            else request.getfixturevalue(store)
        )
        run = self.log(MlflowClient(where))
        curves = collect("resumed", uri=where)
        assert curves.points["step"].tolist() == [*range(20, 401, 20), *range(420, 701, 40)]
        assert curves.points["loss"].max() < 10
        assert "2 points of 'val_loss' left out: the run was resumed at an earlier step" in what(curves, run)

    def test_times_that_tell_no_order_leave_every_step(self, client: MlflowClient, uri: str) -> None:
        number = client.create_experiment("later")
        run = client.create_run(number).info.run_id
        client.log_batch(run, params=[Param("lr", "0.1"), Param("batch_size", "8"), Param("max_steps", "60")])
        # Checkpoints evaluated after training, the last one first.
        client.log_batch(
            run, [Metric("val_loss", 1 / step, 1_000 * (70 - step), step) for step in range(10, 61, 10)]
        )
        client.set_terminated(run)
        curves = collect("later", uri=uri)
        assert curves.points["step"].tolist() == list(range(10, 61, 10))
        assert "the times of 'val_loss' do not tell its order" in what(curves, run)

    def test_of_one_step_and_time_the_worst_counts(self, client: MlflowClient, uri: str) -> None:
        number = client.create_experiment("tied")
        run = client.create_run(number).info.run_id
        client.log_batch(run, params=[Param("lr", "0.1"), Param("batch_size", "8"), Param("max_steps", "4")])
        values = {1: [3.0], 2: [1.0, 2.0], 4: [math.nan, 1.0]}
        client.log_batch(
            run, [Metric("val_loss", loss, 5, step) for step, losses in values.items() for loss in losses]
        )
        client.set_terminated(run)
        losses = collect("tied", uri=uri).points["loss"].tolist()
        assert losses[:2] == [3.0, 2.0]
        assert math.isnan(losses[2])


def test_an_axis_goes_with_the_value_of_its_own_call(client: MlflowClient, uri: str) -> None:
    number = client.create_experiment("joined")
    run = client.create_run(number).info.run_id
    client.log_batch(run, params=[Param("lr", "0.1"), Param("batch_size", "8")])
    # The epoch as the step, twice an epoch; epoch 2 was begun again after a resume; one value without the axis.
    calls = [(0, 0.9, 10), (0, 0.8, 20), (1, 0.7, 30), (2, 0.6, 40), (2, 0.5, 41), (3, 0.4, None)]
    points = [Metric("val_loss", loss, 100 * n, epoch) for n, (epoch, loss, _) in enumerate(calls)]
    points += [
        Metric("updates", updates, 100 * n + 3, epoch)
        for n, (epoch, _, updates) in enumerate(calls)
        if updates is not None
    ]
    client.log_batch(run, points)
    client.set_terminated(run)
    curves = collect("joined", uri=uri, step="updates")
    assert curves.points[["step", "loss"]].to_numpy().tolist() == [
        [10, 0.9],
        [20, 0.8],
        [30, 0.7],
        [40, 0.6],
        [41, 0.5],
    ]
    assert "1 point of 'val_loss' left out: logged without 'updates'" in what(curves, run)
