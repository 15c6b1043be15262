"""`surge-report --publish` on MLflow: the whole way from runs in a store to the result on their parent run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from mlflow_stores import MlflowServer
from typer.testing import CliRunner, Result

pytest.importorskip("mlflow")

from mlflow import MlflowClient

from surge_sweeps.cli.report import app
from surge_sweeps.simulate import Grid, Truth, simulate_training
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import EVAL_LOSS, EXAMPLES, RunRecord

Call = Callable[..., Result]


def write_sweep(uri: str, project: str) -> None:
    grid = Grid([4, 16, 64, 256], list(np.geomspace(1e-3, 0.3, 7)), 1)
    curves = simulate_training(Truth("sqrt", {"a": 0.003}), grid, np.random.default_rng(0))
    points = dict(list(curves.points.groupby("run")))
    records = []
    for row in curves.runs.itertuples():
        own = points[row.run]
        metrics: dict[str, Sequence[tuple[int, float]]] = {
            name: list(zip(own["step"], own[column], strict=True))
            for name, column in ((EVAL_LOSS, "loss"), (EXAMPLES, "examples"))
        }
        config = {"lr": row.lr, "batch_size": row.batch_size, "seed": int(row.seed), "optimizer": "adamw"}
        records.append(RunRecord(config, str(row.run), row.status, metrics))
    tracker = open_tracker("mlflow", project, uri)
    tracker.open_sweep("s1", "digits sweep", {})
    tracker.write_runs("s1", records)
    tracker.close()


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--draws=200"])

    return run


def tags_of(client: MlflowClient, project: str) -> dict[str, str]:
    number = client.get_experiment_by_name(project).experiment_id
    (parent,) = client.search_runs([number], "tags.`surge.kind` = 'sweep'")
    return dict(parent.data.tags)


def test_a_local_store_is_published_in_and_updated(call: Call, empty_store: Path, tmp_path: Path) -> None:
    store = shutil.copy(empty_store, tmp_path / "mlflow.db")
    write_sweep(f"sqlite:///{store}", "digits")
    done = call("digits", "--publish")

    assert done.exit_code == 0, done.output
    client = MlflowClient(f"sqlite:///{store}")
    tags = tags_of(client, "digits")
    number = client.get_experiment_by_name("digits").experiment_id
    (parent,) = client.search_runs([number], "tags.`surge.kind` = 'sweep'")
    address = f"#/experiments/{number}/runs/{parent.info.run_id}"
    assert f"Published: {address}/artifacts/surge/report.html?workflowType=machine_learning\n" in done.output
    assert f"  run: {address}?workflowType=machine_learning\n" in done.output
    assert "on this machine" not in done.output
    assert f"#/experiments/{number}/runs?viewStateShareKey=surge-trials" in done.output
    assert "surge-sweep ui" in done.output
    assert tags["mlflow.note.content"].startswith("No law is established, so this is only the best of")
    # The artifacts of a local store lie beside it.
    assert len(list(tmp_path.glob("mlruns/*/*/artifacts/surge/report.html"))) == 1
    again = call("digits", "--publish")
    assert "Published before, nothing has changed" in again.output
    assert tags_of(client, "digits") == tags
    quiet = call("digits", "--publish", "--quiet")
    assert [line.partition(":")[0] for line in quiet.output.splitlines()] == [
        "Report",
        "Published before, nothing has changed",
    ]


def test_a_report_that_fails_publishes_nothing(call: Call, empty_store: Path, tmp_path: Path) -> None:
    store = shutil.copy(empty_store, tmp_path / "mlflow.db")
    write_sweep(f"sqlite:///{store}", "digits")
    before = tags_of(MlflowClient(f"sqlite:///{store}"), "digits")
    for wrong in (["--loss-column=nope"], ["--lr-column=nope"], ["--output=mlflow.db"]):
        done = call("digits", "--publish", *wrong)
        assert done.exit_code == 1
    assert tags_of(MlflowClient(f"sqlite:///{store}"), "digits") == before


def test_a_slip_is_a_sentence_before_anything_is_read(call: Call, empty_store: Path, tmp_path: Path) -> None:
    store = shutil.copy(empty_store, tmp_path / "mlflow.db")
    MlflowClient(f"sqlite:///{store}").create_experiment("digits")
    (tmp_path / "runs.csv").write_text("lr,batch_size,loss\n0.1,8,1\n")
    for arguments, said in (
        (["digits", "--publish", "--wandb-page"], "--wandb-page writes a W&B report"),
        (["digits", "--publish", "--publish-to=digits"], "'digits' has no entity"),
        (["digist", "--publish"], "nearest first: digits"),
        (["runs.csv", "--publish"], "--publish-to entity/project"),
        (["digits", "--publish", "--uri=http://127.0.0.1:1"], "no MLflow server answers"),
    ):
        done = call(*arguments)
        assert done.exit_code == 1
        assert said in str(done.exception)
        assert "Collecting" not in done.output


def test_no_result_is_not_published(call: Call, empty_store: Path, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")
    number = client.create_experiment("digits")
    assert "there are no runs in MLflow experiment 'digits'" in str(call("digits", "--publish").exception)
    # A run that logged no loss.
    run = client.create_run(number).info.run_id
    client.log_param(run, "lr", 0.1)
    client.log_param(run, "batch_size", 8)
    client.set_terminated(run)
    done = call("digits", "--publish")
    assert done.exit_code == 1
    assert "nothing was published: the runs gave no result" in str(done.exception)
    assert "Report: " in done.output
    assert [found.info.run_id for found in client.search_runs([number])] == [run]


def test_through_a_server_links_are_whole_addresses(call: Call, shared_server: MlflowServer) -> None:
    write_sweep(shared_server.uri, "published-by-command")
    done = call("published-by-command", "--publish", f"--uri={shared_server.uri}")
    assert done.exit_code == 0, done.output
    assert f"Published: {shared_server.uri}/#/experiments/" in done.output
    assert "surge-sweep ui" not in done.output
