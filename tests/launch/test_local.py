"""The built-in trainer on this machine, on a real MLflow store: every trial ends once, whatever is killed."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from launch.launcher_contract import is_alive
from launch.local_launches import (
    BUILTIN,
    launch,
    start_launch,
    statuses,
    wait_for,
    wait_for_a_result,
    wait_until_the_group_is_gone,
    waiting_sweep,
)
from mlflow_stores import MlflowServer

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.lock import one_launch
from surge_sweeps.launch.stop import StopRequest
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep, Trial
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord


@pytest.fixture
def new_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store that is not there yet, which MLflow takes seconds to make."""
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def uri(new_uri: str, empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return new_uri


def many_trials() -> Sweep:
    """Enough packs that two agents have only begun when the first has its results: 10 trials of 5 batch sizes."""
    return Sweep(
        lr=BUILTIN.lr[:2],
        batch_size=(8, 16, 32, 64, 128),
        seed=(0,),
        constants={**BUILTIN.constants, "max_steps": 150},
        name="stopped",
    )


def test_every_trial_ends_once_and_a_second_launch_runs_nothing(new_uri: str) -> None:
    uri = new_uri
    seen: list[Mapping[int, TaskState]] = []

    def look(launch: Launch, states: Mapping[int, TaskState]) -> None:
        assert set(states) == set(range(len(launch.plan.tasks)))
        seen.append(dict(states))

    first = launch(BUILTIN, uri=uri, on_status=look)
    assert (first.planned, first.ended["finished"], first.missing) == (12, 12, 0)
    assert {state.state for state in seen[-1].values()} == {"ended"}
    again = launch(BUILTIN, uri=uri)
    assert (again.already_done, sum(again.ended.values())) == (12, 0)
    curves = collect("project", tracker="mlflow", uri=uri)
    assert sorted(curves.runs["trial_id"]) == sorted(trial.trial_id for trial in BUILTIN.trials())
    assert set(curves.runs["status"]) == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_launch_loses_nothing_and_the_next_one_finishes(
    uri: str, tmp_path: Path, how: signal.Signals
) -> None:
    sweep = many_trials()
    sweep.write(tmp_path / "sweep.yaml")
    process = start_launch(tmp_path, uri, "--agents=2")
    wait_for_a_result(uri, process)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    done = statuses(uri).get("finished", 0)
    assert 0 < done < 10
    if how is not signal.SIGKILL:
        assert process.returncode == 130, output
        assert "Call the same command again" in output
        assert "Traceback" not in output
        told = re.search(r"stopped\. 10 trials: (\d+) finished, (\d+) missing", " ".join(output.split()))
        assert told is not None, output
        assert (int(told[1]), int(told[2])) == (done, 10 - done)
    wait_until_the_group_is_gone(process.pid)

    result = launch(sweep, uri=uri)
    assert result.already_done == done
    assert result.missing == 0
    curves = collect("project", tracker="mlflow", uri=uri).results()
    assert sorted(curves.runs["trial_id"]) == sorted(trial.trial_id for trial in sweep.trials())


@pytest.mark.slow
def test_a_stop_is_heard_while_a_launch_waits_for_a_server_that_is_away(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    sweep = many_trials()
    sweep.write(tmp_path / "sweep.yaml")
    process = start_launch(tmp_path, mlflow_server.uri, "--agents=2")
    wait_for_a_result(mlflow_server.store, process)
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
        r"stopped\. 10 trials: .*\d+ missing\. The MLflow store http\S+ could not be used: its", output
    )
    assert "What was written is kept. Call the same command again" in output
    assert "Traceback" not in output
    wait_until_the_group_is_gone(process.pid)
    mlflow_server.start()
    assert launch(sweep, uri=mlflow_server.uri).missing == 0
    curves = collect("project", tracker="mlflow", uri=mlflow_server.uri)
    # A server that is killed may leave a run with its parameters and no point.
    assert all("(crashed) has logged no" in problem.what for problem in curves.problems)
    assert sorted(curves.results().runs["trial_id"]) == sorted(trial.trial_id for trial in sweep.trials())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_tells_of_the_scripts_that_it_ended_midway(
    uri: str, tmp_path: Path, how: signal.Signals
) -> None:
    replace(waiting_sweep(tmp_path), seed=(0, 1, 2)).write(tmp_path / "sweep.yaml")
    process = start_launch(tmp_path, uri)
    wait_for((tmp_path / "began").exists, process)
    time.sleep(1)  # it is seen to run
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopped. 3 trials: 3 missing (1 stopped midway)." in " ".join(output.split())
    assert "Traceback" not in output
    wait_until_the_group_is_gone(process.pid)
    assert statuses(uri) == {"crashed": 1}


@pytest.mark.slow
def test_ctrl_c_twice_does_not_wait_for_a_script_that_does_not_listen(uri: str, tmp_path: Path) -> None:
    (tmp_path / "deaf").touch()
    waiting_sweep(tmp_path).write(tmp_path / "sweep.yaml")
    process = start_launch(tmp_path, uri)
    wait_for((tmp_path / "began").exists, process)
    script = int((tmp_path / "began").read_text())
    process.send_signal(signal.SIGINT)
    time.sleep(2)  # the first is waited for by now, for 20 s
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - asked < 10
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not is_alive(script)
    (tmp_path / "deaf").unlink()
    (tmp_path / "go").touch()
    assert launch(waiting_sweep(tmp_path), uri=uri).missing == 0


@pytest.mark.slow
def test_a_killed_launch_takes_its_scripts_with_it(uri: str, tmp_path: Path) -> None:
    waiting_sweep(tmp_path).write(tmp_path / "sweep.yaml")
    process = start_launch(tmp_path, uri)
    wait_for((tmp_path / "began").exists, process)
    script = int((tmp_path / "began").read_text())
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not is_alive(script))
    (tmp_path / "go").touch()
    result = launch(waiting_sweep(tmp_path), uri=uri)
    assert result.ended == {"finished": 1}
    assert statuses(uri) == {"crashed": 1, "finished": 1}


def test_a_grown_sweep_runs_only_what_is_new_and_overlapping_ones_share(uri: str) -> None:
    small = replace(BUILTIN, lr=(0.001,), batch_size=(8,), constants={**BUILTIN.constants, "max_steps": 5})
    assert launch(small, uri=uri, agents=1).ended["finished"] == 2
    grown = replace(small, lr=(0.001, 0.003), name="grown")
    result = launch(grown, replace(grown, name="again"), uri=uri, agents=1)
    assert (result.planned, result.already_done, result.ended["finished"]) == (4, 2, 2)
    curves = collect("project", tracker="mlflow", uri=uri)
    assert sorted(curves.runs["trial_id"]) == sorted(trial.trial_id for trial in grown.trials())


def test_what_cannot_run_is_refused_before_anything_is_written(new_uri: str, tmp_path: Path) -> None:
    missing = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="none.py")
    with pytest.raises(SurgeError, match=r"'none.py', which is not there"):
        launch(missing, uri=new_uri)
    wrong = replace(BUILTIN, constants={"workload": "digitz", "max_steps": 5})
    with pytest.raises(UnknownNameError, match="Valid: digits"):
        launch(wrong, uri=new_uri)
    assert not list(tmp_path.glob("mlflow.db*"))


def test_two_launches_at_once_are_refused(uri: str) -> None:
    with one_launch(), pytest.raises(SurgeError, match="another launch is running"):
        launch(BUILTIN, uri=uri)


def test_agents_below_one_are_refused(new_uri: str) -> None:
    store = open_tracker("mlflow", "project", new_uri)
    with pytest.raises(SurgeError, match=r"number of agents is 0\. It must be 1 or more"):
        LocalLauncher(store, 0)


def test_what_is_left_to_do_is_looked_at_before_anything_is_registered(
    uri: str,
) -> None:
    looked: list[set[float]] = []

    def refuse(sweep: Sweep, trials: Sequence[Trial], _stop: StopRequest) -> None:
        looked.append({trial.lr for trial in trials})
        if len(looked) != 2:
            raise SurgeError("it cannot run.")

    small = replace(BUILTIN, lr=(0.001,), batch_size=(8,), constants={**BUILTIN.constants, "max_steps": 5})
    with pytest.raises(SurgeError, match="it cannot run"):
        launch(small, uri=uri, check=refuse)
    with pytest.raises(UnknownNameError):
        collect("project", tracker="mlflow", uri=uri)
    assert launch(small, uri=uri, agents=1, check=refuse).ended["finished"] == 2
    with pytest.raises(SurgeError, match="it cannot run"):
        launch(replace(small, lr=(0.001, 0.003)), uri=uri, check=refuse)
    assert launch(small, uri=uri, check=refuse).already_done == 2
    assert looked == [{0.001}, {0.001}, {0.003}]


def test_what_another_machine_did_while_data_were_made_is_not_done_again(uri: str) -> None:
    small = replace(BUILTIN, lr=(0.001,), batch_size=(8,), constants={**BUILTIN.constants, "max_steps": 5})

    def elsewhere(sweep: Sweep, trials: Sequence[Trial], _stop: StopRequest) -> None:
        store = open_tracker("mlflow", "project", uri)
        store.open_sweep(sweep.sweep_id, sweep.name, sweep.to_dict())
        metrics = {"eval/loss": [(0, 2.3), (5, 2.2)]}
        store.write_runs(
            sweep.sweep_id,
            [RunRecord(trial.parameters, trial.trial_id, "finished", metrics) for trial in trials],
        )
        store.close()

    result = launch(small, uri=uri, check=elsewhere)
    assert (result.already_done, dict(result.ended)) == (2, {})
    assert len(collect("project", tracker="mlflow", uri=uri).runs) == 2
