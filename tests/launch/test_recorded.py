"""What earlier launches still have in their engines' hands, whoever looks, and whenever."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch import recorded
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.folder import Launch, launch_folders
from surge_sweeps.launch.held import Held, holder
from surge_sweeps.launch.lock import lock_if_free, one_launch
from surge_sweeps.launch.plan import Plan, Task, new_launch_id
from surge_sweeps.launch.recorded import find_folder, in_flight, open_launches
from surge_sweeps.launch.run_task import FAILED, main
from surge_sweeps.launch.target import Target
from surge_sweeps.sweep import Sweep

SWEEP = Sweep(
    lr=(0.1, 0.2), batch_size=(8,), seed=(0,), constants={"workload": "digits", "max_steps": 2}, name="small"
)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Target.of("project", "mlflow")


def make_launch(target: Target, engine: str = "local") -> Launch:
    tasks = tuple(Task("trial", 0, (trial.trial_id,)) for trial in SWEEP.trials())
    plan = Plan(
        new_launch_id(), target.project, target.tracker, target.uri, target.working_folder, (SWEEP,), tasks,
        engine=engine, store_id=target.store_id,
    )  # fmt: skip
    return Launch.create(plan)


def test_a_launch_is_noted_as_over_only_by_who_holds_the_folder(target: Target) -> None:
    launch = make_launch(target)
    assert open_launches(target.working_folder, is_alone=False) == []
    assert not launch.is_over
    assert open_launches(target.working_folder, is_alone=True) == []
    assert launch.is_over


def test_a_task_of_a_launch_that_counts_as_over_does_not_begin(
    target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = make_launch(target)
    launch.set_over()
    assert main([str(launch.folder), "0"]) == FAILED
    assert "counts as over" in capsys.readouterr().err
    assert not (target.working_folder / "mlflow.db").exists()


def test_a_launch_at_work_keeps_its_trials_until_its_last_program_has_ended(target: Target) -> None:
    launch = make_launch(target)
    held = Held(launch.folder)
    program = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held.descriptor,)
    )
    held.release()
    try:
        assert holder(launch.folder) is not None
        found = in_flight(target, is_alone=True)
        assert set(found.trials) == {trial.trial_id for trial in SWEEP.trials()}
        assert found.launches == {launch.plan.launch_id: "local"}
    finally:
        program.communicate(b"\n")
    assert holder(launch.folder) is None
    assert in_flight(target, is_alone=True).trials == {}


@pytest.mark.parametrize("spelled", ["environment", "option", "symlink"])
def test_a_store_is_the_same_however_it_is_named(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    path = tmp_path / "mlflow.db"
    if spelled == "symlink":
        (tmp_path / "link.db").symlink_to(path)
        other = Target.of("project", "mlflow", f"sqlite:///{tmp_path / 'link.db'}")
    elif spelled == "option":
        other = Target.of("project", "mlflow", f"sqlite:///{path}")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        other = Target.of("project", "mlflow")
        assert other.uri is None
    launch = make_launch(target)
    held = Held(launch.folder)
    assert in_flight(other, is_alone=True).trials
    held.release()


def test_another_server_is_another_store(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://one:5000")
    one = Target.of("project", "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://two:5000")
    two = Target.of("project", "mlflow")
    assert (one.uri, two.uri) == (None, None)
    assert one.store_id != two.store_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@ONE:5000/")
    assert Target.of("project", "mlflow").store_id == one.store_id


def test_the_lock_tells_whether_it_is_free(target: Target) -> None:
    with lock_if_free() as is_free:
        assert is_free
    with one_launch(), lock_if_free() as is_free:
        assert not is_free


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2),
        ("tasks", [{"kind": "trial", "sweep": 0, "trials": ["zz"], "agent": ""}]),
        ("sweeps", []),
    ],
)
def test_a_plan_that_cannot_be_read_is_named_and_can_be_forgotten(
    target: Target, field: str, value: object
) -> None:
    launch = make_launch(target)
    content = json.loads(launch.plan_file.read_text())
    launch.plan_file.write_text(json.dumps(content | {field: value}))
    with pytest.raises(SurgeError, match=f"{launch.plan.launch_id}.*cannot be read.*--forget"):
        open_launches(target.working_folder, is_alone=True)
    folder = find_folder(target.working_folder, launch.plan.launch_id)
    assert folder == launch_folders(target.working_folder)[launch.plan.launch_id]
    launch.set_over()
    assert open_launches(target.working_folder, is_alone=True) == []


def test_an_engine_that_does_not_answer_keeps_its_trials(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        poll_seconds = 1.0

        def status(self, launch: Launch) -> dict[int, TaskState]:
            raise SurgeError("the controller does not answer.")

    monkeypatch.setattr(recorded, "launcher_of", lambda launch: Silent())
    launch = make_launch(target)
    with pytest.raises(
        SurgeError, match=f"cannot be told: the controller.*cancel {launch.plan.launch_id} --forget"
    ):
        in_flight(target, is_alone=True)
    assert not launch.is_over
    queue = recorded.EngineQueue(target.working_folder)
    assert queue.trials("project") == set()
    assert "does not answer" in queue.problem


def test_two_projects_do_not_hold_one_another_up(target: Target) -> None:
    launch = make_launch(replace(target, project="other"))
    held = Held(launch.folder)
    assert in_flight(target, is_alone=True).trials == {}
    held.release()
