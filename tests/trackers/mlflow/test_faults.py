"""What befalls stores and processes while sweeps are written: nothing is lost, nothing doubled, and it is said."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from forked_python import ForkedPython
from mlflow_stores import MlflowServer, Postgres, postgres_missing

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow import buffer as mlflow_buffer
from surge_sweeps.trackers.mlflow import patience

Make = Callable[..., RunRecord]
CONFIG = {"lr": 0.1, "batch_size": 8, "seed": 0}


def assert_whole(uri: str, trials: int, steps: int, project: str = "demo") -> None:
    """Every trial once, every point once, each loss as `make_record` has it, no run besides."""
    curves = collect(project, uri=uri)
    assert curves.problems == ()
    assert sorted(curves.runs["trial_id"]) == sorted(f"t{index}" for index in range(trials))
    assert set(curves.runs["status"]) == {"finished"}
    assert len(curves.points) == trials * steps
    assert (curves.points["loss"] == 2.0 / (curves.points["step"] + 1)).all()


@contextmanager
def away(down: Callable[[], object], up: Callable[[], object], wait_s: float) -> Iterator[None]:
    """Something is down for a while, while the block runs."""
    down()
    timer = threading.Timer(wait_s, up)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.mark.slow
def test_a_server_killed_in_mid_sweep_and_back_later_loses_and_doubles_nothing(
    mlflow_server: MlflowServer, record: Make, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker("mlflow", "demo", mlflow_server.uri)
    tracker.open_sweep("s1", "digits", {})
    run = tracker.start_run("s1", "t0", CONFIG)
    for step in range(10):
        run.log(step, {"train/loss": 1.0, "eval/loss": 2.0 / (step + 1)})
    records = [record(f"t{index}", steps=20, seed=index) for index in range(1, 25)]
    failures: list[BaseException] = []

    def write() -> None:
        try:
            tracker.write_runs("s1", records)
        except TrackerError as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.5)  # in the middle of some request
    with away(mlflow_server.kill, mlflow_server.start, wait_s=2):
        for step in range(10, 20):
            run.log(step, {"train/loss": 1.0, "eval/loss": 2.0 / (step + 1)})
        run.finish("finished")
    writer.join()
    tracker.close()
    assert failures == []
    assert "trying again for 120 s" in caplog.text
    # The database itself, in which any run made twice would stand.
    assert_whole(mlflow_server.store, trials=25, steps=20)
    assert_whole(mlflow_server.uri, trials=25, steps=20)


def test_training_goes_on_while_the_server_is_away(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_buffer, "FLUSH_SECONDS", 0.2)
    tracker = open_tracker("mlflow", "demo", mlflow_server.uri)
    tracker.open_sweep("s1", "digits", {})
    run = tracker.start_run("s1", "t0", CONFIG)

    def train(first: int, last: int) -> float:
        began = time.monotonic()
        for step in range(first, last):
            run.log(step, {"eval/loss": 2.0 / (step + 1)})
            time.sleep(0.1)
        return time.monotonic() - began

    train(0, 5)
    mlflow_server.kill()
    assert train(5, 15) < 10  # it does not wait for the server
    assert caplog.text.count("Points are kept") == 1
    mlflow_server.start()
    train(15, 20)
    run.finish("finished")
    tracker.close()
    assert_whole(mlflow_server.store, trials=1, steps=20)


def test_a_server_that_stays_away_is_one_sentence_and_soon(
    mlflow_server: MlflowServer,
    record: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 2.0)
    tracker = open_tracker("mlflow", "demo", mlflow_server.uri)
    tracker.open_sweep("s1", "digits", {})
    mlflow_server.kill()
    began = time.monotonic()
    with pytest.raises(TrackerError) as caught:
        tracker.write_runs("s1", [record("t0")])
    assert time.monotonic() - began < 20
    assert str(caught.value).startswith(
        f"the MLflow store {mlflow_server.uri} could not be used for 2 s: its server does not answer. See that it runs"
    )
    assert "call the same command again" in str(caught.value)
    assert len(caplog.records) == 1
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


class LosesAnswers:
    """A proxy before a server that drops the answers to some requests after the server has done them."""

    def __init__(self, port: int) -> None:
        self.lost: dict[str, int] = {}
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def lose(self, path: str, times: int) -> None:
        self.lost[path] = times

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            while True:
                request = message(client)
                if not request:
                    return
                server.sendall(request)
                answer = message(server)
                path = request.split(b" ", 2)[1].decode()
                name = next((name for name in self.lost if name in path and self.lost[name] > 0), None)
                if name is not None:
                    self.lost[name] -= 1
                    return
                client.sendall(answer)


def message(connection: socket.socket) -> bytes:
    """One HTTP message of a stated length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
    while missing > 0:
        part = connection.recv(min(missing, 65536))
        data, missing = data + part, missing - len(part)
    return data


@pytest.fixture
def lossy(shared_server: MlflowServer) -> Iterator[LosesAnswers]:
    proxy = LosesAnswers(shared_server.port)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("path", ["experiments/create", "runs/create", "runs/log-batch", "runs/update"])
def test_what_the_server_did_and_could_not_tell_is_not_done_twice(
    lossy: LosesAnswers, shared_server: MlflowServer, record: Make, path: str
) -> None:
    project = f"lossy-{path.replace('/', '-')}"
    if path != "experiments/create":
        open_tracker("mlflow", project, lossy.uri).open_sweep("s0", "before", {})
    lossy.lose(path, times=2)
    tracker = open_tracker("mlflow", project, lossy.uri)
    tracker.open_sweep("s1", "digits", {})
    tracker.write_runs("s1", [record("t0", steps=400)])
    run = tracker.start_run("s1", "t1", CONFIG)
    for step in range(400):
        run.log(step, {"eval/loss": 2.0 / (step + 1)})
    run.finish("finished")
    tracker.close()
    assert lossy.lost[path] < 2
    assert_whole(shared_server.store, trials=2, steps=400, project=project)


@pytest.mark.slow
def test_a_database_locked_for_longer_than_mlflow_waits_is_waited_out(
    uri: str, database: Path, record: Make, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker("mlflow", "demo", uri)
    tracker.open_sweep("s1", "digits", {})
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as holder:

        def lock() -> None:
            holder.execute("BEGIN IMMEDIATE")

        with away(lock, lambda: holder.execute("COMMIT"), wait_s=30):
            tracker.write_runs("s1", [record("t0"), record("t1")])
    tracker.close()
    assert "cannot be used now (database is locked); trying again" in caplog.text
    assert_whole(uri, trials=2, steps=3)


def test_a_restart_of_postgresql_in_mid_sweep_loses_and_doubles_nothing(
    postgres: Postgres, postgres_uri: str, record: Make, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker("mlflow", "demo", postgres_uri)
    tracker.open_sweep("s1", "digits", {})
    tracker.write_runs("s1", [record("t0")])
    with away(postgres.stop, postgres.start, wait_s=1):
        tracker.write_runs("s1", [record("t1"), record("t2")])
    tracker.close()
    assert "trying again" in caplog.text
    assert "not a secret" not in caplog.text
    assert_whole(postgres_uri, trials=3, steps=3)


@pytest.mark.slow
def test_a_crash_of_postgresql_in_mid_sweep_loses_and_doubles_nothing(
    record: Make, caplog: pytest.LogCaptureFixture
) -> None:
    if why := postgres_missing():
        pytest.skip(why)
    with Postgres(keeps_commits=True) as crashing:
        uri = crashing.database()
        tracker = open_tracker("mlflow", "demo", uri)
        tracker.open_sweep("s1", "digits", {})
        run = tracker.start_run("s1", "t0", CONFIG)
        failures: list[BaseException] = []

        def write() -> None:
            try:
                tracker.write_runs(
                    "s1", [record(f"t{index}", steps=20, seed=index) for index in range(1, 30)]
                )
            except TrackerError as error:
                failures.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        for down_s in (0.0, 2.0):
            time.sleep(0.5)  # in the middle of some transaction
            with away(lambda: crashing.stop("immediate"), crashing.start, wait_s=down_s):
                for step in range(10) if down_s == 0.0 else range(10, 20):
                    run.log(step, {"train/loss": 1.0, "eval/loss": 2.0 / (step + 1)})
                run.flush()  # type: ignore[attr-defined]
        run.finish("finished")
        writer.join()
        tracker.close()
        assert failures == []
        assert "trying again" in caplog.text
        assert_whole(uri, trials=30, steps=20)


LEAVES = """
import os, signal, sys, threading
from surge_sweeps.trackers import open_tracker
tracker = open_tracker("mlflow", "demo", sys.argv[1])
run = tracker.start_run(None, "t0", {"lr": 0.1, "batch_size": 8})
for step in range(7):
    run.log(step, {"eval/loss": 1.0})
print("logged", flush=True)
"""
WAYS = {
    "exit": "sys.exit(3)",
    "term": "from surge_sweeps.training.preemption import ended_on_sigterm\n"
    "with ended_on_sigterm(): os.kill(os.getpid(), signal.SIGTERM); threading.Event().wait(9)",
    "interrupt": "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_leaves_without_finishing_its_run_loses_no_point(way: str, uri: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES + WAYS[way], uri], capture_output=True, text=True, check=False
    )
    assert done.stdout == "logged\n", done.stderr
    curves = collect("demo", uri=uri)
    assert curves.points["step"].tolist() == list(range(7))
    assert curves.runs["status"].tolist() == ["crashed"]


def test_no_signal_handler_and_no_thread_is_left_in_the_users_process(uri: str) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads = threading.active_count()
    tracker = open_tracker("mlflow", "demo", uri)
    tracker.start_run(None, "t0", CONFIG).log(0, {"eval/loss": 1.0})
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert threading.active_count() == threads
    tracker.close()


FULL = """
import resource, signal, sys
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import open_tracker
tracker = open_tracker("mlflow", "demo", sys.argv[1])
tracker.open_sweep("s1", "digits", {})
run = tracker.start_run("s1", "t0", {"lr": 0.1, "batch_size": 8})
run.log(0, {"eval/loss": 2.0})
run.finish("finished")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import os
size = os.path.getsize(sys.argv[1].removeprefix("sqlite:///"))
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 65536, size + 65536))
run = tracker.start_run("s1", "t1", {"lr": 0.2, "batch_size": 8})
try:
    for step in range(5000):
        run.log(step, {"eval/loss": 1.0})
    run.finish("finished")
except TrackerError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_is_said_and_what_was_done_is_kept(uri: str) -> None:
    with ForkedPython(["-c", FULL, uri]) as process:
        output, errors = process.communicate()
    assert "could not be written: " in output, errors
    assert "The trials done are kept" in output
    assert "Traceback" not in errors
    tracker = open_tracker("mlflow", "demo", uri)
    assert dict(tracker.done_trials()) == {"t0": "finished"}
    assert tracker.close_stale("s1") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_is_said(uri: str, database: Path, record: Make) -> None:
    database.chmod(0o400)
    with pytest.raises(TrackerError, match="cannot be written"):
        open_tracker("mlflow", "demo", uri).open_sweep("s1", "digits", {})
