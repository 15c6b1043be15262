"""The local engine on a real MLflow store: every trial ends once, whatever is killed in between."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow_stores import MlflowServer

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.launch import scripts
from surge_sweeps.launch.base import LaunchResult
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.lock import one_launch
from surge_sweeps.progress import no_progress
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep
from surge_sweeps.trackers import collect, open_tracker

BUILTIN = Sweep(
    lr=(0.001, 0.003, 0.01),
    batch_size=(8, 16),
    seed=(0, 1),
    constants={"workload": "digits", "model": "mlp", "optimizer": "adamw", "max_steps": 30},
    name="small",
)

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
def new_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store that is not there yet, which MLflow takes seconds to make."""
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def uri(new_uri: str, empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return new_uri


def launch(sweep: Sweep, uri: str, agents: int = 2) -> LaunchResult:
    tracker = open_tracker("mlflow", "project", uri)
    try:
        return LocalLauncher(agents).launch([sweep], tracker, no_progress)
    finally:
        tracker.close()


def statuses(uri: str) -> Mapping[str, int]:
    """Trial runs in the store by their status, straight from the database."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as store:
        rows = store.execute(
            "select value, count(*) from tags where key = 'surge.status' group by value"
        ).fetchall()
    return dict(rows)


def test_every_trial_ends_once_and_a_second_launch_runs_nothing(new_uri: str) -> None:
    uri = new_uri
    first = launch(BUILTIN, uri)
    assert (first.planned, first.ended["finished"], first.missing) == (12, 12, 0)
    again = launch(BUILTIN, uri)
    assert (again.already_done, sum(again.ended.values())) == (12, 0)
    curves = collect("project", tracker="mlflow", uri=uri)
    assert sorted(curves.runs["trial_id"]) == sorted(trial.trial_id for trial in BUILTIN.trials())
    assert set(curves.runs["status"]) == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_launch_loses_nothing_and_the_next_one_finishes(
    uri: str, tmp_path: Path, how: signal.Signals
) -> None:
    sweep = many_trials()
    sweep.write(tmp_path / "sweep.yaml")
    process = start_launch(tmp_path, uri)
    _wait_for_a_result(uri, process)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    done = statuses(uri).get("finished", 0)
    assert 0 < done < 144
    if how is not signal.SIGKILL:
        assert process.returncode == 130, output
        assert "Call the same command again" in output
        assert "Traceback" not in output
    _wait_until_the_group_is_gone(process.pid)

    result = launch(sweep, uri)
    assert result.already_done == done
    assert result.missing == 0
    curves = collect("project", tracker="mlflow", uri=uri).results()
    assert sorted(curves.runs["trial_id"]) == sorted(trial.trial_id for trial in sweep.trials())


def many_trials() -> Sweep:
    """Enough of them that a launch can be stopped between the first result and the last."""
    return Sweep(
        lr=BUILTIN.lr,
        batch_size=(4, 8, 16, 32, 64, 128),
        seed=tuple(range(8)),
        constants={**BUILTIN.constants, "max_steps": 100},
        name="stopped",
    )


def start_launch(folder: Path, uri: str) -> subprocess.Popen[str]:
    """`surge-sweep launch` of the folder's sweep.yaml in a process group of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "surge_sweeps.cli",
            "launch",
            "sweep.yaml",
            "--project=project",
            f"--uri={uri}",
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _wait_for_a_result(uri: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if statuses(uri).get("finished", 0):
                return
        except sqlite3.OperationalError:
            pass
        time.sleep(0.02)
    pytest.fail(f"no result before the launch ended: {process.communicate()[0]}")


def _wait_until_the_group_is_gone(group: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("worker processes outlived the launch by 30 s")


@pytest.mark.slow
def test_a_stop_is_heard_while_a_launch_waits_for_a_server_that_is_away(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    sweep = replace(many_trials(), batch_size=(64, 128))
    sweep.write(tmp_path / "sweep.yaml")
    process = start_launch(tmp_path, mlflow_server.uri)
    _wait_for_a_result(mlflow_server.store, process)
    mlflow_server.kill()
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if "trying again" in line:
            break
    time.sleep(1)  # it waits by now
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    output, _ = process.communicate(timeout=60)
    waited_s = time.monotonic() - asked
    output = " ".join(("".join(lines) + output).split())
    assert process.returncode == 130, output
    assert waited_s < 15  # of two minutes
    assert re.search(
        r"stopped\. 48 trials: .*\d+ missing\. The MLflow store http\S+ could not be used: its", output
    )
    assert "What was written is kept. Call the same command again" in output
    assert "Traceback" not in output
    _wait_until_the_group_is_gone(process.pid)
    mlflow_server.start()
    assert launch(sweep, mlflow_server.uri).missing == 0
    curves = collect("project", tracker="mlflow", uri=mlflow_server.uri)
    # A server that is killed may leave a run with its parameters and no point.
    assert all("(crashed) has logged no" in problem.what for problem in curves.problems)
    assert sorted(curves.results().runs["trial_id"]) == sorted(trial.trial_id for trial in sweep.trials())


def test_own_script_logs_into_its_trials_run(uri: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    sweep = Sweep(
        lr=(0.1, 0.5, 0.9),
        batch_size=(8,),
        seed=(0, 1),
        command=SCRIPT_COMMAND,
        program="train.py",
        loss="my loss",
    )
    result = launch(sweep, uri)
    assert (result.ended["finished"], result.ended["diverged"], result.missing) == (2, 2, 2)
    assert all("no such luck" in reason for reason in result.failures.values())
    again = launch(sweep, uri)
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


WAITING_SCRIPT = """
import sys, time
from pathlib import Path
Path("began").touch()
while not Path("go").exists():
    time.sleep(0.05)
import mlflow
with mlflow.start_run():
    mlflow.log_metric("my loss", 1.0, step=1)
"""


def waiting_sweep(folder: Path) -> Sweep:
    """One trial whose script waits for the file `go`."""
    (folder / "train.py").write_text(WAITING_SCRIPT)
    return Sweep(
        lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py", loss="my loss"
    )


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
        result = launch(waiting_sweep(tmp_path), mlflow_server.uri, agents=1)
        mended.result()
    assert result.ended["finished"] == 1
    assert said() == 1
    assert f":{mlflow_server.uri.rpartition(':')[2]}" in caplog.text


def test_ctrl_c_tells_of_the_scripts_that_it_stopped_midway(uri: str, tmp_path: Path) -> None:
    replace(waiting_sweep(tmp_path), seed=(0, 1, 2)).write(tmp_path / "sweep.yaml")
    process = start_launch(tmp_path, uri)
    wait_for((tmp_path / "began").exists)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopped. 3 trials: 3 missing (1 stopped midway)." in " ".join(output.split())


def test_a_grown_sweep_runs_only_what_is_new_and_overlapping_ones_share(uri: str) -> None:
    small = replace(BUILTIN, lr=(0.001,), batch_size=(8,), constants={**BUILTIN.constants, "max_steps": 5})
    assert launch(small, uri).ended["finished"] == 2
    grown = replace(small, lr=(0.001, 0.003), name="grown")
    tracker = open_tracker("mlflow", "project", uri)
    result = LocalLauncher(1).launch([grown, replace(grown, name="again")], tracker, no_progress)
    tracker.close()
    assert (result.planned, result.already_done, result.ended["finished"]) == (4, 2, 2)
    curves = collect("project", tracker="mlflow", uri=uri)
    assert sorted(curves.runs["trial_id"]) == sorted(trial.trial_id for trial in grown.trials())


def test_two_scripts_in_one_project_are_two_experiments(uri: str, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SCRIPT)
    (tmp_path / "two.py").write_text(SCRIPT)
    sweep = Sweep(
        lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="one.py", loss="my loss"
    )
    assert launch(sweep, uri).ended["finished"] == 1
    assert launch(replace(sweep, program="two.py"), uri).ended["finished"] == 1
    assert len(collect("project", tracker="mlflow", uri=uri, loss="my loss").runs) == 2


def test_a_script_that_never_works_is_given_up_after_a_few_trials(uri: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys; sys.exit('no such luck')")
    sweep = Sweep(
        lr=(0.1,), batch_size=(8,), seed=tuple(range(20)), command=SCRIPT_COMMAND, program="train.py"
    )
    with pytest.raises(SurgeError, match=r"first 3 trials all failed: .*no such luck.*Mend the script"):
        launch(sweep, uri, agents=1)
    assert sum(statuses(uri).values()) == 3


def test_a_script_that_logs_another_metric_is_told_so(uri: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    sweep = Sweep(
        lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py", loss="val_loss"
    )
    result = launch(sweep, uri)
    assert result.missing == 1
    assert "val_loss" in next(iter(result.failures.values()))


def test_what_cannot_run_is_refused_before_anything_is_written(new_uri: str, tmp_path: Path) -> None:
    missing = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="none.py")
    with pytest.raises(SurgeError, match=r"'none.py', which is not there"):
        launch(missing, new_uri)
    wrong = replace(BUILTIN, constants={"workload": "digitz", "max_steps": 5})
    with pytest.raises(UnknownNameError, match="Valid: digits"):
        launch(wrong, new_uri)
    assert not list(tmp_path.glob("mlflow.db*"))


def test_two_launches_at_once_are_refused(uri: str) -> None:
    with one_launch(), pytest.raises(SurgeError, match="another launch is running"):
        launch(BUILTIN, uri)


def test_a_program_that_cannot_start_is_one_sentence(uri: str, tmp_path: Path) -> None:
    (tmp_path / "program").write_text("not executable")
    sweep = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=("${program}",), program="./program")
    with pytest.raises(SurgeError, match="cannot be started"):
        launch(sweep, uri)


def test_agents_below_one_are_refused() -> None:
    with pytest.raises(SurgeError, match="1 or more"):
        LocalLauncher(0)
