"""One process at a time goes on with a run: those that start together, and one that comes later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from forked_python import ForkedPython
from mlflow import MlflowClient
from mlflow_stores import MlflowServer

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.mlflow.claim import SILENT_S, Claim, check_free
from surge_sweeps.trackers.mlflow.experiment import now_ms
from surge_sweeps.trackers.mlflow.record import TAG_CLAIM

CONFIG = {"lr": 0.1, "batch_size": 8, "seed": 0}
#: Each process says when it is ready, starts on a word, and ends its run on another.
ELEMENT = """
import sys
from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers import open_tracker
tracker = open_tracker("mlflow", sys.argv[2], sys.argv[1])
tracker.done_trials()
print("ready", flush=True)
sys.stdin.readline()
try:
    run = tracker.start_run(None, "t0", {"lr": 0.1, "batch_size": 8, "seed": 0})
except SurgeError as error:
    print(error, flush=True)
    sys.exit(1)
for step in range(5, 10):
    run.log(step, {"eval/loss": 2.0 / (step + 1)})
run.flush()
print("goes on", flush=True)
sys.stdin.readline()
run.finish("finished")
tracker.close()
"""


@dataclass
class Element:
    """One element of a job array."""

    process: ForkedPython

    def start(self) -> None:
        print(file=self.process.stdin, flush=True)

    def says(self) -> str:
        return self.process.stdout.readline()


@contextmanager
def elements(count: int, uri: str, project: str) -> Iterator[list[Element]]:
    with ExitStack() as stack:
        started = [
            Element(stack.enter_context(ForkedPython(["-c", ELEMENT, uri, project]))) for _ in range(count)
        ]
        for element in started:
            assert element.says() == "ready\n"
        yield started


def leave_preempted(uri: str, project: str) -> None:
    tracker = open_tracker("mlflow", project, uri)
    run = tracker.start_run(None, "t0", CONFIG)
    for step in range(5):
        run.log(step, {"eval/loss": 2.0 / (step + 1)})
    run.preempt()  # type: ignore[attr-defined]
    tracker.close()


def test_of_elements_started_together_and_later_one_goes_on(shared_server: MlflowServer) -> None:
    project = "claimed"
    leave_preempted(shared_server.uri, project)
    with elements(3, shared_server.uri, project) as (first, second, later):
        first.start()
        second.start()
        said = {first.says(): first, second.says(): second}
        going_on = said.pop("goes on\n")
        ((sentence, refused),) = said.items()
        assert "goes on with the MLflow run" in sentence
        assert "One process does a trial" in sentence
        assert refused.process.wait(30) == 1
        later.start()
        assert f"another process (process {going_on.process.pid} on" in later.says()
        assert later.process.wait(30) == 1
        going_on.start()
        assert going_on.process.wait(30) == 0
    curves = collect(project, uri=shared_server.uri)
    assert curves.problems == ()
    assert curves.runs["status"].tolist() == ["finished"]
    assert curves.points["step"].tolist() == list(range(10))


def test_a_run_whose_process_is_gone_is_taken_up_at_once_by_its_id(
    uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_preempted(uri, "demo")
    (run,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    with elements(1, uri, "demo") as (killed,):
        killed.start()
        assert killed.says() == "goes on\n"
        with pytest.raises(TrackerError, match=f"process {killed.process.pid} on"):
            open_tracker("mlflow", "demo", uri).start_run(None, "t0", CONFIG)
        killed.process.kill()
    tracker = open_tracker("mlflow", "demo", uri)
    tracker.start_run(None, "t0", CONFIG).finish("finished")
    tracker.close()
    assert collect("demo", uri=uri).points["step"].tolist() == list(range(10))


@pytest.mark.parametrize(
    ("status", "silent_s", "is_free"),
    [
        ("RUNNING", 0.0, False),
        ("RUNNING", SILENT_S + 1, True),
        ("KILLED", 0.0, True),
        ("FINISHED", 0.0, True),
    ],
)
def test_a_claim_from_elsewhere_holds_while_its_run_has_points(
    status: str, silent_s: float, is_free: bool
) -> None:
    newest_ms = now_ms() - int(1000 * silent_s)
    run = SimpleNamespace(
        info=SimpleNamespace(status=status, run_id="r1"),
        data=SimpleNamespace(
            tags={TAG_CLAIM: Claim("m", "another-machine", 7, newest_ms - 3_600_000).text()},
            _metric_objs=[SimpleNamespace(timestamp=newest_ms)],
        ),
    )
    if is_free:
        check_free(run)
    else:
        with pytest.raises(
            TrackerError, match=r"process 7 on 'another-machine'\) goes on .* call again in a"
        ):
            check_free(run)
