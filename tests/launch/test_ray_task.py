"""What a Ray worker does with a task, without Ray: one process at a time, asked before it is ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.plan import Plan, Resources, Task, new_launch_id
from surge_sweeps.launch.ray import task as worker
from surge_sweeps.launch.ray.board import Board
from surge_sweeps.launch.run_task import FAILED, MADE_ROOM
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep
from surge_sweeps.trackers import open_tracker

pytest.importorskip("mlflow")

SWEEP = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py")
#: Waits, and fails; leaves a process behind that does not.
SCRIPT = """
import os, subprocess, sys, time
from pathlib import Path
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("helper").write_text(str(helper.pid))
Path("gpus").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
Path("began").touch()
while Path("hold").exists():
    time.sleep(0.05)
sys.exit(3)
"""


@pytest.fixture
def launch(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    (tmp_path / "train.py").write_text(SCRIPT)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = open_tracker("mlflow", "p", uri)
    store.open_sweep(SWEEP.sweep_id, SWEEP.name, SWEEP.to_dict())
    store.close()
    tasks = (Task("trial", 0, (SWEEP.trials()[0].trial_id,)),)
    resources = Resources(time_limit_minutes=1)
    plan = Plan(new_launch_id(), "p", "mlflow", uri, tmp_path, (SWEEP,), tasks, resources, "ray")
    return Launch.create(plan)


def test_its_program_sees_no_gpu_and_leaves_no_process(launch: Launch, tmp_path: Path) -> None:
    assert worker.run(str(launch.folder), 0) == FAILED
    assert (tmp_path / "gpus").read_text() == ""
    assert not is_running(int((tmp_path / "helper").read_text()))
    assert Board(launch).started() == {0}
    assert not Board(launch).is_locked(0)


def test_at_its_time_limit_it_makes_room(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hold").touch()
    monkeypatch.setattr(worker, "_SECONDS_PER_MINUTE", 5.0)
    began_s = time.monotonic()
    assert worker.run(str(launch.folder), 0) == MADE_ROOM
    assert time.monotonic() - began_s >= 5
    assert launch.end_of(0) is None


def test_it_is_cancelled_while_it_runs(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    cancel = threading.Thread(target=when, args=((tmp_path / "began").exists, Board(launch).ask_cancel, [0]))
    cancel.start()
    assert worker.run(str(launch.folder), 0) == worker.CANCELLED
    cancel.join()
    assert not is_running(int((tmp_path / "helper").read_text()))


def test_it_waits_for_the_end_of_an_earlier_try(launch: Launch, tmp_path: Path) -> None:
    board = Board(launch)
    lock = board.lock(0)
    assert lock is not None
    assert board.is_locked(0)
    assert board.lock(0) is None
    free = threading.Timer(2, lambda: os.close(lock))
    free.start()
    began_s = time.monotonic()
    assert worker.run(str(launch.folder), 0) == FAILED
    assert (tmp_path / "began").stat().st_mtime - (time.time() - time.monotonic()) - began_s >= 2


def test_a_cancelled_one_does_not_begin(launch: Launch, tmp_path: Path) -> None:
    board = Board(launch)
    board.ask_cancel(None)
    assert worker.run(str(launch.folder), 0) == worker.CANCELLED
    assert board.started() == set()
    assert not (tmp_path / "began").exists()


def test_an_earlier_try_that_lives_on_is_told(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE_SECONDS", 0.2)
    lock = Board(launch).lock(0)
    assert lock is not None
    with pytest.raises(SurgeError, match="an earlier try of the task lives on"):
        worker.run(str(launch.folder), 0)
    os.close(lock)


def test_a_node_without_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(SurgeError, match=r"does not see the launch.*every node of the Ray cluster sees"):
        worker.run(str(tmp_path / "elsewhere"), 0)


def test_a_killed_program_is_told_by_its_signal(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    wanted = f"surge_sweeps.launch.run_task {launch.folder} 0"

    def kill(_: object) -> None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and wanted in command_of(int(entry.name)):
                os.kill(int(entry.name), signal.SIGKILL)

    killer = threading.Thread(target=when, args=((tmp_path / "began").exists, kill, None))
    killer.start()
    assert worker.run(str(launch.folder), 0) == -signal.SIGKILL
    killer.join()
    assert not is_running(int((tmp_path / "helper").read_text()))


def when(is_so: Callable[[], bool], act: Callable[[object], object], argument: object) -> None:
    """Act once it is so."""
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    act(argument)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    """Whether a process lives; one that nobody has asked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if not sys.platform.startswith("linux"):
    pytest.skip("what is left of a process is looked up in /proc", allow_module_level=True)
