"""`surge-sweep status`: on every tracker, from the tracker alone; and watching until all is done."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_stores import MlflowServer
from rich.console import Console
from typer.testing import CliRunner
from wandb_server import WandbServer

from surge_sweeps.cli.standing_view import Seen, as_line, as_page
from surge_sweeps.cli.status import follow
from surge_sweeps.cli.sweep import app
from surge_sweeps.curves import Status
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.standing import STATES, project_standing
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep, Trial
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.trial_outcomes import TrialOutcome
from surge_sweeps.trackers.wandb.client import WandbProject
from surge_sweeps.trackers.wandb.sweeps import register

#: With a learning rate that JSON writes without a point.
SWEEP = Sweep(lr=(1e-05, 0.3), batch_size=(8, 32), seed=(0, 1), constants={"max_examples": 640}, name="study")
TRIALS = SWEEP.trials()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["status", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def data(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        call(*arguments, "--json"), parse_constant=lambda name: pytest.fail(name)
    )
    assert sum(found[state] for state in STATES) == found["planned"]
    assert found["left"] == found["crashed"] + found["stale"] + found["missing"]
    return found


def write(
    tracker: str, project: str, uri: str | None, trials: Sequence[Trial], statuses: Sequence[Status]
) -> None:
    store = open_tracker(tracker, project, uri)
    store.open_sweep(SWEEP.sweep_id, SWEEP.name, SWEEP.to_dict())
    records = [
        RunRecord(dict(trial.parameters), trial.trial_id, status, {"eval/loss": [(1, 1.0)]})
        for trial, status in zip(trials, statuses, strict=True)
    ]
    store.write_runs(SWEEP.sweep_id, records)
    store.close()


@contextmanager
def open_runs(tracker: str, project: str, uri: str | None) -> Iterator[None]:
    """One run that goes on, and one whose task made room."""
    store = open_tracker(tracker, project, uri)
    running = store.resume_run(SWEEP.sweep_id, TRIALS[4].trial_id, dict(TRIALS[4].parameters), "launch/4")
    running.log(3, {"eval/loss": 1.0, "examples": 96.0})
    if hasattr(running, "flush"):
        running.flush()
    made_room = store.resume_run(SWEEP.sweep_id, TRIALS[5].trial_id, dict(TRIALS[5].parameters), "launch/5")
    made_room.log(3, {"eval/loss": 1.0})
    made_room.preempt()
    yield
    store.close()


@pytest.mark.parametrize("place", ["sqlite", "postgres", "server", "files"])
def test_a_project_tells_how_it_stands_by_itself(
    place: str, request: pytest.FixtureRequest, folder: Path
) -> None:
    where: tuple[str, str, str | None] = ("mlflow", f"status-{place}", None)
    if place == "files":
        where = ("files", str(folder / "runs-here"), None)
    elif place == "server":
        server: MlflowServer = request.getfixturevalue("shared_server")
        where = ("mlflow", where[1], server.uri)
    else:
        where = (
            "mlflow",
            where[1],
            request.getfixturevalue({"sqlite": "uri", "postgres": "postgres_uri"}[place]),
        )
    write(*where, TRIALS[:4], ["finished", "diverged", "capped", "crashed"])
    tracker, project, uri = where
    options = ["--tracker", tracker] if uri is None else ["--uri", uri]
    with open_runs(*where):
        found, text = data(project, *options), call(project, *options)
    assert {state: found[state] for state in STATES} == {
        "finished": 1, "diverged": 1, "capped": 1, "running": 1, "crashed": 2, "stale": 0, "missing": 2,
    }  # fmt: skip
    assert (found["tracker"], found["project"], found["planned"], found["left"]) == (tracker, project, 8, 4)
    assert [(each["batch_size"], each["planned"], each["missing"]) for each in found["batch_sizes"]] == [
        (8, 4, 0),
        (32, 4, 2),
    ]
    assert [(each["name"], each["sweep_id"]) for each in found["sweeps"]] == [("study", SWEEP.sweep_id)]
    assert found["examples_left"] in (4 * 640 + 544, 5 * 640)  # what runs has seen 96, where that is told
    # Runs written whole have no time of their own.
    assert (found["seconds_left"], found["work_seconds_left"]) == (None, None)
    assert "Left: 4 trials (2 crashed, 2 missing)." in text
    assert max(map(len, text.splitlines())) <= 80


def test_wandb_tells_by_its_registered_sweeps(wandb_server: WandbServer) -> None:
    project = ("test-entity", "study")
    script = replace(SWEEP, command=SCRIPT_COMMAND, program="train.py", loss="val/loss")
    name = register(WandbProject(*project), script)
    states = ["finished", "crashed", "running", "preempted"]
    for trial, state in zip(script.trials(), states, strict=False):
        wandb_server.add_run(
            *project, config=dict(trial.parameters), history={"val/loss": [1.0]}, state=state, sweep=name
        )
    # What was missing is launched again, in a sweep that plans nothing new.
    register(WandbProject(*project), replace(script, lr=(0.3,), name="study-missing"))
    found = data("test-entity/study", "--tracker=wandb")
    assert (found["planned"], found["finished"], found["running"]) == (8, 1, 1)
    assert (found["crashed"], found["missing"]) == (2, 4)
    assert [each["name"] for each in found["sweeps"]] == ["study"]
    assert data(f"test-entity/study/{name}", "--tracker=wandb")["planned"] == 8
    with pytest.raises(TrackerError, match="no W&B project"):
        call("test-entity/none", "--tracker=wandb")


def test_a_silent_run_is_stale_and_the_time_is_told_by_results(uri: str) -> None:
    write("mlflow", "study", uri, TRIALS[:1], ["finished"])
    client = MlflowClient(uri)
    now_ms = round(1000 * time.time())
    number = client.get_experiment_by_name("study").experiment_id
    for index, (ago_s, took_s) in enumerate([(9000, 1000), (9000, 1000), (9000, None), (500, None)], start=1):
        tags = {"surge.kind": "trial", "surge.trial_id": TRIALS[index].trial_id}
        run = client.create_run(number, start_time=now_ms - 1000 * ago_s, tags=tags).info.run_id
        if took_s is not None:
            client.set_tag(run, "surge.status", "finished")
            client.set_terminated(run, "FINISHED", now_ms - 1000 * (ago_s - took_s))
    found = data("study", "--uri", uri)
    assert (found["finished"], found["stale"], found["running"], found["missing"]) == (3, 1, 1, 3)
    assert found["batch_sizes"][0]["seconds_per_trial"] == 1000
    # Four left and half of the one that runs, one at a time.
    assert found["seconds_left"] == pytest.approx(4500, abs=60)
    assert re.search(
        r"Time left: about 1 h 1\d min with 1 trial at once as now \(an estimate\)", call("study")
    )


def test_what_is_not_there_or_was_not_launched_is_told(uri: str) -> None:
    client = MlflowClient(uri)
    foreign = client.create_experiment("foreign")
    client.create_run(foreign)
    with pytest.raises(SurgeError, match=r"no sweep was launched into 'foreign'.*surge-sweep missing FILE"):
        call("foreign", "--uri", uri)
    store = open_tracker("mlflow", "foreign", uri)
    store.open_sweep("s1", "of another version", {"name": "x", "grid": "of the future"})
    store.close()
    with pytest.raises(SurgeError, match="that this version can read \\(1 it cannot\\)"):
        call("foreign", "--uri", uri)
    write("mlflow", "foreign", uri, TRIALS[:1], ["finished"])
    assert "Not counted: 1 sweep of a definition that cannot be read." in call("foreign", "--uri", uri)
    with pytest.raises(
        UnknownNameError, match=r"unknown MLflow experiment 'foriegn'.*Did you mean 'foreign'"
    ):
        call("foriegn", "--uri", uri)
    with pytest.raises(SurgeError, match="is no project that trials are logged to"):
        call("runs.csv")


def test_names_and_marks_are_what_they_are_and_steer_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = replace(SWEEP, name="[bold]x[/] :smile: \x1b[2J")
    standing = project_standing([evil, replace(evil, lr=(0.5,))], {}, 0, {TRIALS[0].trial_id})
    console = Console(width=80, emoji=False, record=True, file=io.StringIO())
    console.print(as_page(Seen("mlflow", "[red]p", standing, 0, away="no answer.\x07"), watched=True))
    text = console.export_text()
    assert "[red]p (MLflow), 2 sweeps: [bold]x[/] :smile: ?[2J" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "1 of them with an engine" in text
    assert as_line(Seen("mlflow", "p", standing, 0)) == "1970-01-01T00:00:00Z 0 of 12 trials done: 12 missing"


def test_watching_ends_when_all_is_done_and_prints_what_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def seen(done: int) -> Seen:
        outcomes = {trial.trial_id: TrialOutcome("finished", "r") for trial in TRIALS[:done]}
        return Seen("mlflow", "study", project_standing([SWEEP], outcomes, 0), 0.0)

    answers: Iterator[Seen | TrackerError] = iter(
        [seen(3), seen(3), TrackerError("the server is away."), TrackerError("the server is away."), seen(8)]
    )

    def look() -> Seen:
        answer = next(answers)
        if isinstance(answer, TrackerError):
            raise answer
        return answer

    waited: list[float] = []
    monkeypatch.setattr("surge_sweeps.cli.status.time.sleep", waited.append)
    follow(look, watch=True, as_data=False)
    lines = capsys.readouterr()
    assert lines.out.splitlines() == [
        "1970-01-01T00:00:00Z 3 of 8 trials done: 3 finished, 5 missing",
        "1970-01-01T00:00:00Z 8 of 8 trials done: 8 finished",
    ]
    assert lines.err == "the server is away. It is asked again.\n"
    assert waited == [5.0] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is asked of the system")
def test_watching_on_a_terminal_draws_over_itself_and_ctrl_c_ends_it(uri: str) -> None:
    write("mlflow", "study", uri, TRIALS[:3], ["finished"] * 3)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "surge_sweeps.cli", "status", "study", "--uri", uri, "--watch"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "40"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        text = read_until(ours, "Ctrl-C ends only")
        write("mlflow", "study", uri, TRIALS[3:5], ["finished"] * 2)
        text += read_until(ours, "Left: 3 trials")
        process.send_signal(signal.SIGINT)
        text += read_until(ours, "stopped.")
        assert process.wait(30) == 130
    os.close(ours)
    assert "Left: 5 trials" in text
    assert "\x1b[1A" in text  # drawn over
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert "Traceback" not in text


def read_until(terminal: int, words: str, limit_s: float = 60) -> str:
    text, deadline = "", time.monotonic() + limit_s
    while words not in text:
        # A program that says nothing more must not hold up the suite.
        is_there, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert is_there, text
        text += os.read(terminal, 4096).decode(errors="replace")
    return text
