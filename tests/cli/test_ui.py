"""`surge-sweep ui`: a real server on a real store, its links, and that nothing of it outlives the command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("mlflow")

from mlflow import MlflowClient
from mlflow_stores import MlflowServer, Postgres, free_port

from surge_sweeps.cli.sweep import app
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow.links import find_links, first_line
from surge_sweeps.trackers.mlflow.note import AS_TRAINING, NOTE_TAG
from surge_sweeps.trackers.mlflow.publish import TAG_FINGERPRINT, TAG_STATE
from surge_sweeps.trackers.mlflow.record import TAG_KIND
from surge_sweeps.trackers.mlflow.serve import is_loopback, plan_server
from surge_sweeps.trackers.mlflow.writer import MlflowTracker

READY = "Ctrl-C ends the server."
LIMIT_S = 90.0


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


def write_sweep(uri: str, artifacts: Path) -> str:
    """A sweep with a published note and a saved view; returns the parent run's id."""
    client = MlflowClient(uri)
    experiment = client.create_experiment("digits", artifact_location=str(artifacts))
    tracker = MlflowTracker("digits", uri)
    tracker.open_sweep("s1", "grid \x1b[31mone", {"name": "grid"})
    record = RunRecord({"lr": 0.1, "batch_size": 8}, "t1", "finished", {"train/loss": [(0, 2.0), (1, 1.0)]})
    tracker.write_runs("s1", [record])
    tracker.close()
    parent = client.search_runs([experiment], "tags.`surge.kind` = 'sweep'")[0].info.run_id
    client.set_tag(parent, NOTE_TAG, "## **Use LR 0.1** at batch 64\n\nmore")
    client.set_tag(parent, TAG_FINGERPRINT, "of what was published")
    client.log_text(parent, "the report", "report.txt")
    client.set_experiment_tag(experiment, "mlflow.sharedViewState.surge-1", '{"name": "By loss"}')
    return str(parent)


class Commands:
    """Real commands in a folder; whatever of them is left at the end of the test is killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []
        self._children: list[int] = []

    def __call__(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "surge_sweeps.cli", "ui", *arguments, "--workers", "1"],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def children(self, process: subprocess.Popen[str]) -> list[int]:
        """What the command has started: a server, and the workers that it started."""
        found = descendants(process.pid)
        assert len(found) >= 2
        self._children += found
        return found

    def close(self) -> None:
        for process in self._started:
            self._children += descendants(process.pid)
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        for pid in filter(is_alive, self._children):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.close()


def read_until(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdout
    said = ""
    for text in process.stdout:
        said += text
        if text.strip() == line:
            return said
    raise AssertionError(f"it ended: {said}")


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listed.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def none_left(pids: list[int]) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(is_alive, pids))


def get(url: str, host: str | None = None) -> Any:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@needs_proc
def test_links_artifacts_and_ctrl_c(start: Commands, store: str, tmp_path: Path) -> None:
    parent = write_sweep(store, tmp_path / "mlruns" / "1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--uri", store, "--port", str(port))
        said = read_until(process, READY)
    url = re.search(r"Experiments: (\S+)/#/experiments\n", said)[1]  # type: ignore[index]
    assert f"Port {port} is taken: {url.rpartition(':')[2]} is used." in said
    run = f"{url}/#/experiments/1/runs/{parent}"
    # What a user wants to see comes first.
    result = f"  report: {run}/artifacts/surge/report.html?{AS_TRAINING}\n"
    result += f"  result, run grid [31mone: {run}?{AS_TRAINING}\n"
    assert f"digits\n  Use LR 0.1 at batch 64\n{result}  view By loss: " in said
    assert f"By loss: {url}/#/experiments/1/runs?viewStateShareKey=surge-1&compareRunsMode=CHART" in said
    assert "\x1b" not in said
    assert "1 other experiment without" in said
    assert "Warning" not in said

    assert get(f"{url}/get-artifact?path=report.txt&run_uuid={parent}") == "the report"
    # A new experiment's artifacts are where one made without the server has them.
    client = MlflowClient(url)
    made = client.get_experiment(client.create_experiment("new")).artifact_location
    assert made == str(tmp_path / "mlruns" / "2")

    children = start.children(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=LIMIT_S) == 0
    assert none_left(children)


@needs_proc
def test_a_killed_command_takes_its_server_along(start: Commands, store: str) -> None:
    process = start("--uri", store, "--port", str(free_port()))
    read_until(process, READY)
    children = start.children(process)
    process.kill()
    assert none_left(children)


@pytest.mark.slow
@needs_proc
def test_the_password_of_a_database_is_in_no_argument_and_not_printed(
    start: Commands, postgres: Postgres, tmp_path: Path
) -> None:
    uri = postgres.database()
    write_sweep(uri, tmp_path / "mlruns" / "1")
    secret = uri.split("://")[1].split(":")[1].split("@")[0]
    process = start("--port", str(free_port()))
    assert process.wait(timeout=LIMIT_S) == 1  # there is no store in this folder, and none is made
    assert not (tmp_path / "mlflow.db").exists()

    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        process = start("--port", str(free_port()))
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
    said = read_until(process, READY)
    children = start.children(process)
    arguments = [Path(f"/proc/{pid}/cmdline").read_text() for pid in [process.pid, *children]]
    assert "digits" in said
    assert not any(secret in text or "not a secret" in text for text in [said, *arguments])
    process.terminate()
    assert process.wait(timeout=LIMIT_S) == 0
    assert none_left(children)


def test_a_running_server_gets_its_links_printed(shared_server: MlflowServer) -> None:
    client = MlflowClient(shared_server.uri)
    number = client.create_experiment("ui links")
    for name in "abcdefghijkl":
        client.create_run(number, tags={TAG_KIND: "sweep"}, run_name=f"grid-{name}")
    done = CliRunner().invoke(app, ["ui", "--uri", shared_server.uri])
    assert done.exit_code == 0, done.output
    assert f"  all runs: {shared_server.uri}/#/experiments/{number}/runs?{AS_TRAINING}\n" in done.output
    assert "grid-l" in done.output
    assert "grid-a" not in done.output
    assert "and 2 earlier sweeps: see all runs" in done.output


def test_results_on_runs_of_their_own_come_first_and_what_was_withdrawn_is_none(
    shared_server: MlflowServer,
) -> None:
    client = MlflowClient(shared_server.uri)
    number = client.create_experiment("ui foreign results")
    runs = {}
    for name, stamp, mark in (("older", "10", "x"), ("newer", "20", "y"), ("withdrawn", "30", "")):
        tags = {TAG_KIND: "report", TAG_STATE: f"{mark} 1 {stamp}", NOTE_TAG: f"**Train {name}.**\n\nmore"}
        tags |= {TAG_FINGERPRINT: mark} if mark else {}
        runs[name] = client.create_run(number, tags=tags, run_name=name).info.run_id
    client.create_run(number, tags={TAG_KIND: "sweep"}, run_name="grid")
    found = next(
        item for item in find_links(shared_server.uri).experiments if item.runs.name == "ui foreign results"
    )
    assert [(result.name, result.note) for result in found.results] == [
        ("newer", "Train newer."),
        ("older", "Train older."),
    ]
    assert found.results[0].report_url.endswith(f"{runs['newer']}/artifacts/surge/report.html?{AS_TRAINING}")
    assert [sweep.name for sweep in found.sweeps] == ["grid"]


def test_a_server_that_refuses_the_name_is_said_with_the_option_it_needs(shared_server: MlflowServer) -> None:
    # Another way to write 127.0.0.1, which the server was not told of.
    done = CliRunner().invoke(app, ["ui", "--uri", f"http://127.1:{shared_server.port}"])
    assert isinstance(done.exception, TrackerError)
    assert "refuses the host name '127.1'" in str(done.exception)
    assert "--allowed-hosts '127.1,127.1:*" in str(done.exception)


def test_no_store_and_an_older_one_are_said_and_left_alone(tmp_path: Path, store: str) -> None:
    import sqlite3
    from contextlib import closing

    missing = tmp_path / "none" / "mlflow.db"
    done = CliRunner().invoke(app, ["ui", "--uri", f"sqlite:///{missing}"])
    assert isinstance(done.exception, TrackerError)
    assert "there is no MLflow store" in str(done.exception)
    assert not missing.parent.exists()

    empty = tmp_path / "other.db"
    with closing(sqlite3.connect(empty)) as connection:
        connection.execute("CREATE TABLE t (x)")
    done = CliRunner().invoke(app, ["ui", "--uri", f"sqlite:///{empty}"])
    assert "holds no MLflow store" in str(done.exception)

    path = tmp_path / "mlflow.db"
    for version, said in (("bd07f7e963c5", "surge-sweep doctor"), ("ffffffffffff", "newer MLflow")):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
            connection.commit()
        done = CliRunner().invoke(app, ["ui", "--uri", store])
        assert isinstance(done.exception, TrackerError)
        assert said in str(done.exception)


def test_for_the_network_every_name_is_allowed_with_its_port_and_others_are_not(store: str) -> None:
    from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request

    plan = plan_server(store, "0.0.0.0", 5001, names=["login01"])
    hosts = plan.environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    origins = plan.environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    for name in ("login01", socket.gethostname(), "127.0.0.1", "localhost", "[::1]"):
        assert is_allowed_host_header(hosts, name)
        assert is_allowed_host_header(hosts, f"{name}:5001")
        assert not should_block_cors_request(f"http://{name}:5001", "POST", origins)
    assert not is_allowed_host_header(hosts, "evil.example:5001")
    assert should_block_cors_request("http://evil.example:5001", "POST", origins)
    # Other machines cannot write to a path of this one.
    assert plan.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == "mlflow-artifacts:/"
    assert plan.url == "http://127.0.0.1:5001"


def test_artifacts_that_an_earlier_server_kept_are_found(store: str, tmp_path: Path) -> None:
    assert plan_server(store, "127.0.0.1", 5000).destination == str(tmp_path / "mlruns")
    (tmp_path / "mlartifacts").mkdir()
    assert plan_server(store, "127.0.0.1", 5000).destination == str(tmp_path / "mlartifacts")


@pytest.mark.parametrize(
    ("note", "line"),
    [
        ("", ""),
        ("\n\n# Title #1\nmore", "Title #1"),
        ("![x](y) see [**the** report](z)", "x see the report"),
        ("a\x1b[2Jb", "a[2Jb"),
        ("x" * 400, "x" * 297 + "..."),
    ],
)
def test_first_line_of_a_note(note: str, line: str) -> None:
    assert first_line(note) == line


@pytest.mark.parametrize("host", ["::1", "127.0.0.5", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
