"""A user's own script on this machine: one process a trial, each in the run that was opened for it."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from launch.local_launches import launch, script_sweep, statuses, wait_for, waiting_sweep
from mlflow_stores import MlflowServer

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch import scripts
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers import collect

SCRIPT = """
import argparse, math, os, sys
import mlflow
parser = argparse.ArgumentParser()
for name, kind in (("lr", float), ("batch_size", int), ("seed", int)):
    parser.add_argument(f"--{name}", type=kind)
args = parser.parse_args()
if args.lr == 0.5:
    sys.exit("no such luck")
with mlflow.start_run():
    mlflow.log_params({"lr": args.lr, "batch_size": args.batch_size})
    for step in range(1, 6):
        loss = math.nan if args.lr == 0.9 else 1 / (step * args.lr)
        mlflow.log_metric("my loss", loss, step=step)
"""


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "train.py").write_text(SCRIPT)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_own_script_logs_into_its_trials_run(uri: str) -> None:
    sweep = replace(script_sweep(), lr=(0.1, 0.5, 0.9), seed=(0, 1))
    result = launch(sweep, uri=uri)
    assert (result.ended["finished"], result.ended["diverged"], result.missing) == (2, 2, 2)
    assert all("no such luck" in reason for reason in result.failures.values())
    again = launch(sweep, uri=uri)
    assert again.already_done == 4
    curves = collect("project", tracker="mlflow", uri=uri, loss="my loss").results()
    assert sorted(zip(curves.runs["lr"], curves.runs["seed"], curves.runs["status"], strict=True)) == [
        (0.1, 0, "finished"),
        (0.1, 1, "finished"),
        (0.9, 0, "diverged"),
        (0.9, 1, "diverged"),
    ]
    finite = curves.points[curves.points["loss"].notna()]
    assert sorted(set(finite["step"])) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_server_that_goes_away_while_scripts_run_is_said_once(
    mlflow_server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scripts, "LOOK_SECONDS", 0.1)

    def said() -> int:
        return caplog.text.count("does not answer; scripts that log to it wait")

    def fail_and_mend() -> None:
        wait_for((tmp_path / "began").exists)
        mlflow_server.kill()
        wait_for(lambda: said() > 0)
        time.sleep(1)  # several more looks
        mlflow_server.start()
        (tmp_path / "go").touch()

    with ThreadPoolExecutor(1) as pool:
        mended = pool.submit(fail_and_mend)
        result = launch(waiting_sweep(tmp_path), uri=mlflow_server.uri, agents=1)
        mended.result()
    assert result.ended["finished"] == 1
    assert said() == 1
    assert f":{mlflow_server.uri.rpartition(':')[2]}" in caplog.text


def test_two_scripts_in_one_project_are_two_experiments(uri: str, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(SCRIPT)
    assert launch(script_sweep(), uri=uri).ended["finished"] == 1
    assert launch(script_sweep("two.py"), uri=uri).ended["finished"] == 1
    assert len(collect("project", tracker="mlflow", uri=uri, loss="my loss").runs) == 2


def test_a_script_that_never_works_is_given_up_after_a_few_trials(uri: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys; sys.exit('no such luck')")
    sweep = replace(script_sweep(), seed=tuple(range(20)))
    with pytest.raises(SurgeError, match=r"first 3 trials all failed: .*no such luck.*Mend the script"):
        launch(sweep, uri=uri, agents=1)
    assert sum(statuses(uri).values()) == 3


def test_a_script_that_logs_another_metric_is_told_so(uri: str) -> None:
    result = launch(script_sweep(loss="val_loss"), uri=uri)
    assert result.missing == 1
    assert "val_loss" in next(iter(result.failures.values()))


def test_a_program_that_cannot_start_is_one_sentence(uri: str, tmp_path: Path) -> None:
    (tmp_path / "program").write_text("not executable")
    sweep = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=("${program}",), program="./program")
    with pytest.raises(SurgeError, match=r"cannot be started: .*may not be executed"):
        launch(sweep, uri=uri)
    assert statuses(uri) == {}
