"""Runs of an engine's tasks: many side by side in one sweep, each killed and started again at will."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from forked_python import ForkedPython
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_stores import MlflowServer

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import ResumableRun, RunRecord, Tracker

pytestmark = pytest.mark.slow

CONFIG = {"lr": 0.1, "batch_size": 8, "seed": 0}
#: A task as an engine starts it: it logs ten steps, the checkpoint is before step 3, and it may hang after some.
TASK = """
import json, sys, time
from surge_sweeps.trackers import open_tracker
uri, project, trial, owner, hang_after = json.loads(sys.argv[1])
import surge_sweeps.trackers.mlflow.buffer as buffer
buffer.FLUSH_SECONDS = 0.0 if hang_after >= 0 else buffer.FLUSH_SECONDS
tracker = open_tracker("mlflow", project, uri)
assert tracker.result_of(trial) is None
run = tracker.resume_run("s1", trial, {"lr": 0.1, "batch_size": 8, "seed": 0}, owner)
print(run.run_id, run.logged_step, flush=True)
for step in range(3 if run.logged_step >= 3 else 0, 10):
    run.log(step, {"eval/loss": 2.0 / (step + 1), "examples": 8.0 * step})
    if step == hang_after:
        print("hangs", flush=True)
        time.sleep(600)
run.finish("finished")
tracker.close()
"""


class Store:
    """An experiment of the test's own, launched: its sweep is open and its launch has ended."""

    def __init__(self, uri: str) -> None:
        self.uri, self.project = uri, f"owned-{uuid.uuid4().hex[:8]}"
        self._launched: list[Tracker] = []
        self.launch().close()

    def launch(self) -> Tracker:
        tracker = self.open()
        tracker.open_sweep("s1", "digits", {"name": "digits"})
        self._launched.append(tracker)
        return tracker

    def close(self) -> None:
        """End what was launched: at the end of this process the server is gone, and would be waited for."""
        for tracker in self._launched:
            tracker.close()

    def open(self) -> Tracker:
        return open_tracker("mlflow", self.project, self.uri)

    def start(self, trial: str, owner: str, hang_after: int = -1) -> ForkedPython:
        order = json.dumps([self.uri, self.project, trial, owner, hang_after])
        return ForkedPython(["-c", TASK, order])

    def finish(self, trial: str, owner: str) -> tuple[str, int]:
        """The run's id, and the last step that was there before."""
        with self.start(trial, owner) as task:
            run_id, step = task.communicate()[0].split()
            assert task.returncode == 0
        return run_id, int(step)

    def runs(self, kind: str = "trial") -> list[Run]:
        client = MlflowClient(self.uri)
        found = client.search_runs([client.get_experiment_by_name(self.project).experiment_id])
        return [run for run in found if run.data.tags["surge.kind"] == kind]

    def check_whole(self, trials: int) -> None:
        """Every trial has one result, every point once, and nothing is left running."""
        curves = collect(self.project, uri=self.uri)
        assert curves.problems == ()
        results = curves.runs[curves.runs["status"] == "finished"]
        assert Counter(results["trial_id"]) == Counter({f"t{index}": 1 for index in range(trials)})
        steps = curves.points[curves.points["run"].isin(results["run"])].groupby("run")["step"]
        assert {tuple(each) for _, each in steps} == {tuple(range(10))}
        assert {run.info.status for run in (*self.runs(), *self.runs("sweep"))} <= {"FINISHED", "KILLED"}


@pytest.fixture(params=["sqlite", "postgres", "server"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    names = {"sqlite": "uri", "postgres": "postgres_uri", "server": "shared_server"}
    found = request.getfixturevalue(names[request.param])
    with closing(Store(found.uri if isinstance(found, MlflowServer) else found)) as made:
        yield made


@pytest.fixture
def local(uri: str) -> Iterator[Store]:
    with closing(Store(uri)) as made:
        yield made


def leave_killed(store: Store, trial: str, owner: str, after: int = 5) -> str:
    """A run whose process was killed once it had logged some steps."""
    with store.start(trial, owner, hang_after=after) as task:
        run_id = task.stdout.readline().split()[0]
        assert task.stdout.readline() == "hangs\n"
        task.kill()
    return run_id


def test_a_killed_task_goes_on_at_once_in_its_own_run(store: Store) -> None:
    left = leave_killed(store, "t0", "launch/0")
    assert [run.info.status for run in store.runs()] == ["RUNNING"]
    before_s = time.monotonic()
    writer = store.open().resume_run("s1", "t0", CONFIG, "launch/0")
    assert time.monotonic() - before_s < 3  # nobody else can have it, so it is not waited for
    assert (writer.run_id, writer.logged_step) == (left, 5)
    assert isinstance(writer, ResumableRun)
    writer.preempt()
    assert [run.info.status for run in store.runs()] == ["KILLED"]
    assert store.finish("t0", "launch/0") == (left, 5)
    (run,) = store.runs()
    assert "surge.preempted" not in run.data.tags
    assert (run.data.tags["surge.owner"], run.data.tags["surge.sweep_id"]) == ("launch/0", "s1")
    assert run.data.tags["mlflow.parentRunId"] == store.runs("sweep")[0].info.run_id
    store.check_whole(1)


def test_another_task_never_takes_the_run(local: Store) -> None:
    left = leave_killed(local, "t0", "first/0")
    again = local.launch()
    assert again.close_stale("s1", in_flight={"t0"}) == 0
    assert [run.info.status for run in local.runs()] == ["RUNNING"]
    assert again.close_stale("s1") == 0  # it was written to just now, by a launch that is not known here
    assert again.close_stale("s1", ended={"first"}) == 1
    again.close()
    (crashed,) = local.runs()
    assert (crashed.info.status, crashed.data.tags["surge.status"]) == ("KILLED", "crashed")
    other, before = local.finish("t0", "second/0")
    assert (other != left, before) == (True, -1)
    assert {run.info.run_id: run.info.status for run in local.runs()} == {left: "KILLED", other: "FINISHED"}
    local.check_whole(1)


def test_a_run_that_a_launch_took_for_dead_still_is_its_tasks(local: Store) -> None:
    left = leave_killed(local, "t0", "launch/0")
    assert local.launch().close_stale("s1", ended={"launch"}) == 1
    assert local.finish("t0", "launch/0") == (left, 5)
    (run,) = local.runs()
    assert (run.info.status, run.data.tags["surge.status"]) == ("FINISHED", "finished")


def test_a_task_that_has_its_result_gets_it_told_and_is_left_alone(store: Store) -> None:
    assert store.open().result_of("t0") is None
    store.open().resume_run("s1", "t0", CONFIG, "launch/0").finish("finished")
    assert store.open().result_of("t0") == "finished"
    assert store.open().result_of("t1") is None
    tracker = store.open()
    tracker.resume_run("s1", "t1", CONFIG, "launch/1").finish("crashed")
    assert tracker.result_of("t1") is None
    tracker.resume_run("s1", "t1", CONFIG, "launch/1").finish("diverged")
    assert tracker.result_of("t1") == "diverged"
    assert dict(tracker.done_trials()) == {"t0": "finished", "t1": "diverged"}


def test_four_tasks_at_once_share_a_sweep_and_write_nothing_of_it(store: Store) -> None:
    (before,) = store.runs("sweep")
    tasks = [store.start(f"t{index}", f"launch/{index}") for index in range(4)]
    for task in tasks:
        task.communicate(timeout=180)
    assert [task.returncode for task in tasks] == [0] * 4
    (parent,) = store.runs("sweep")
    assert parent.to_dictionary() == before.to_dictionary()
    store.check_whole(4)


def test_a_sweep_that_was_not_launched_here_is_said_and_nothing_is_made(
    uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    tracker = open_tracker("mlflow", "never", uri)
    assert (tracker.result_of("t0"), tracker.done_trials()) == (None, {})
    for start in (
        lambda: tracker.resume_run("s1", "t0", CONFIG, "launch/0"),
        lambda: tracker.start_script("s1", "t0", CONFIG, "loss", "launch/0"),
    ):
        with pytest.raises(TrackerError, match=r"'never' has no sweep 's1'\. .*surge-sweep launch.*--uri"):
            start()
    assert client.get_experiment_by_name("never") is None
    nowhere = tmp_path / "nowhere.db"
    with pytest.raises(TrackerError, match="no sweep"):
        open_tracker("mlflow", "never", f"sqlite:///{nowhere}").resume_run("s1", "t0", CONFIG, "launch/0")
    assert not nowhere.exists()


def test_a_server_is_asked_without_making_the_experiment(shared_server: MlflowServer) -> None:
    project = f"never-{uuid.uuid4().hex[:8]}"
    tracker = open_tracker("mlflow", project, shared_server.uri)
    assert (tracker.result_of("t0"), tracker.done_trials()) == (None, {})
    assert MlflowClient(shared_server.uri).get_experiment_by_name(project) is None


def test_a_script_of_a_task_goes_on_in_its_run(local: Store) -> None:
    tracker = local.open()
    first = tracker.start_script("s1", "t0", CONFIG, "loss", "launch/0")
    client = MlflowClient(local.uri)
    run_id = first.environment["MLFLOW_RUN_ID"]
    client.log_metric(run_id, "loss", 1.0, step=0)
    first.preempt()
    (left,) = local.runs()
    assert (left.info.status, left.data.tags["surge.preempted"]) == ("KILLED", "yes")
    tracker.close()

    again = local.open().start_script("s1", "t0", CONFIG, "loss", "launch/0")
    assert again.environment["MLFLOW_RUN_ID"] == run_id
    assert [run.info.status for run in local.runs()] == ["RUNNING"]
    client.log_metric(run_id, "loss", 0.5, step=1)
    assert again.finish(0) == "finished"
    (run,) = local.runs()
    assert (run.info.status, run.data.params["lr"]) == ("FINISHED", "0.1")
    assert "surge.preempted" not in run.data.tags
    other = local.open().start_script("s1", "t0", CONFIG, "loss", "launch/1")
    assert other.environment["MLFLOW_RUN_ID"] != run_id


def test_a_launch_that_was_killed_leaves_its_sweep_to_be_ended_by_the_next(local: Store) -> None:
    local.launch().write_runs("s1", [RunRecord(CONFIG, "t0", "finished", {"eval/loss": [(0, 1.0)]})])
    assert [run.info.status for run in local.runs("sweep")] == ["RUNNING"]
    local.launch().close()
    assert [run.info.status for run in local.runs("sweep")] == ["FINISHED"]


def test_what_was_launched_elsewhere_and_written_to_lately_is_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = store.open()
    running = theirs.resume_run("s1", "t0", CONFIG, "theirs/0")
    script = theirs.start_script("s1", "t1", CONFIG, "loss", "theirs/1").environment["MLFLOW_RUN_ID"]
    waiting = theirs.resume_run("s1", "t2", CONFIG, "theirs/2")
    waiting.preempt()
    left = store.launch()
    left.start_run("s1", "t3", CONFIG)
    found = {"t0": running.run_id, "t1": script, "t2": waiting.run_id}
    ours = store.launch()
    assert ours.busy_trials("s1") == found
    assert ours.busy_trials("s1", ended={"theirs"}) == ours.busy_trials("never") == {}
    assert ours.close_stale("s1", only_whole=True) == 0
    assert ours.close_stale("s1") == 1
    statuses = {run.data.tags["surge.trial_id"]: run.data.tags.get("surge.status") for run in store.runs()}
    assert statuses == {"t0": None, "t1": None, "t2": None, "t3": "crashed"}
    # Nothing of it is younger than a moment.
    monkeypatch.setattr("surge_sweeps.trackers.busy.BUSY_S", 0.001)
    assert ours.busy_trials("s1") == {}
    monkeypatch.undo()
    assert ours.close_stale("s1", ended={"theirs"}) == 3
    running.finish("finished")
    assert store.open().result_of("t0") == "finished"


def test_a_run_that_is_gone_on_with_is_alive_before_it_logs(local: Store) -> None:
    client = MlflowClient(local.uri)
    left = local.open().resume_run("s1", "t0", CONFIG, "theirs/0")
    left.preempt()
    with closing(sqlite3.connect(local.uri.removeprefix("sqlite:///"))) as database, database:
        database.execute("UPDATE runs SET start_time = 1, end_time = 2")
    assert local.open().busy_trials("s1") == {}
    local.open().resume_run("s1", "t0", CONFIG, "theirs/0")
    assert set(local.open().busy_trials("s1")) == {"t0"}
    assert client.get_run(left.run_id).info.status == "RUNNING"


def test_asking_who_is_at_work_makes_no_store(tmp_path: Path) -> None:
    assert open_tracker("mlflow", "x", f"sqlite:///{tmp_path / 'no.db'}").busy_trials("s1") == {}
    assert not (tmp_path / "no.db").exists()
