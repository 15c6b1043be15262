"""Programs of the user's own under `--tracker files`: they log by MLflow or W&B, and a file comes of it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import collect
from surge_sweeps.trackers.files.reader import stored_runs
from surge_sweeps.trackers.files.run_file import read_whole
from surge_sweeps.trackers.files.writer import FilesTracker

from .conftest import CONFIG, Start

BY_MLFLOW = """
import mlflow, sys
first, last = int(sys.argv[1]), int(sys.argv[2])
with mlflow.start_run():
    mlflow.log_params({"lr": "1e-1", "model": "mlp"})
    for step in range(first, last):
        mlflow.log_metric("val_loss", 1.0 / (step + 1), step=100 * step)
    mlflow.log_text("a note", "note.txt")
"""
BY_WANDB = """
import wandb
with wandb.init(config={"lr": 0.1, "model": "mlp"}) as run:
    for step in range(5):
        run.log({"val_loss": 1.0 / (step + 1), "updates": 100 * step}, step=100 * step)
"""
UNTIL_KILLED = """
import mlflow, itertools, sys
with mlflow.start_run():
    for step in itertools.count():
        mlflow.log_metric("val_loss", 1.0 / (step + 1), step=step)
        if step == 20:
            print("logging", flush=True)
"""


def losses(path: Path) -> list[tuple[int, float]]:
    points = read_whole(path).points["val_loss"]
    return list(zip(points.step.tolist(), points.value.tolist(), strict=True))


@pytest.mark.parametrize("program", [BY_MLFLOW, BY_WANDB], ids=["mlflow", "wandb"])
def test_a_program_becomes_a_file(scripts: FilesTracker, folder: Path, start: Start, program: str) -> None:
    run = scripts.start_script("s1", "t1", CONFIG, "val_loss")
    process = start(program, 0, 5, env=dict(run.environment))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert run.store_is_away() == ""
    assert (run.finish(0), run.problem) == ("finished", "")
    (path,) = (folder / "runs").iterdir()
    assert losses(path) == [(100 * step, 1.0 / (step + 1)) for step in range(5)]
    config = read_whole(path).run.config
    assert config == {**CONFIG, "model": "mlp"}
    assert isinstance(config["lr"], float)
    # Nothing is left of the scratch but what every program gets a copy of.
    assert [one.name[:8] for one in (folder / "scratch").iterdir()] == ["template"]
    if program == BY_MLFLOW:
        assert [one.read_text() for one in (folder / "artifacts").rglob("*.txt")] == ["a note"]
    curves = collect(folder, loss="val_loss", step=None if program == BY_MLFLOW else "updates")
    assert curves.points["step"].tolist() == [0, 100, 200, 300, 400]
    assert curves.runs["status"].tolist() == ["finished"]


def test_a_program_that_logs_nothing_counts_as_crashed_and_is_told(scripts: FilesTracker) -> None:
    run = scripts.start_script("s1", "t1", CONFIG, "val_loss")
    assert run.finish(0) == "crashed"
    assert run.problem == "it logged no metric 'val_loss' and no other"
    assert scripts.done_trials() == {}


def test_a_folder_that_no_address_of_a_store_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackerError, match="Rename the folder"):
        FilesTracker(tmp_path / "what?").start_script("s1", "t1", CONFIG, "val_loss")


def test_a_program_at_work_is_seen_and_one_that_is_killed_leaves_what_it_logged(
    scripts: FilesTracker, folder: Path, start: Start
) -> None:
    run = scripts.start_script("s1", "t1", CONFIG, "val_loss", owner="launch/0")
    process = start(UNTIL_KILLED, env=dict(run.environment))
    assert process.stdout is not None
    assert process.stdout.readline() == "logging\n"
    (seen,) = stored_runs(folder)
    assert (seen.status, seen.metrics["val_loss"].step >= 20) == ("running", True)
    assert not seen.is_silent_since((time.time() - 60) * 1000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The process that opened the run is killed with it: another launch finds it.
    assert FilesTracker(folder).close_stale("s1", ended={"launch"}) == 1
    (path,) = (folder / "runs").iterdir()
    assert [step for step, _ in losses(path)][:21] == list(range(21))
    assert stored_runs(folder)[0].status == "crashed"
    assert [one.name[:8] for one in (folder / "scratch").iterdir()] == ["template"]


def test_a_program_that_made_room_goes_on_in_the_same_run(
    scripts: FilesTracker, folder: Path, start: Start
) -> None:
    run = scripts.start_script("s1", "t1", CONFIG, "val_loss", owner="launch/0")
    assert start(BY_MLFLOW, 0, 3, env=dict(run.environment)).wait(120) == 0
    run.preempt()
    assert [one.status for one in stored_runs(folder)] == ["crashed"]
    assert stored_runs(folder)[0].metrics["val_loss"].step == 200
    again = FilesTracker(folder).start_script("s1", "t1", CONFIG, "val_loss", owner="launch/0")
    assert again.environment["MLFLOW_RUN_ID"] == run.environment["MLFLOW_RUN_ID"]
    assert start(BY_MLFLOW, 3, 5, env=dict(again.environment)).wait(120) == 0
    assert again.finish(0) == "finished"
    (path,) = (folder / "runs").iterdir()
    assert losses(path) == [(100 * step, 1.0 / (step + 1)) for step in range(5)]


def test_what_was_logged_before_stays_where_the_scratch_is_gone(
    scripts: FilesTracker, folder: Path, start: Start
) -> None:
    run = scripts.start_script("s1", "t1", CONFIG, "val_loss", owner="launch/0")
    assert start(BY_MLFLOW, 0, 3, env=dict(run.environment)).wait(120) == 0
    assert run.finish(1) == "crashed"
    again = FilesTracker(folder).start_script("s1", "t1", CONFIG, "val_loss", owner="launch/0")
    assert stored_runs(folder)[0].metrics["val_loss"].step == 200
    assert start(BY_MLFLOW, 3, 5, env=dict(again.environment)).wait(120) == 0
    assert again.finish(0) == "finished"
    assert len(losses(next((folder / "runs").iterdir()))) == 5
