"""Runs as files: one a run, whole at any moment, one process a file."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import pytest
import yaml

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import ResumableRun, RunRecord
from surge_sweeps.trackers.busy import BUSY_S
from surge_sweeps.trackers.files.layout import RunsFolder
from surge_sweeps.trackers.files.open_run import TakenOverError
from surge_sweeps.trackers.files.reader import stored_runs
from surge_sweeps.trackers.files.run_file import read_run, read_whole
from surge_sweeps.trackers.files.writer import FilesTracker

from .conftest import CONFIG, Start

#: Writes the file after every point, and goes on where an earlier process was killed. A file that is not what that one
#: logged ends it with 3.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from surge_sweeps.trackers.files import open_run
from surge_sweeps.trackers.files.writer import FilesTracker
open_run.FLUSH_SECONDS, open_run.WRITE_SHARE = 0.0, 1e9
folder, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)

def write(last):
    run = FilesTracker(folder).resume_run("s1", "t1", {"lr": 0.1, "batch_size": 8, "seed": 0}, "launch/0")
    for name, points in ((n, c.points()) for n, c in run._columns.items()):
        steps = points.step.tolist()
        if steps != list(range(len(steps))) or points.value.tolist() != [float(s) for s in steps]:
            os._exit(3)
    for step in range(10**6):
        if last and step > run.logged_step + 5:
            break
        run.log(step, {"eval/loss": float(step), "examples": float(step)})
    run.finish("finished", {"last_finite_step": 1})
    os._exit(0)

def state():
    return [(each.stat().st_ino, each.stat().st_mtime_ns) for each in Path(folder, "runs").glob("*.parquet")]

def has_ended(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

for number in range(kills + 1):
    before = state()
    child = os.fork()
    if child == 0:
        try:
            write(last=number == kills)
        finally:
            os._exit(4)
    if number < kills:
        # Every other one is killed as it writes, the others at any moment of their start.
        while number % 2 and state() == before and not has_ended(child):
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
    ended = os.waitpid(child, 0)[1]
    if ended not in (0, signal.SIGKILL):
        sys.exit(f"child {number} ended with {os.waitstatus_to_exitcode(ended)}")
"""

#: Eight runs of its own, and the one run that all of them want.
BESIDE = """
import sys, time
from pathlib import Path
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.files import open_run
from surge_sweeps.trackers.files.writer import FilesTracker
open_run.FLUSH_SECONDS, open_run.WRITE_SHARE = 0.0, 1e9
folder, number, marks = sys.argv[1], sys.argv[2], Path(sys.argv[3])

def meet(place):
    (marks / f"{place}-{number}").touch()
    while len(list(marks.glob(f"{place}-*"))) < 4:
        time.sleep(0.01)

store = FilesTracker(folder)
meet("begin")
runs = [store.resume_run("s1", f"t{number}x{index}", {"lr": 0.1}, f"launch/{number}") for index in range(8)]
try:
    shared = store.resume_run("s1", "shared", {"lr": 0.1}, "launch/0")
    for step in range(20):
        shared.log(step, {"eval/loss": 1.0 / (step + 1)})
    meet("tried")
    shared.finish("finished")
    print("shared: finished")
except TrackerError as error:
    print("shared:", error)
    meet("tried")
for step in range(20):
    for run in runs:
        run.log(step, {"eval/loss": float(step), "examples": 8.0 * step})
for run in runs:
    run.finish("finished")
"""

FULL_DISK = """
import resource, sys, random, logging
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.files import open_run
from surge_sweeps.trackers.files.writer import FilesTracker
open_run.FLUSH_SECONDS, open_run.WRITE_SHARE, open_run.PATIENCE_S = 0.0, 1e9, float(sys.argv[2])
run = FilesTracker(sys.argv[1]).start_run("s1", "t1", {"lr": 0.1})
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
try:
    for step in range(3000):
        run.log(step, {"eval/loss": random.random()})
    run.finish("finished")
except TrackerError as error:
    print(error)
"""


def files_of(folder: Path) -> list[str]:
    """What stands among the runs, files in the making included."""
    return sorted(path.name for path in (folder / "runs").iterdir())


def test_a_run_comes_back_as_it_was_logged(store: FilesTracker, folder: Path) -> None:
    run = store.start_run("s1", "t1", {**CONFIG, "clip": math.inf, "nesterov": True, "note": "größer"})
    assert isinstance(run, ResumableRun)
    run.log(0, {"eval/loss": 2 / 3, "examples": 0.0})
    run.log(7, {"eval/loss": math.nan})
    run.finish("diverged", {"last_finite_step": 0, "start_loss": -math.inf})
    run.finish("finished")  # a second call does nothing
    whole = read_whole(folder / "runs" / f"{run.run_id}.diverged.parquet")
    assert whole.run.config == {**CONFIG, "clip": math.inf, "nesterov": True, "note": "größer"}
    assert whole.run.summary == {"last_finite_step": 0, "start_loss": -math.inf}
    assert whole.points["eval/loss"].step.tolist() == [0, 7]
    assert str(whole.points["eval/loss"].value.tolist()) == str([2 / 3, math.nan])
    assert files_of(folder) == [f"{run.run_id}.diverged.parquet"]
    assert store.done_trials() == {"t1": "diverged"}
    assert store.result_of("t1") == "diverged"
    assert store.result_of("t2") is None
    with pytest.raises(TrackerError, match="takes no more points"):
        run.log(8, {"eval/loss": 1.0})


def test_a_project_that_is_not_there_has_no_results_and_is_not_made(tmp_path: Path) -> None:
    store = FilesTracker(tmp_path / "later")
    assert store.done_trials() == {}
    assert store.close_stale("s1") == 0
    store.close()
    assert not (tmp_path / "later").exists()


def test_a_sweep_is_written_once(store: FilesTracker, folder: Path) -> None:
    store.open_sweep("s1", "another name", {})
    store.open_sweep("../s2", "x", {})
    content = yaml.safe_load((folder / "sweeps" / "s1.yaml").read_text())
    assert content == {"sweep_id": "s1", "name": "demo", "definition": {"method": "grid"}}
    with pytest.raises(TrackerError, match="YAML"):
        store.open_sweep("s3", "x", {"bad": object()})


def test_ids_are_never_paths(store: FilesTracker, folder: Path, tmp_path: Path) -> None:
    for trial in ("../../t", "/etc/x", "T1", "a b", "."):
        run = store.resume_run("../s", trial, CONFIG, "../owner")
        run.log(0, {"../../loss": 1.0})
        run.finish("finished")
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
    assert sorted(store.done_trials()) == [".", "../../t", "/etc/x", "T1", "a b"]
    assert store.result_of("../../t") == "finished"


def test_a_task_goes_on_with_its_own_run_alone(folder: Path, store: FilesTracker) -> None:
    run = store.resume_run("s1", "t1", CONFIG, "launch/0")
    assert run.logged_step == -1
    for step in range(3):
        run.log(step, {"eval/loss": float(step)})
    run.preempt()
    assert stored_runs(folder)[0].status == "crashed"
    again = FilesTracker(folder).resume_run("s1", "t1", CONFIG, "launch/0")
    assert (again.run_id, again.logged_step) == (run.run_id, 2)
    other = FilesTracker(folder).resume_run("s1", "t1", CONFIG, "launch/1")
    assert (other.run_id != run.run_id, other.logged_step) == (True, -1)
    for step in range(5):
        again.log(step, {"eval/loss": float(step)})
    again.finish("finished")
    whole = read_whole(folder / "runs" / f"{run.run_id}.finished.parquet")
    assert whole.points["eval/loss"].step.tolist() == [0, 1, 2, 3, 4]
    assert whole.run.attempts == 2
    with pytest.raises(TrackerError, match="has its result already"):
        store.resume_run("s1", "t1", CONFIG, "launch/0")
    other.finish("crashed")
    assert FilesTracker(folder).resume_run("s1", "t1", CONFIG, "launch/1").run_id == other.run_id


def test_without_a_sweep_the_newest_run_that_made_room_goes_on(store: FilesTracker) -> None:
    run = store.start_run(None, "t1", CONFIG)
    run.log(0, {"eval/loss": 1.0})
    run.preempt()
    assert store.start_run(None, "t1", CONFIG).run_id == run.run_id
    assert store.start_run(None, "t1", CONFIG).run_id != run.run_id
    store.close()


def test_a_run_that_is_taken_over_is_left_to_the_later_process(folder: Path, store: FilesTracker) -> None:
    first = store.resume_run("s1", "t1", CONFIG, "launch/0")
    second = FilesTracker(folder).resume_run("s1", "t1", CONFIG, "launch/0")
    second.log(0, {"eval/loss": 1.0})
    second.finish("finished")
    with pytest.raises(TakenOverError, match="another process"):
        first.finish("crashed")
    assert store.done_trials() == {"t1": "finished"}
    first._done = True


def test_what_a_killed_launch_left_open_is_crashed_but_not_what_is_in_flight(
    folder: Path, store: FilesTracker
) -> None:
    for trial in ("t1", "t2"):
        store.resume_run("s1", trial, CONFIG, "launch/0").log(0, {"eval/loss": 1.0})
    store.resume_run("s2", "t3", CONFIG, "launch/0")
    assert FilesTracker(folder).close_stale("s1", in_flight={"t2"}, ended={"launch"}) == 1
    statuses = {run.params["trial_id"]: run.recorded for run in stored_runs(folder)}
    assert statuses == {"t1": "crashed", "t2": None, "t3": None}
    assert FilesTracker(folder).close_stale("s1", in_flight={"t2"}, ended={"launch"}) == 0
    for run in store._open.values():
        run._done = True


def test_what_was_launched_elsewhere_and_written_to_lately_is_left_alone(
    folder: Path, store: FilesTracker
) -> None:
    runs = {trial: store.resume_run("s1", trial, CONFIG, "theirs/0") for trial in ("t1", "t2", "t3")}
    runs["t2"].preempt()
    runs["t3"].cut_off()
    store.start_run("s1", "t4", CONFIG)
    other = FilesTracker(folder)
    assert other.busy_trials("s1") == {trial: runs[trial].run_id for trial in ("t1", "t2")}
    assert other.busy_trials("s2") == other.busy_trials("s1", ended={"theirs"}) == {}
    assert store.busy_trials("s1") == {"t2": runs["t2"].run_id}  # what it has open itself is its own
    assert other.close_stale("s1", only_whole=True) == 0
    assert other.close_stale("s1") == 2
    assert {run.params["trial_id"]: run.recorded for run in stored_runs(folder)} == {
        "t1": None, "t2": None, "t3": "crashed", "t4": "crashed",
    }  # fmt: skip
    os.utime(folder / "runs" / f"{runs['t1'].run_id}.parquet", (time.time() - 2 * BUSY_S,) * 2)
    assert set(other.busy_trials("s1")) == {"t2"}
    assert other.close_stale("s1") == 1
    assert other.close_stale("s1", ended={"theirs"}) == 1
    assert FilesTracker(folder / "never").busy_trials("s1") == {}
    for run in store._open.values():
        run._done = True


def test_a_program_that_logs_keeps_its_run_alive(folder: Path, store: FilesTracker) -> None:
    run = store.start_script("s1", "t1", CONFIG, "loss", "theirs/0")
    (name,) = files_of(folder)
    long_ago = (time.time() - 2 * BUSY_S,) * 2
    store_of_program = Path(run.environment["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"))
    for path in (folder / "runs" / name, store_of_program):
        os.utime(path, long_ago)
    assert FilesTracker(folder).busy_trials("s1") == {}
    os.utime(store_of_program)
    assert set(FilesTracker(folder).busy_trials("s1")) == {"t1"}
    assert FilesTracker(folder).close_stale("s1") == 0


def test_of_a_trial_written_whole_twice_the_first_result_stays(folder: Path, store: FilesTracker) -> None:
    record = RunRecord(CONFIG, "t1", "crashed", {"eval/loss": [(0, 3.0)]})
    store.write_runs("s1", [record])
    assert store.done_trials() == {}
    for loss in (2.0, 1.0):
        store.write_runs("s1", [RunRecord(CONFIG, "t1", "finished", {"eval/loss": [(0, 3.0), (1, loss)]})])
    assert len(files_of(folder)) == 1
    assert stored_runs(folder)[0].metrics["eval/loss"].value == 2.0


def test_a_process_killed_at_any_moment_leaves_a_whole_file(
    folder: Path, store: FilesTracker, start: Start
) -> None:
    process = start(KILLED, folder, 40, 7)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    (name,) = files_of(folder)
    found = read_whole(folder / "runs" / name)
    steps = found.points["eval/loss"].step.tolist()
    assert steps == list(range(len(steps)))
    assert found.run.attempts >= 20
    assert stored_runs(folder)[0].status == "finished"


def test_four_processes_write_side_by_side_and_never_mix(
    folder: Path, store: FilesTracker, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "marks").mkdir()
    processes = [start(BESIDE, folder, number, tmp_path / "marks") for number in range(4)]
    ended = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), ended
    shared = [out for out, _ in ended]
    assert sum("shared: finished" in out for out in shared) == 1, shared
    done = store.done_trials()
    assert len(done) == 4 * 8 + 1
    names = [name for name in files_of(folder) if not name.startswith(".")]
    assert len(names) == 33
    for name in names:
        steps = read_whole(folder / "runs" / name).points["eval/loss"].step.tolist()
        assert steps == list(range(20)), name


@pytest.mark.parametrize("patience_s", [0.0, 60.0])
def test_a_full_disk_is_told_and_what_was_written_is_whole(
    folder: Path, store: FilesTracker, start: Start, patience_s: float
) -> None:
    process = start(FULL_DISK, folder, patience_s)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "cannot be written: File too large. What was written before is whole. Make room" in output
    assert ("Points are kept" in errors) == (patience_s > 0)
    (name,) = files_of(folder)
    whole = read_whole(folder / "runs" / name)
    assert len(whole.points["eval/loss"].step) > 100
    assert whole.run.status is None


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path, folder: Path, store: FilesTracker) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TrackerError, match=r"cannot be written.*choose a folder"):
        FilesTracker(tmp_path / "file").open_sweep("s1", "demo", {})
    with pytest.raises(TrackerError, match="is no folder"):
        FilesTracker(tmp_path / "file").done_trials()
    marker = folder / "surge-runs.json"
    marker.write_text(json.dumps({"what": "runs of surge-sweeps", "format": 2}))
    for call in (store.done_trials, lambda: store.start_run("s1", "t1", CONFIG)):
        with pytest.raises(TrackerError, match="format 2, and this version knows 1"):
            call()


def test_a_kill_between_the_result_and_the_end_of_the_open_file_counts_once(
    folder: Path, store: FilesTracker
) -> None:
    run = store.resume_run("s1", "t1", CONFIG, "launch/0")
    run.log(0, {"eval/loss": 1.0})
    left = (folder / "runs" / f"{run.run_id}.parquet").read_bytes()
    run.finish("finished")
    (folder / "runs" / f"{run.run_id}.parquet").write_bytes(left)
    assert [one.status for one in stored_runs(folder)] == ["finished"]
    assert FilesTracker(folder).close_stale("s1") == 0
    assert read_run(RunsFolder(folder).list_runs().runs[0].path).status == "finished"


def test_a_file_whose_times_a_network_file_system_tells_otherwise_is_still_ours(
    folder: Path, store: FilesTracker
) -> None:
    run = store.resume_run("s1", "t1", CONFIG, "launch/0")
    path = folder / "runs" / f"{run.run_id}.parquet"
    os.utime(path, (1, 1))
    run.log(0, {"eval/loss": 1.0})
    run.finish("finished")
    assert store.done_trials() == {"t1": "finished"}
