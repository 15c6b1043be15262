"""`python -m surge_sweeps.training`, end to end."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from forked_python import ForkedPython

from surge_sweeps.errors import SurgeError
from surge_sweeps.sweep import trial_id
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.training.__main__ import main
from surge_sweeps.training.preemption import StopRequest

TRIAL = ["--lr=0.01", "--batch_size", "8", "--max_steps=3"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)


def test_a_trial_is_logged_under_the_id_of_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRIAL, "--project", "mine"]) == 0
    assert "finished after 3 steps, eval loss 2." in capsys.readouterr().out
    assert main(["--lr=1e20", "--batch_size=8", "--max_steps=3", "--optimizer=sgd", "--project=mine"]) == 0
    assert "diverged" in capsys.readouterr().out
    curves = collect("mine")
    runs = curves.runs.set_index("status")
    assert runs.loc["finished", "trial_id"] == trial_id({"lr": 0.01, "batch_size": 8, "max_steps": 3})
    assert runs.loc["diverged", "lr"] == 1e20
    finished = curves.points[curves.points["run"] == runs.loc["finished", "run"]]
    assert finished["step"].tolist() == [0, 1, 2, 3]
    assert finished["examples"].tolist() == [0, 8, 16, 24]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tracker=neptune"], "unknown tracker 'neptune'. Valid: files, mlflow"),
        (["--optimizer=adm"], "Did you mean"),
        (["--lr=-1"], "must be above 0"),
        (["--init_from=nowhere.pt"], "there is no checkpoint 'nowhere.pt'"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRIAL, *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize("arguments", [[*TRIAL, "--learning_rate=1"], [*TRIAL, "--max=1"], ["--lr=fast"], []])
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_a_task_on_a_node_without_a_network_goes_on_in_its_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for room in mid-run, the trial is one file in the end, with the points of one that never stopped."""
    task = [
        "--lr=0.01",
        "--batch_size=8",
        "--max_steps=60",
        "--tracker=files",
        "--sweep-id=s",
        "--trial-id=t",
    ]
    for folder in ("whole", "parted"):
        tracker = open_tracker("files", folder)
        tracker.open_sweep("s", "a sweep", {})
        tracker.close()
    assert main([*task, "--owner=launch/0", "--project=whole"]) == 0
    looks = iter(range(1000))
    asked = property(lambda _: next(looks) > 30, lambda _, value: None)
    with monkeypatch.context() as patched:
        patched.setattr(StopRequest, "requested", asked, raising=False)
        assert main([*task, "--owner=launch/0", "--project=parted"]) == 143
    (state,) = Path(".surge/checkpoints").iterdir()
    assert state.name.startswith("t-")
    assert main([*task, "--owner=launch/0", "--project=./x/../parted"]) == 0
    assert "starting over" not in capsys.readouterr().err
    whole, parted = (collect(folder, tracker="files") for folder in ("whole", "parted"))
    assert parted.runs["status"].tolist() == ["finished"]
    assert parted.points.drop(columns="run").equals(whole.points.drop(columns="run"))
    assert not state.exists()


@pytest.mark.parametrize(
    ("first", "then", "goes_on"),
    [
        (["--project=one"], ["--project=other"], False),
        (["--project=one", "--micro-batch-size=1"], ["--project=one"], False),
        (["--project=one", "--micro-batch-size=2"], ["--project=one", "--micro-batch-size=2"], True),
    ],
)
def test_only_a_task_that_wants_the_same_takes_up_a_state(
    first: list[str], then: list[str], goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next launch of a trial goes on with what the last one left, with the same bits; another one does not."""
    task = [
        "--lr=0.01",
        "--batch_size=8",
        "--max_steps=60",
        "--tracker=files",
        "--sweep-id=s",
        "--trial-id=t",
    ]
    looks = iter(range(1000))
    with monkeypatch.context() as patched:
        asked = property(lambda _: next(looks) > 30, lambda _, value: None)
        patched.setattr(StopRequest, "requested", asked, raising=False)
        assert main([*task, "--owner=first/0", *first]) == 143
    (state,) = Path(".surge/checkpoints").iterdir()
    assert main([*task, "--owner=second/0", *then]) == 0
    assert state.exists() != goes_on
    assert main([*task, "--owner=third/0", *then[1:], "--project=undisturbed"]) == 0
    found = [collect(folder, tracker="files") for folder in (then[0].partition("=")[2], "undisturbed")]
    ended = [curves.runs[curves.runs["status"] == "finished"]["run"].item() for curves in found]
    losses = [
        curves.points[curves.points["run"] == run]["loss"].tolist()
        for curves, run in zip(found, ended, strict=True)
    ]
    assert losses[0] == losses[1]


def test_under_a_wandb_agent_the_tracker_can_still_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert main([*TRIAL, "--tracker=mlflow"]) == 0
    assert collect("surge-sweeps").runs["status"].tolist() == ["finished"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_keeps_its_points_and_is_crashed(sent: signal.Signals, code: int) -> None:
    command = ["-m", "surge_sweeps.training", "--lr=1e-4", "--batch_size=4", "--max_steps=10000000"]
    with ForkedPython(command) as process:
        wait_for_run(process)
        time.sleep(1)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    curves = collect("surge-sweeps")
    assert curves.runs["status"].tolist() == ["crashed"]
    assert len(curves.points) > 5


def wait_for_run(process: ForkedPython) -> None:
    deadline = time.monotonic() + 180  # two processes that import torch and MLflow, on a busy machine
    while time.monotonic() < deadline and process.poll() is None:
        if run_is_there():
            return
        time.sleep(0.5)
    pytest.fail("the run did not start")


def run_is_there() -> bool:
    try:
        return not collect("surge-sweeps").runs.empty
    except SurgeError:  # the store is still being made
        return False
