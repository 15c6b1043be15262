"""Reading real MLflow stores, those of other programs too, by SQL and through the client."""

from __future__ import annotations

import hashlib
import math
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow import reader as mlflow_reader

Log = Callable[..., str]
Make = Callable[..., RunRecord]

LOSS = {"eval/loss": [(1, 2.0), (2, 1.0)]}
PARAMS = {"lr": 0.1, "batch_size": 8, "seed": 0}


@pytest.fixture(params=["sqlite", "postgres", "client"])
def route(request: pytest.FixtureRequest) -> str:
    """By what way a store is read: straight from its database, or through the client as any other kind is."""
    return str(request.param)


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    """An empty store, in SQLite unless the test reads by every way and this is the turn of PostgreSQL."""
    if "route" in request.fixturenames and request.getfixturevalue("route") == "postgres":
        return str(request.getfixturevalue("postgres_uri"))
    return f"sqlite:///{request.getfixturevalue('database')}"


@pytest.fixture
def read(route: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LossCurves]:
    """`collect`, by every way of reading."""
    if route == "client":
        monkeypatch.setattr(mlflow_reader, "is_database", lambda _: False)
    return lambda project="foreign", **options: collect(project, uri=uri, **options)


def what(curves: LossCurves, run: str | None) -> str:
    return "; ".join(problem.what for problem in curves.problems if problem.run == run)


def assert_same(left: LossCurves, right: LossCurves) -> None:
    pd.testing.assert_frame_equal(left.runs, right.runs)
    pd.testing.assert_frame_equal(left.points, right.points)
    assert left.problems == right.problems
    assert left.loss_name == right.loss_name


def test_runs_of_any_program_are_read(read: Callable[..., LossCurves], foreign_run: Log) -> None:
    first = foreign_run({**PARAMS, "model": "cnn", "wd": 0, "amp": True}, LOSS)
    second = foreign_run({**PARAMS, "lr": "1e-3", "seed": 1, "model": "mlp", "wd": 0.1, "amp": False}, LOSS)
    curves = read(step="_step")
    runs = curves.runs.set_index("run")
    assert runs.loc[[first, second], "lr"].tolist() == [0.1, 1e-3]
    assert runs.loc[[first, second], "wd"].tolist() == [0.0, 0.1]
    assert runs.loc[[first, second], "amp"].tolist() == [True, False]
    assert runs.loc[[first, second], "model"].tolist() == ["cnn", "mlp"]
    assert set(runs["status"]) == {"finished"}
    assert curves.points["examples"].tolist() == [8.0, 16.0, 8.0, 16.0]
    assert curves.problems == ()


def test_what_the_fluent_interface_logs_is_read(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_experiment("script")
    with mlflow.start_run():
        mlflow.log_params({"lr": 0.5, "batch_size": 4, "seed": 3})
        for step in range(3):
            mlflow.log_metric("eval/loss", 1.0 / (step + 1), step=step)
    curves = collect("script")
    assert curves.points["loss"].tolist() == [1.0, 1 / 2, 1 / 3]
    assert curves.runs[["lr", "batch_size", "seed"]].iloc[0].tolist() == [0.5, 4, 3]


def test_names_of_parameters_and_metric_can_be_given(
    read: Callable[..., LossCurves], foreign_run: Log
) -> None:
    run = foreign_run({"optim/lr": 0.2, "bs": "16.0", "rng": 5, "lr": 99}, {"val_loss": [(0, 3.0)]})
    curves = read(lr="optim/lr", batch_size="bs", seed="rng", loss="val_loss", batch_unit="sequences")
    assert curves.runs[["run", "lr", "batch_size", "seed"]].iloc[0].tolist() == [run, 0.2, 16, 5]
    assert (curves.loss_name, curves.batch_unit) == ("val_loss", "sequences")
    assert "'lr' is left out" in what(curves, None)


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ({"lr": "eta"}, "batch_size, lr, seed"),
        ({"batch_size": "bs"}, "batch_size, lr, seed"),
        ({"seed": "rng"}, "batch_size, lr, seed"),
        ({"loss": "eval/los"}, "Did you mean 'eval/loss'"),
        ({"batch_unit": "bytes"}, "examples, sequences, tokens"),
        ({"tracker": "mlfow"}, "Did you mean 'mlflow'"),
        ({"project": "forein"}, "nearest first: foreign"),
    ],
)
def test_unknown_names_list_the_valid_ones(
    read: Callable[..., LossCurves], foreign_run: Log, options: dict[str, str], listed: str
) -> None:
    foreign_run(PARAMS, LOSS)
    with pytest.raises(UnknownNameError) as caught:
        read(**options)
    assert listed in str(caught.value)


def test_no_loss_of_a_known_name_lists_the_metrics(read: Callable[..., LossCurves], foreign_run: Log) -> None:
    foreign_run(PARAMS, {"validation": [(0, 1.0)], "acc": [(0, 1.0)]})
    with pytest.raises(UnknownNameError, match="acc, validation"):
        read()


def test_the_loss_is_evaluation_only_where_every_ended_run_has_it(
    read: Callable[..., LossCurves], foreign_run: Log
) -> None:
    both = {"eval/loss": [(1, 1.0)], "train/loss": [(1, 2.0)]}
    train = {"train/loss": [(1, 2.0)]}
    foreign_run(PARAMS, both)
    cut_off = foreign_run(PARAMS, train, status="KILLED")
    curves = read()
    assert curves.loss_name == "eval/loss"
    assert "has logged no 'eval/loss'" in what(curves, cut_off)
    foreign_run(PARAMS, train)
    curves = read()
    assert curves.loss_name == "train/loss"
    assert "1 of 2 runs lack eval/loss" in what(curves, None)
    assert len(curves.runs) == 3


def test_unusable_runs_are_named_not_fatal(read: Callable[..., LossCurves], foreign_run: Log) -> None:
    good = foreign_run(PARAMS, LOSS)
    bad = {
        foreign_run({"batch_size": 8}, LOSS): "'lr' is missing",
        foreign_run({"lr": 0.1}, LOSS): "'batch_size' is missing",
        foreign_run({"lr": "cosine", "batch_size": 8}, LOSS): "'lr' is 'cosine'",
        foreign_run({"lr": "nan", "batch_size": 8}, LOSS): "'lr' is 'nan'",
        foreign_run({"lr": -1, "batch_size": 8}, LOSS): "'lr' is '-1'",
        foreign_run({"lr": 0.1, "batch_size": 8.5}, LOSS): "not a whole number",
        foreign_run({"lr": 0.1, "batch_size": 1e30}, LOSS): "not a whole number",
        foreign_run(PARAMS, {"other": [(0, 1.0)]}): "has logged no 'eval/loss'",
        foreign_run(PARAMS, {}, status=None): "(running) has logged no 'eval/loss'",
    }
    curves = read(step="_step")
    assert curves.runs["run"].tolist() == [good]
    assert {problem.run for problem in curves.problems} == set(bad)
    for run, text in bad.items():
        assert text in what(curves, run)


def test_a_seed_is_optional_and_an_odd_one_counts_as_missing(
    read: Callable[..., LossCurves], foreign_run: Log
) -> None:
    without = foreign_run({"lr": 0.1, "batch_size": 8}, LOSS)
    odd = foreign_run({"lr": 0.1, "batch_size": 8, "seed": "random"}, LOSS)
    curves = read()
    assert curves.runs["seed"].isna().all()
    assert what(curves, without) == ""
    assert "'random'" in what(curves, odd)


def test_status_follows_from_what_the_store_knows(read: Callable[..., LossCurves], foreign_run: Log) -> None:
    now_ms = int(time.time() * 1000)
    nan = {"eval/loss": [(1, 2.0), (2, math.nan)]}
    recovered = {"eval/loss": [(1, math.inf), (2, 2.0)]}
    expected = {
        foreign_run(PARAMS, LOSS): "finished",
        foreign_run(PARAMS, nan): "diverged",
        foreign_run(PARAMS, {"eval/loss": [(1, 2.0), (2, math.inf)]}): "diverged",
        foreign_run(PARAMS, recovered): "finished",
        # A program that ends with an error at its first NaN has a result, as on W&B.
        foreign_run(PARAMS, nan, status="FAILED"): "diverged",
        foreign_run(PARAMS, LOSS, status="FAILED"): "crashed",
        foreign_run(PARAMS, nan, status="KILLED"): "crashed",
        foreign_run(PARAMS, nan, status="FAILED", tags={"surge.status": "crashed"}): "crashed",
        foreign_run(PARAMS, LOSS, status="KILLED"): "crashed",
        foreign_run(PARAMS, LOSS, status=None, time_ms=now_ms - 60_000): "running",
        foreign_run(PARAMS, LOSS, status=None, time_ms=now_ms - 7_200_000): "stale",
        foreign_run(PARAMS, nan, tags={"surge.status": "capped"}): "capped",
        foreign_run(PARAMS, LOSS, tags={"surge.status": "bogus"}): "finished",
    }
    assert dict(read().runs[["run", "status"]].itertuples(index=False)) == expected


@pytest.mark.parametrize(
    ("unit_s", "silent", "at_work"),
    [(1e-3, "stale", "running"), (1.0, "stale", "running"), (1e6, "running", "running")],
    ids=["milliseconds", "seconds", "no time"],
)
def test_points_stamped_in_seconds_or_not_at_all_do_not_make_a_run_stale(
    read: Callable[..., LossCurves],
    foreign_run: Log,
    client: MlflowClient,
    unit_s: float,
    silent: str,
    at_work: str,
) -> None:
    begun_ms = int(time.time() * 1000) - 10 * 3_600_000
    expected = {}
    for ago_s, status in ((7200, silent), (60, at_work)):
        run = foreign_run(PARAMS, {}, status=None, time_ms=begun_ms)
        for step in (1, 2):
            client.log_metric(
                run, "eval/loss", 1 / step, timestamp=int((time.time() - ago_s) / unit_s), step=step
            )
        expected[run] = status
    assert dict(read().runs[["run", "status"]].itertuples(index=False)) == expected


def test_nan_and_infinities_come_back(read: Callable[..., LossCurves], foreign_run: Log) -> None:
    values = [1.0, math.nan, math.inf, -math.inf, 1.5e308, 0.0]
    foreign_run(PARAMS, {"eval/loss": list(enumerate(values))})
    np.testing.assert_array_equal(read().points["loss"], values)


def test_the_newest_of_several_points_at_a_step_counts(
    read: Callable[..., LossCurves], foreign_run: Log, client: MlflowClient
) -> None:
    run = foreign_run(PARAMS, {"eval/loss": [(1, 2.0)]}, status=None)
    client.log_metric(run, "eval/loss", 5.0, timestamp=1_800_000_000_000, step=2)
    client.log_metric(run, "eval/loss", 9.0, timestamp=1_700_000_000_001, step=2)
    client.log_metric(run, "eval/loss", math.nan, timestamp=1_700_000_000_002, step=2)
    client.log_metric(run, "eval/loss", 0.0, timestamp=1_700_000_000_003, step=-1)
    client.set_terminated(run)
    curves = read()
    assert curves.points[["step", "loss"]].to_numpy().tolist() == [[1.0, 2.0], [2.0, 5.0]]
    assert "2 points of 'eval/loss' left out: a newer one" in what(curves, run)
    assert "1 point of 'eval/loss' left out: the step is no whole number" in what(curves, run)
    assert curves.runs["status"].tolist() == ["finished"]


def test_logged_examples_win_over_step_times_batch(read: Callable[..., LossCurves], foreign_run: Log) -> None:
    loss = [(1, 2.0), (2, 1.5), (3, 1.0)]
    whole = foreign_run(PARAMS, {"eval/loss": loss, "examples": [(1, 10.0), (2, 20.0), (3, 30.0)]})
    partial = foreign_run(
        PARAMS, {"eval/loss": loss, "examples": [(2, 20.0)], "tokens": [(1, 7.0), (2, 14.0), (3, 21.0)]}
    )
    curves = read(step="_step")
    examples = curves.points.groupby("run")["examples"].agg(list)
    assert examples[whole] == [10.0, 20.0, 30.0]
    assert examples[partial] == [8.0, 20.0, 24.0]
    assert "'examples' is missing at 2 points" in what(curves, partial)
    tokens = read(batch_unit="tokens", step="_step").points.groupby("run")["examples"].agg(list)
    assert tokens[partial] == [7.0, 14.0, 21.0]


def test_a_trial_counts_once(read: Callable[..., LossCurves], uri: str, record: Make) -> None:
    tracker = open_tracker("mlflow", "demo", uri)
    tracker.open_sweep("s1", "digits", {})
    tracker.write_runs("s1", [record("t1", "crashed"), record("t1"), record("t2"), record("t1", "diverged")])
    curves = read("demo")
    assert sorted(zip(curves.runs["trial_id"], curves.runs["status"], strict=True)) == [
        ("t1", "crashed"), ("t1", "finished"), ("t2", "finished"),
    ]  # fmt: skip
    assert [problem.what for problem in curves.problems if "'t1' ended before" in problem.what]
    assert len(curves.problems) == 1


def test_deleted_runs_parents_and_reports_are_not_trials(
    read: Callable[..., LossCurves], foreign_run: Log, client: MlflowClient
) -> None:
    kept, deleted = foreign_run(PARAMS, LOSS), foreign_run(PARAMS, LOSS)
    foreign_run(PARAMS, LOSS, tags={"surge.kind": "sweep"})
    foreign_run(PARAMS, LOSS, tags={"surge.kind": "report"})
    client.delete_run(deleted)
    assert read().runs["run"].tolist() == [kept]
    client.restore_run(deleted)
    assert sorted(read().runs["run"]) == sorted([kept, deleted])


def test_an_empty_project_gives_an_empty_table(read: Callable[..., LossCurves], client: MlflowClient) -> None:
    client.create_experiment("foreign")
    curves = read()
    assert (len(curves.runs), len(curves.points), curves.problems) == (0, 0, ())
    assert {"run", "lr", "batch_size", "seed", "status"} <= set(curves.runs)
    assert list(curves.results().points) == ["run", "step", "examples", "loss"]


def test_runs_that_logged_nothing_yet_are_problems(read: Callable[..., LossCurves], foreign_run: Log) -> None:
    run = foreign_run(PARAMS, {}, status=None)
    curves = read()
    assert len(curves.runs) == 0
    assert "has logged no 'eval/loss'" in what(curves, run)


def test_hostile_names_are_only_text(
    read: Callable[..., LossCurves], foreign_run: Log, tmp_path: Path
) -> None:
    project = "../../x'; DROP TABLE runs; --"
    foreign_run({**PARAMS, "run": "me", "status": "great", "trial_id": "1e5"}, LOSS, project=project)
    curves = read(project, cache_dir=tmp_path / "cache")
    assert curves.runs["trial_id"].tolist() == ["1e5"]
    assert curves.runs["status"].tolist() == ["finished"]
    assert (
        len([problem for problem in curves.problems if "column of that name is taken" in problem.what]) == 2
    )
    assert all(path.name.startswith("series-") for path in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("route", ["sqlite", "postgres"])
def test_both_ways_of_reading_agree(
    route: str, uri: str, record: Make, foreign_run: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker("mlflow", "demo", uri)
    tracker.open_sweep("s1", "digits", {})
    tracker.write_runs(
        "s1", [record(f"t{index}", lr=0.1 * (index + 1), steps=20 + index) for index in range(6)]
    )
    foreign_run(
        {"lr": 1, "batch_size": 2, "extra": "x"},
        {"eval/loss": [(0, math.nan), (3, math.inf)]},
        project="demo",
    )
    foreign_run(PARAMS, LOSS, project="demo", status="FAILED")
    direct = collect("demo", uri=uri)
    monkeypatch.setattr(mlflow_reader, "is_database", lambda _: False)
    assert_same(direct, collect("demo", uri=uri))


def test_a_missing_store_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackerError, match="there is no MLflow store"):
        collect("demo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a database " * 100], ids=["empty", "text"])
def test_a_file_that_is_no_store_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(TrackerError, match="cannot be read"):
        collect("demo", uri=f"sqlite:///{path}")
    assert path.read_bytes() == content


def test_reading_changes_nothing(database: Path, uri: str, foreign_run: Log, tmp_path: Path) -> None:
    foreign_run(PARAMS, LOSS)
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    files = sorted(path.name for path in database.parent.iterdir())
    collect("foreign", uri=uri, cache_dir=tmp_path / "cache")
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
    assert sorted(path.name for path in database.parent.iterdir()) == sorted([*files, "cache"])


def test_reading_does_not_wait_for_a_writer(uri: str, database: Path, foreign_run: Log) -> None:
    run = foreign_run(PARAMS, LOSS)
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", (run,))
        assert len(collect("foreign", uri=uri).points) == 2
        writer.execute("COMMIT")
    assert len(collect("foreign", uri=uri).points) == 0


def test_a_local_store_is_read_without_mlflow(uri: str, foreign_run: Log) -> None:
    foreign_run(PARAMS, LOSS)
    program = (
        "import sys\n"
        "for name in ('mlflow', 'sqlalchemy'): sys.modules[name] = None\n"
        "from surge_sweeps.trackers import collect, open_tracker\n"
        f"print(len(collect('foreign', uri={uri!r}).points))\n"
        "from surge_sweeps.errors import MissingExtraError\n"
        f"tracker = open_tracker('mlflow', 'demo', {uri!r})\n"
        "try: tracker.open_sweep('s', 's', {})\n"
        "except MissingExtraError as error: print(error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["2", "Install it with: pip install 'surge-sweeps[mlflow]'"], (
        done.stderr
    )


def test_the_source_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SurgeError) as caught:
        collect("demo", uri="http://user:hunter2@127.0.0.1:9/mlflow?key=hunter2")
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)
