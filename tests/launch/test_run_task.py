"""What a node does with one task: whatever happens to it, started again it brings each trial to one end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from forked_python import ForkedPython

from surge_sweeps.launch.driver import Work, plan_tasks
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.plan import Plan, Resources, new_launch_id
from surge_sweeps.launch.run_task import DONE, FAILED, MADE_ROOM
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep
from surge_sweeps.trackers import collect, open_tracker

BUILTIN = Sweep(
    lr=(0.003,), batch_size=(16,), seed=(0,), constants={"workload": "digits", "max_steps": 60}, name="tasks"
)
LONG = replace(BUILTIN, constants={"workload": "digits", "max_steps": 4000})
#: Keeps how far it is where it is told to; goes on there.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import mlflow

kept = Path(os.environ["SURGE_CHECKPOINT_DIR"]) / "step"
kept.parent.mkdir(parents=True, exist_ok=True)
first = int(kept.read_text()) if kept.exists() else 0
room = []
signal.signal(signal.SIGTERM, lambda *_: room.append(1))
with mlflow.start_run():
    Path("began").touch()
    for step in range(first, 5):
        mlflow.log_metric("eval/loss", 1 / (step + 1), step=step)
        kept.write_text(str(step + 1))
        while step == 2 and Path("hold").exists():
            time.sleep(0.02)
            if room:
                sys.exit(143)
"""


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def make_launch(
    sweep: Sweep, uri: str, *, packed: bool = False, resources: Resources | None = None
) -> Launch:
    store = open_tracker("mlflow", "project", uri)
    store.open_sweep(sweep.sweep_id, sweep.name, sweep.to_dict())
    store.close()
    tasks = plan_tasks([Work(sweep, sweep.trials())], packed=packed)
    plan = Plan(
        new_launch_id(),
        "project",
        "mlflow",
        uri,
        Path.cwd(),
        (sweep,),
        tuple(tasks),
        resources or Resources(),
    )
    return Launch.create(plan)


def start(launch: Launch, task: int = 0) -> ForkedPython:
    command = ["-m", "surge_sweeps.launch.run_task", str(launch.folder), str(task)]
    return ForkedPython(command, folder=Path.home(), errors_too=True)


def run(launch: Launch, task: int = 0) -> tuple[int | None, str]:
    with start(launch, task) as process:
        output, _ = process.communicate()
        return process.returncode, output


def wait_for(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def listens(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; until then one would end it."""
    text = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2]
    return bool(int(text.split()[0], 16) >> (number - 1) & 1)


def reads(file: Path, text: str) -> bool:
    return file.read_text() == text


def losses(uri: str) -> list[tuple[int, float]]:
    points = collect("project", tracker="mlflow", uri=uri).results().points
    return list(zip(points["step"], points["loss"], strict=True))


def test_a_trial_is_trained_once_however_often_its_task_is_started(uri: str) -> None:
    launch = make_launch(BUILTIN, uri)
    assert run(launch)[0] == DONE
    first = losses(uri)
    assert json.loads(launch.ended_file(0).read_text())["exit_code"] == 0
    code, output = run(launch)
    assert code == DONE
    assert "has its result already: finished" in output
    assert losses(uri) == first
    assert len(collect("project", tracker="mlflow", uri=uri).runs) == 1


def test_asked_to_make_room_again_and_again_it_goes_on_with_the_same_bits(uri: str, tmp_path: Path) -> None:
    from surge_sweeps.training import TrialConfig, limit_threads, train

    launch = make_launch(LONG, uri)
    checkpoints = tmp_path / ".surge" / "checkpoints"
    for number in (signal.SIGTERM, signal.SIGUSR2):
        with start(launch) as process:
            wait_for(partial(listens, process.pid, number))
            time.sleep(0.5)
            process.send_signal(number)
            output, _ = process.communicate()
            assert process.returncode == MADE_ROOM, output
        assert launch.end_of(0) is None
    kept = list(checkpoints.glob("*"))
    code, output = run(launch)
    assert code == DONE, output
    assert "starting over" not in output or not kept
    curves = collect("project", tracker="mlflow", uri=uri)
    assert list(curves.runs["status"]) == ["finished"]
    assert len(curves.points) == len(set(curves.points["step"]))
    (trial,) = LONG.trials()
    # As in the task.
    limit_threads(1)
    (undisturbed,) = train([("", TrialConfig.from_parameters(trial.parameters))], mode="loop")
    assert losses(uri) == list(undisturbed.metrics["eval/loss"])


def test_a_script_that_makes_room_goes_on_in_its_run(uri: str, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    sweep = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py")
    (tmp_path / "train.py").write_text(SCRIPT)
    launch = make_launch(sweep, uri)
    kept = tmp_path / ".surge" / "checkpoints" / f"{launch.plan.launch_id}-0" / "step"
    # However a script ends that was asked to: with the signal's code, or as if all were done.
    for step, code in ((2, 143), (3, 0)):
        text = SCRIPT.replace("sys.exit(143)", f"sys.exit({code})").replace("step == 2", f"step == {step}")
        (tmp_path / "train.py").write_text(text)
        with start(launch) as process:
            wait_for(kept.exists)
            wait_for(partial(reads, kept, str(step + 1)))
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate()
            assert process.returncode == MADE_ROOM, output
    (tmp_path / "hold").unlink()
    assert run(launch)[0] == DONE
    curves = collect("project", tracker="mlflow", uri=uri, step="_step")
    assert list(curves.runs["status"]) == ["finished"]
    assert list(curves.points["step"]) == [0, 1, 2, 3, 4]


def test_a_script_that_fails_is_told_and_not_a_result(uri: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys; sys.exit('no such luck')")
    sweep = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py")
    launch = make_launch(sweep, uri)
    code, output = run(launch)
    assert code == FAILED
    assert "no such luck" in output
    end = launch.end_of(0)
    assert end is not None
    assert end.why == "the script ended with exit code 1."


def test_a_killed_task_takes_its_script_along(uri: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.replace("lambda *_: room.append(1)", "signal.SIG_DFL"))
    (tmp_path / "hold").touch()
    sweep = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py")
    launch = make_launch(sweep, uri)
    with start(launch) as process:
        wait_for((tmp_path / "began").exists)
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        script = int(found.stdout)
        process.kill()

    def is_gone() -> bool:
        path = Path(f"/proc/{script}/stat")
        return not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z"

    wait_for(is_gone)
    assert launch.end_of(0) is None


def test_a_pack_leaves_out_what_has_a_result(uri: str) -> None:
    sweep = replace(BUILTIN, lr=(0.001, 0.003, 0.01))
    assert run(make_launch(replace(sweep, lr=(0.003,)), uri))[0] == DONE
    launch = make_launch(sweep, uri, packed=True)
    assert len(launch.plan.tasks) == 1
    assert run(launch)[0] == DONE
    runs = collect("project", tracker="mlflow", uri=uri).runs
    assert sorted(runs["lr"]) == [0.001, 0.003, 0.01]


def test_two_processes_of_one_trial_end_as_one_run(uri: str) -> None:
    launch = make_launch(BUILTIN, uri, resources=Resources(processes_per_node=2))
    code, output = run(launch)
    assert code == DONE, output
    curves = collect("project", tracker="mlflow", uri=uri)
    assert list(curves.runs["status"]) == ["finished"]
    assert len(curves.points) == len(set(curves.points["step"]))


def test_bad_input_is_one_sentence(uri: str, tmp_path: Path) -> None:
    launch = make_launch(BUILTIN, uri)
    code, output = run(launch, 7)
    assert (code, output) == (FAILED, "error: the launch has no task 7. It has 1.\n")
    gone = replace(launch.plan, working_folder=tmp_path / "gone", launch_id=new_launch_id())
    (tmp_path / "gone").mkdir()
    moved = Launch.create(gone)
    moved.folder.rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "gone")
    code, output = run(Launch(gone, tmp_path / "moved"))
    assert code == FAILED
    assert "is not on this node" in output
    assert "every node sees" in output
