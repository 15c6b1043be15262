"""`surge-sweep import`: results from a folder into real trackers, each once, whatever happens in between."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import typer
from forked_python import ForkedPython
from mlflow_stores import MlflowServer
from typer.testing import CliRunner
from wandb_server import WandbServer

from surge_sweeps.cli.import_ import import_
from surge_sweeps.curves import RESULT_STATUSES
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.files.record import FileRun
from surge_sweeps.trackers.files.run_file import Points, write_run
from surge_sweeps.trackers.files.writer import FilesTracker
from surge_sweeps.trackers.mlflow.reader import MlflowReader

Import = Callable[..., str]
KILLED = "import sys; from pathlib import Path; from surge_sweeps.cli.import_ import import_; " + (
    "import_(Path(sys.argv[1]), 'mlflow', project='imported', uri=sys.argv[2])"
)


def records(count: int, first: int = 0) -> list[RunRecord]:
    found = []
    for number in range(first, first + count):
        status = "diverged" if number % 5 == 4 else "finished"
        losses = [3.0, 2.0 / 3.0, float("nan") if status == "diverged" else 0.1]
        metrics = {
            "eval/loss": list(enumerate(losses)),
            "examples": [(step, 8.0 * step) for step in range(3)],
        }
        config = {"lr": 0.1 * (number + 1), "batch_size": 8, "seed": 0, "optimizer": "adamw"}
        found.append(RunRecord(config, f"t{number}", status, metrics, {"start_loss": 3.0}))  # type: ignore[arg-type]
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty results, a run that goes on and one that crashed."""
    monkeypatch.chdir(tmp_path)
    store = FilesTracker(tmp_path / "nodes")
    store.open_sweep("s1", "study", {"name": "study", "method": "grid"})
    store.write_runs("s1", records(20))
    store.write_runs("s1", [RunRecord({"lr": 5.0, "batch_size": 8}, "crashed", "crashed", {})])
    going = FileRun("going-0123456789ab", "going", "s1", {"lr": 6.0, "batch_size": 8}, 0)
    write_run(tmp_path / "nodes" / "runs" / "going-0123456789ab.parquet", going, {})
    return tmp_path / "nodes"


@pytest.fixture
def run_import(monkeypatch: pytest.MonkeyPatch) -> Import:
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.command()(import_)

    def run(*arguments: object, exit_code: int = 0) -> str:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if isinstance(done.exception, SurgeError):
            raise done.exception
        assert done.exit_code == exit_code, done.output
        return done.output

    return run


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_into_mlflow_twice_and_what_ended_since(folder: Path, uri: str, run_import: Import) -> None:
    output = run_import(folder, "--tracker=mlflow", f"--uri={uri}")
    assert (
        "imported 20 runs (4 diverged, 16 finished); 2 without a result left out (1 crashed, 1 running)"
        in output
    )
    assert f"Next: surge-report nodes --tracker mlflow --uri {uri}" in output
    ours, theirs = collect(folder), collect("nodes", uri=uri)
    both = [curves.runs.set_index("trial_id")["lr"].to_dict() for curves in (ours, theirs)]
    assert both[0] == both[1]
    assert (
        ours.points["loss"].dropna().sort_values().tolist()
        == theirs.points["loss"].dropna().sort_values().tolist()
    )
    assert "imported 0 runs; 20 were there already; 2 without" in run_import(
        folder, "--tracker=mlflow", f"--uri={uri}"
    )
    FilesTracker(folder).write_runs("s1", records(3, first=20))
    assert "imported 3 runs (3 finished); 20 were there already" in run_import(
        folder, "--tracker=mlflow", f"--uri={uri}"
    )
    assert len(collect("nodes", uri=uri).runs) == 23


def _runs(uri: str) -> int:
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=60)) as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def test_killed_again_and_again_it_doubles_nothing(folder: Path, uri: str, run_import: Import) -> None:
    FilesTracker(folder).write_runs("s1", records(40, first=100))
    for written in (5, 30):
        with ForkedPython(["-c", KILLED, str(folder), uri]) as process:
            while _runs(uri) < written and process.poll() is None:
                time.sleep(0.05)
            process.kill()
            assert process.wait() != 0  # it was not through
    run_import(folder, "--tracker=mlflow", f"--uri={uri}", "--project=imported")
    runs = MlflowReader(uri).runs("imported")
    results = Counter(run.params["trial_id"] for run in runs if run.status in ("finished", "diverged"))
    assert len(results) == 60
    assert set(results.values()) == {1}
    assert not [run for run in runs if run.status == "running"]
    collected = collect("imported", uri=uri).runs
    # A kill may leave a run with its points and without its result: it is listed as crashed, and fitted by nobody.
    assert collected["status"].isin(RESULT_STATUSES).sum() == 60


@pytest.mark.parametrize("owner", ["", "launch/1"])
def test_who_is_at_work_in_the_target_is_left_alone(
    folder: Path, uri: str, run_import: Import, owner: str
) -> None:
    target = open_tracker("mlflow", "nodes", uri)
    target.open_sweep("s1", "study", {"name": "study", "method": "grid"})
    config = {"lr": 7.0, "batch_size": 8}
    run = (
        target.resume_run("s1", "alive", config, owner) if owner else target.start_run("s1", "alive", config)
    )
    for _ in range(2):
        run_import(folder, "--tracker=mlflow", f"--uri={uri}")
        (found,) = [run for run in MlflowReader(uri).runs("nodes") if run.params["trial_id"] == "alive"]
        assert (found.recorded, found.status) == (None, "running")
    run.finish("finished")
    target.close()


def test_into_a_server(folder: Path, shared_server: MlflowServer, run_import: Import) -> None:
    name = f"imported-{time.time_ns()}"
    arguments = (folder, "--tracker=mlflow", f"--uri={shared_server.uri}", f"--project={name}")
    assert "imported 20 runs" in run_import(*arguments)
    assert "imported 0 runs; 20 were there already" in run_import(*arguments)


def test_into_wandb_twice(folder: Path, wandb_server: WandbServer, run_import: Import) -> None:
    arguments = (folder, "--tracker=wandb", "--project=test-entity/imported")
    output = run_import(*arguments)
    assert "imported 20 runs (4 diverged, 16 finished)" in output
    assert "Next: surge-report test-entity/imported --tracker wandb" in output
    assert "imported 0 runs; 20 were there already" in run_import(*arguments)
    curves = collect("test-entity/imported", tracker="wandb")
    assert sorted(curves.runs["trial_id"]) == sorted(f"t{number}" for number in range(20))
    assert Counter(curves.runs["status"]) == {"finished": 16, "diverged": 4}


def test_points_of_a_resumed_program_come_in_order(folder: Path, uri: str, run_import: Import) -> None:
    steps = np.array([0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6])
    points = Points(steps, np.arange(11.0), 10**12 + np.arange(11))
    run = FileRun(
        "again-0123456789ab", "again", None, {"lr": 7.0, "batch_size": 8}, 0, state="ended", status="finished"
    )
    write_run(folder / "runs" / "again-0123456789ab.finished.parquet", run, {"eval/loss": points})
    run_import(folder, "--tracker=mlflow", f"--uri={uri}")
    curves = collect("nodes", uri=uri)
    name = curves.runs.set_index("trial_id")["run"]["again"]
    found = curves.points[curves.points["run"] == name]
    assert found["step"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found["loss"].tolist() == [0.0, 1.0, 6.0, 7.0, 8.0, 9.0, 10.0]


def test_a_damaged_file_is_named_and_the_rest_is_imported(folder: Path, uri: str, run_import: Import) -> None:
    path = next((folder / "runs").glob("t3-*"))
    path.write_bytes(path.read_bytes()[:100])
    (folder / "sweeps" / "s1.yaml").write_text("{")
    output = run_import(folder, "--tracker=mlflow", f"--uri={uri}", exit_code=1)
    assert "imported 19 runs" in output
    assert f"left out: {str(path)!r} holds no run that can be read" in output
    assert "s1.yaml' tells of no sweep" in output


def test_bad_input_is_a_sentence(tmp_path: Path, folder: Path, run_import: Import, uri: str) -> None:
    with pytest.raises(TrackerError, match="is no folder"):
        run_import(tmp_path / "no", "--tracker=mlflow")
    with pytest.raises(TrackerError, match="no folder of runs"):
        run_import(tmp_path, "--tracker=mlflow")
    with pytest.raises(UnknownNameError, match="Valid: mlflow, wandb"):
        run_import(folder, "--tracker=files")
    with pytest.raises(SurgeError, match="WANDB_BASE_URL"):
        run_import(folder, "--tracker=wandb", f"--uri={uri}")
    FilesTracker(tmp_path / "empty").open_sweep("s1", "x", {})
    assert "imported 0 runs\n" in run_import(tmp_path / "empty", "--tracker=mlflow", f"--uri={uri}")


def test_offline_wandb_is_refused(
    folder: Path, wandb_server: WandbServer, run_import: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(SurgeError, match="Unset WANDB_MODE"):
        run_import(folder, "--tracker=wandb")
