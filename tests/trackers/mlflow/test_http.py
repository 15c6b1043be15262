"""Reading a real server: every route gives what its database holds, and what goes wrong is said at once."""

from __future__ import annotations

import base64
import json
import logging
import math
import socket
import sqlite3
import ssl
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow_stores import MlflowServer
from mlflow_stores.proxy import Answer, Proxy, Request, Rule

from surge_sweeps import curve_cache
from surge_sweeps.curve_cache import Series
from surge_sweeps.errors import TrackerError, UnknownNameError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.mlflow.database.opening import open_database
from surge_sweeps.trackers.mlflow.history import (
    HISTORY_PATH,
    TAG_HISTORY,
    Points,
    encode_history,
    history_tag,
)
from surge_sweeps.trackers.mlflow.http import connection
from surge_sweeps.trackers.mlflow.http.points import BULK_POINTS, read_bulk
from surge_sweeps.trackers.mlflow.http.store import HttpStore
from surge_sweeps.trackers.mlflow.reader import MlflowReader

LOSS = "eval/loss"
FIRST_MS = 1_700_000_000_000
#: With room between for what comes late.
EVERY_TENTH = [(step, 1.0 / (step + 1), step) for step in range(0, 50, 10)]


class Experiment:
    """An experiment on a server, with runs of any size put straight into the database behind it."""

    def __init__(self, server: MlflowServer) -> None:
        self.server = server
        self.client = MlflowClient(server.uri)
        self.name = f"http-{uuid.uuid4().hex[:8]}"
        self.number = self.client.create_experiment(self.name)

    def run(self, points: Sequence[tuple[int, float, int]], *, status: str | None = "FINISHED") -> str:
        """A run with points (step, value, milliseconds after the first)."""
        run = str(self.client.create_run(self.number, start_time=FIRST_MS).info.run_id)
        # Of many points only the newest through MLflow, which thus knows it as such.
        few = points if len(points) < 500 else [max(points, key=lambda point: (point[0], point[2]))]
        self.client.log_batch(
            run,
            [Metric(LOSS, value, FIRST_MS + ms, step) for step, value, ms in few],
            [Param("lr", "0.1"), Param("batch_size", "8"), Param("seed", "0")],
        )
        if len(few) < len(points):
            rows = [(LOSS, value, FIRST_MS + ms, run, step, 0) for step, value, ms in points]
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                database.executemany(
                    "INSERT OR IGNORE INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    rows,
                )
        if status is not None:
            self.client.set_terminated(run, status)
        return run

    def copies(self, run: str, count: int) -> list[str]:
        """More runs of the same points, made in the database."""
        names = [uuid.uuid4().hex for _ in range(count)]
        with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
            for table in ("runs", "params", "metrics", "latest_metrics"):
                columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
                others = ", ".join(name for name in columns if name != "run_uuid")
                query = f"INSERT INTO {table} (run_uuid, {others}) SELECT ?, {others} FROM {table} WHERE run_uuid = ?"
                database.executemany(query, [(name, run) for name in names])
        return names

    @property
    def path(self) -> str:
        return self.server.store.removeprefix("sqlite:///")

    def direct(self) -> Series:
        """Every point, straight from the database."""
        with open_database(self.server.store) as store:
            runs = [run.run for run in store.runs(store.experiment_id(self.name)) if LOSS in run.metrics]
            return store.fetch(runs, LOSS, None)

    def listed(self, uri: str | None = None) -> HttpStore:
        """The server, with the runs listed."""
        store = HttpStore(uri or self.server.uri)
        store.runs(store.experiment_id(self.name))
        return store

    def put_history(self, run: str, *, other: Mapping[int, float] | None = None) -> Path:
        """Store the run's points as its history artifact, `other` values at some of its rows, and vouch for it."""
        part = self.direct().split()[run]
        value = part.value.copy()
        for row, instead in (other or {}).items():
            value[row] = instead
        points = Points(part.step.astype(np.int64), value, part.timestamp)
        content = encode_history({LOSS: points})
        where = self.client.get_run(run).info.artifact_uri.removeprefix("mlflow-artifacts:/")
        path = self.server.artifacts / where / HISTORY_PATH
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        self.client.set_tag(run, TAG_HISTORY, history_tag({LOSS: points}, content))
        return path


@pytest.fixture
def experiment(shared_server: MlflowServer) -> Experiment:
    return Experiment(shared_server)


def pass_on(request: Request) -> Request:
    return request


@pytest.fixture
def proxy(shared_server: MlflowServer) -> Iterator[Callable[[Rule], Proxy]]:
    """A proxy before the shared server that treats requests by a rule."""
    running: list[Proxy] = []

    def start(rule: Rule = pass_on) -> Proxy:
        running.append(Proxy(shared_server.uri, rule).__enter__())
        return running[-1]

    yield start
    for one in running:
        one.__exit__(None, None, None)


def ramp(count: int, *, each: int = 1, shift: float = 0.0) -> list[tuple[int, float, int]]:
    """Points at `count` steps, `each` of them at every step, one after the other."""
    return [(index // each, 1.0 / (index + 1) + shift, index) for index in range(count * each)]


def nasty() -> list[tuple[int, float, int]]:
    """NaN, infinities, steps below 0 and far off, steps and times that repeat and go back."""
    return [
        (0, 1.0, 0),
        (1, math.nan, 1),
        (2, math.inf, 2),
        (3, -math.inf, 3),
        (4, 1.7e308, 4),
        (4, 5e-324, 4),
        (4, math.nan, 4),
        (3, 0.25, 9),
        (-7, 0.5, 5),
        (2**53, -0.0, 1),
        (5, 0.1 + 0.2, 2),
    ]


def no_bulk(request: Request) -> Answer | Request:
    return Answer(404, b"Not Found") if request.path.startswith("/ajax-api") else request


def assert_same(found: Series, expected: Series) -> None:
    left, right = found.split(), expected.split()
    assert sorted(left) == sorted(right)
    for run, part in left.items():
        np.testing.assert_array_equal(part.step, right[run].step)
        np.testing.assert_array_equal(part.value, right[run].value)
        np.testing.assert_array_equal(part.timestamp, right[run].timestamp)


@pytest.fixture
def mixed(experiment: Experiment) -> Experiment:
    """Runs of every kind; more at once than a request may name."""
    experiment.run(nasty())
    experiment.run(nasty()[::-1], status=None)
    experiment.client.delete_run(experiment.run(ramp(3)))
    experiment.run([])
    for _ in range(2):
        experiment.run(ramp(300, each=8))
    return experiment


@pytest.mark.parametrize(
    ("rule", "route"), [(pass_on, "bulk route (4 runs)"), (no_bulk, "run by run (4 runs)")]
)
def test_each_route_gives_what_the_database_holds(
    mixed: Experiment, proxy: Callable[[Rule], Proxy], rule: Rule, route: str
) -> None:
    expected = mixed.direct()
    store = mixed.listed(proxy(rule).uri)
    assert_same(store.fetch(expected.runs, LOSS, None), expected)
    assert route in store.route
    assert ("no bulk route" in store.route) == (rule is no_bulk)


def test_the_history_artifact_gives_what_the_database_holds(mixed: Experiment) -> None:
    expected = mixed.direct()
    for run in expected.runs:
        mixed.put_history(run)
    store = mixed.listed()
    assert_same(store.fetch(expected.runs, LOSS, None), expected)
    # The run that goes on may have more by now than its artifact.
    assert store.route.endswith("history artifact (3 runs), bulk route (1 runs)")


@pytest.mark.parametrize(
    ("version", "windows", "bulk"),
    [("", 4, 5), ("3.16.1", 0, 9), ("<html>", 0, 9)],
    ids=["new", "old", "none"],
)
def test_long_runs_come_in_windows_of_steps_where_those_are_exact(
    experiment: Experiment, proxy: Callable[[Rule], Proxy], version: str, windows: int, bulk: int
) -> None:
    long = experiment.run(ramp(2600))
    experiment.copies(long, 5)
    # More points in a window than the server gives without sampling, and a step below all windows.
    experiment.run([*ramp(2600), *((step, 0.5, 9000 + step) for step in range(100))])
    experiment.run([*ramp(2600), (-5, 0.5, 7)])
    experiment.run(ramp(20))

    def rule(request: Request) -> Answer | Request:
        return Answer(200, version.encode()) if version and request.path == "/version" else request

    expected = experiment.direct()
    store = experiment.listed(proxy(rule).uri)
    first = [long, *(run for run in expected.runs if run != long and expected.split()[run].rows[0] == 2600)]
    rest = [run for run in expected.runs if run not in first]
    assert_same(store.fetch(first + rest, LOSS, None), expected)
    assert f"bulk route ({bulk} runs)" in store.route
    assert (f"windows of steps ({windows} runs)" in store.route) == bool(windows)


def test_what_a_full_answer_left_out_is_asked_for_again(experiment: Experiment) -> None:
    # At ten points a step it is not foreseen that nine runs fill an answer, in the midst of the last.
    experiment.copies(experiment.run(ramp(300, each=10)), 10)
    expected = experiment.direct()
    store = experiment.listed()
    assert_same(store.fetch(expected.runs, LOSS, None), expected)
    assert store.route.endswith("bulk route (11 runs)")


def test_runs_about_as_long_as_an_answer_come_whole(experiment: Experiment) -> None:
    lengths = [BULK_POINTS, BULK_POINTS + 1]
    runs = [experiment.run(ramp(length)) for length in lengths]
    store = experiment.listed()
    series = store.fetch(runs, LOSS, None)
    assert series.rows.tolist() == lengths
    assert_same(series, experiment.direct())
    assert store.route.endswith("run by run (2 runs)")


def test_an_answer_that_is_full_to_the_point_is_not_believed(experiment: Experiment) -> None:
    runs = sorted(experiment.run(ramp(length)) for length in (1000, BULK_POINTS - 1000))
    answer = read_bulk(experiment.listed()._server, runs, LOSS)
    assert answer is not None
    assert (list(answer.whole), answer.again, answer.long) == ([runs[0]], (runs[1],), ())


def test_a_server_that_stops_earlier_than_others_is_noticed(
    mixed: Experiment, proxy: Callable[[Rule], Proxy]
) -> None:
    def rule(request: Request) -> Request:
        path = request.path.replace(f"max_results={BULK_POINTS}", "max_results=1000")
        return request._replace(path=path) if "bulk" in path else request

    expected = mixed.direct()
    store = mixed.listed(proxy(rule).uri)
    assert_same(store.fetch(expected.runs, LOSS, None), expected)
    assert "run by run" in store.route


def test_many_runs_are_listed_and_read_and_told_of(experiment: Experiment) -> None:
    first = experiment.run(ramp(3))
    runs = [first, *experiment.copies(first, 104)]
    told: list[tuple[float, float, str]] = []
    curves = MlflowReader(experiment.server.uri, lambda *far: told.append(far)).collect(
        experiment.name, ReadOptions(loss=LOSS)
    )
    assert sorted(curves.runs["run"]) == sorted(runs)
    assert len(curves.points) == 315
    assert told[0] == (0, 1, "listing runs")
    assert told[-1] == (105, 105, f"reading {LOSS}")


def test_artifacts_that_do_not_agree_are_not_believed(experiment: Experiment) -> None:
    runs = [experiment.run(ramp(5, shift=index)) for index in range(4)]
    good, torn, older, gone = runs
    experiment.put_history(good)
    path = experiment.put_history(torn)
    path.write_bytes(path.read_bytes()[:-1])
    experiment.put_history(older)
    experiment.client.log_metric(older, LOSS, 7.0, FIRST_MS + 100, 4)
    experiment.put_history(gone).unlink()
    store = experiment.listed()
    assert_same(store.fetch(runs, LOSS, None), experiment.direct())
    assert "history artifact (1 runs), bulk route (3 runs)" in store.route
    for reason in ("1 differed from their tags", "1 were older than the newest", "1 could not be fetched"):
        assert reason in store.route


def test_an_artifact_is_what_is_read_where_it_is_believed(experiment: Experiment) -> None:
    # A value that only the artifact has shows which of the two was read.
    run = experiment.run(ramp(5))
    experiment.put_history(run, other={2: 99.0})
    store = experiment.listed()
    assert 99.0 in store.fetch([run], LOSS, None).value
    assert 99.0 in store.fetch([run], LOSS, None).value


def test_an_artifact_that_lacks_points_logged_after_the_end_is_not_believed(experiment: Experiment) -> None:
    runs = [experiment.run(ramp(1500)) for _ in range(3)]
    for run in runs:
        experiment.put_history(run)
    late, early, _ = runs
    for step in range(700, 703):
        experiment.client.log_metric(late, LOSS, 9.0 + step, FIRST_MS + 10**6 + step, step)
    experiment.client.log_metric(early, LOSS, 9.0, FIRST_MS + 5, 4)
    store = experiment.listed()
    assert_same(store.fetch(runs, LOSS, None), experiment.direct())
    assert "history artifact (1 runs)" in store.route
    assert "2 did not hold exactly the points that their runs have" in store.route


def test_artifacts_that_a_server_keeps_elsewhere_come_by_its_own_pages(experiment: Experiment) -> None:
    run = experiment.run(ramp(5))
    folder = experiment.put_history(run, other={2: 99.0}).parent.parent
    with closing(sqlite3.connect(experiment.path, timeout=60)) as database, database:
        database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (str(folder), run))
    store = experiment.listed()
    assert 99.0 in store.fetch([run], LOSS, None).value


def test_whether_a_run_that_goes_on_has_changed(experiment: Experiment) -> None:
    def grown(points: Sequence[tuple[int, float, int]], *more: tuple[int, float, int]) -> str:
        run = experiment.run(points, status=None)
        held.update(experiment.listed().fetch([run], LOSS, None).split())
        for step, value, ms in more:
            experiment.client.log_metric(run, LOSS, value, FIRST_MS + ms, step)
        return run

    held: dict[str, Series] = {}
    same = {grown(ramp(5)), grown(nasty()), grown([(0, math.nan, 0)])}
    grown(ramp(5), (5, 1.0, 5))
    grown(ramp(5), (2, 1.0, 500))  # resumed at a lower step: the newest point is as before
    grown(ramp(5), (2, 1.0, 1))  # a point that came late
    assert experiment.listed().unchanged(held, LOSS) == same


def test_a_second_read_asks_only_for_what_changed(
    experiment: Experiment, proxy: Callable[[Rule], Proxy], tmp_path: Path
) -> None:
    server = proxy(pass_on)

    def read() -> list[Request]:
        server.requests.clear()
        curves = collect(experiment.name, uri=server.uri, loss=LOSS, cache_dir=tmp_path)
        np.testing.assert_array_equal(np.sort(curves.points["loss"]), np.sort(experiment.direct().value))
        return [request for request in server.requests if "get-history" in request.path]

    def runs_of(requests: Sequence[Request]) -> set[str]:
        return {run for request in requests for run in (ended, going) if run in request.path}

    def fetched() -> set[str]:
        return runs_of([request for request in read() if "max_results=2&" not in request.path])

    ended = experiment.run(EVERY_TENTH)
    going = experiment.run(ramp(5), status=None)
    assert len(read()) >= 1
    checked = read()
    assert runs_of(checked) == {ended, going}
    assert all("max_results=2&" in request.path for request in checked)
    experiment.client.log_metric(going, LOSS, 0.5, FIRST_MS + 900, 5)
    assert fetched() == {going}
    # An evaluation that comes after the end of a run, below its newest step and with the time of an old checkpoint.
    experiment.client.log_metric(ended, LOSS, 7.0, FIRST_MS + 5, 5)
    assert fetched() == {ended}
    assert fetched() == set()


def test_how_many_ended_runs_were_not_compared_is_said_and_none_waits_for_ever(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [experiment.run(EVERY_TENTH) for _ in range(6)]
    old = set(runs[:3])
    with closing(sqlite3.connect(experiment.path, timeout=60)) as database, database:
        database.executemany(
            "UPDATE runs SET end_time = ? WHERE run_uuid = ?", [(FIRST_MS, run) for run in old]
        )

    def read() -> tuple[set[str], str]:
        """The runs whose late point was seen, and how runs were read."""
        curves = collect(experiment.name, uri=experiment.server.uri, loss=LOSS, cache_dir=tmp_path)
        return set(curves.points["run"][curves.points["loss"] == 7.0].astype(str)), curves.route

    read()
    for run in runs:
        experiment.client.log_metric(run, LOSS, 7.0, FIRST_MS + 5, 5)
    monkeypatch.setattr(curve_cache, "COMPARE_S", 0.0)
    monkeypatch.setattr(curve_cache, "_COMPARED_RUNS", 2)
    # Of those that ended long ago as many as of those that ended just now.
    for count in (1, 2, 3):
        seen, route = read()
        assert (len(seen & old), len(seen - old)) == (count, count)
        assert "4 of them not compared with the store this time" in route
    monkeypatch.setattr(curve_cache, "COMPARE_S", math.inf)
    assert "not compared" not in read()[1]


def test_nothing_held_is_all_there_is_of_a_run_without_points(experiment: Experiment) -> None:
    empty, run = experiment.run([], status=None), experiment.run(ramp(2), status=None)
    none = np.empty(0)
    held = {
        name: Series((name,), np.zeros(1, np.int64), none, none, none.astype(np.int64))
        for name in (empty, run)
    }
    assert experiment.listed().unchanged(held, LOSS) == {empty}


def test_an_unknown_experiment_shows_the_nearest_of_very_many(experiment: Experiment) -> None:
    names = [f"zz-{experiment.name}-{index}" for index in range(1100)]
    with closing(sqlite3.connect(experiment.path, timeout=60)) as database:
        with database:
            database.executemany(
                "INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, "
                "last_update_time, workspace) VALUES (?, 'mlflow-artifacts:/x', 'active', 0, 0, 'default')",
                [(name,) for name in names],
            )
        try:
            with pytest.raises(UnknownNameError) as caught:
                collect(f"{experiment.name}x", uri=experiment.server.uri)
        finally:
            with database:
                database.executemany("DELETE FROM experiments WHERE name = ?", [(name,) for name in names])
    assert f"nearest first: {experiment.name}, " in str(caught.value)
    assert set(caught.value.valid) >= set(names)
    assert len(str(caught.value)) < 1000


def test_deleted_and_empty_experiments(experiment: Experiment) -> None:
    assert len(collect(experiment.name, uri=experiment.server.uri).runs) == 0
    experiment.client.delete_experiment(experiment.number)
    with pytest.raises(TrackerError, match=r"is deleted.*mlflow experiments restore"):
        collect(experiment.name, uri=experiment.server.uri)


JSON = (("Content-Type", "application/json"),)
HTML = (("Content-Type", "text/html"),)
REFUSAL = json.dumps({"error_code": "PERMISSION_DENIED", "message": "no READ for you"}).encode()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(401, b"You are not authenticated"), "MLFLOW_TRACKING_USERNAME"),
        (Answer(403, REFUSAL, JSON), "does not let this user do that: no READ for you"),
        (Answer(404, b"<html>nginx</html>", HTML), "no MLflow server answers"),
        (Answer(200, b"<html>Please log in</html>", HTML), "is no MLflow server: it sent text/html"),
        (Answer(200, b"[]", JSON), "is no MLflow server"),
        (Answer(503, b"", (("Retry-After", "3600"),)), "busy or closed .HTTP 503. and asks to wait 3600 s"),
        (Answer(429, b"slow down"), "busy or closed"),
        (Answer(500, b"<html>", HTML), "failed .HTTP 500"),
        (Answer(400, b"what?"), "refuses the request .HTTP 400: what"),
        (Answer(200, b"half", (("Content-Length", "100"),)), "connection to the MLflow server .* broke"),
    ],
)
def test_an_answer_that_is_none_is_said_with_the_next_step(answer: Answer, said: str) -> None:
    with Proxy("http://127.0.0.1:9", lambda _: answer) as server:
        with pytest.raises(TrackerError, match=said) as caught:
            collect("digits", uri=server.uri.replace("//", "//me:hunter2@"))
        assert caught.value.hint
        assert "hunter2" not in str(caught.value)
        assert len(server.requests) <= 4


def test_a_server_that_never_answers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_FIRST_TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(TrackerError, match=r"does not answer in time.*MLFLOW_HTTP_REQUEST_TIMEOUT"),
    ):
        collect("digits", uri=f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_host_name_that_the_server_refuses(proxy: Callable[[Rule], Proxy]) -> None:
    def rule(request: Request) -> Request:
        return request._replace(headers=request.headers | {"host": "login01:5000"})

    with pytest.raises(
        TrackerError, match=r"refuses .* host name .127.0.0.1.*--allowed-hosts .127.0.0.1,.*--cors"
    ):
        collect("digits", uri=proxy(rule).uri)


@pytest.mark.parametrize(
    ("environment", "user", "sent"),
    [
        ({"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hunter2"}, "", "me:hunter2"),
        ({"MLFLOW_TRACKING_TOKEN": "hunter2"}, "", "hunter2"),
        ({}, "me:hunter2@", "me:hunter2"),
    ],
    ids=["password", "token", "address"],
)
def test_credentials_go_with_every_request(
    experiment: Experiment,
    proxy: Callable[[Rule], Proxy],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    user: str,
    sent: str,
    tmp_path: Path,
) -> None:
    basic = f"Basic {base64.b64encode(sent.encode()).decode()}"

    def rule(request: Request) -> Answer | Request:
        return request if request.headers.get("authorization") in (basic, f"Bearer {sent}") else Answer(401)

    server = proxy(rule)
    experiment.put_history(experiment.run(ramp(3)))
    experiment.run(ramp(3))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    uri = server.uri.replace("//", f"//{user}")
    curves = collect(experiment.name, uri=uri, loss=LOSS, cache_dir=tmp_path)
    assert len(curves.points) == 6
    assert "history artifact (1 runs), bulk route (1 runs)" in curves.route
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in kept + f"{curves.source}{curves.route}{curves.problems}".encode()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_certificate_that_is_not_trusted(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=surge",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with Proxy(experiment.server.uri, pass_on, tls) as server:
        with pytest.raises(TrackerError, match=r"is not trusted: .*MLFLOW_TRACKING_SERVER_CERT_PATH"):
            collect(experiment.name, uri=server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", certificate)
        assert len(collect(experiment.name, uri=server.uri).runs) == 0
        monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        assert len(collect(experiment.name, uri=server.uri).runs) == 0


def test_https_for_a_server_without_tls_is_said(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = experiment.server.uri.replace("http:", "https:")
    told = rf"answers without TLS\. Use {experiment.server.uri} instead\."
    with pytest.raises(TrackerError, match=told):
        collect(experiment.name, uri=uri)
    with pytest.raises(TrackerError, match=told):
        open_tracker("mlflow", experiment.name, uri).done_trials()


def test_a_busy_server_is_waited_for_while_reading(
    experiment: Experiment,
    proxy: Callable[[Rule], Proxy],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    run = experiment.run(ramp(3))
    busy = [
        Answer(503, b"", (("Retry-After", "0"),)),
        Answer(429),
        Answer(200, b"{", (("Content-Length", "9"),)),
    ]

    def rule(request: Request) -> Answer | Request:
        return busy.pop() if busy and "bulk" in request.path else request

    uri = proxy(rule).uri
    store = experiment.listed(uri)
    assert_same(store.fetch([run], LOSS, None), experiment.direct())
    assert not busy
    assert "bulk route (1 runs)" in store.route
    assert caplog.messages == [f"the MLflow server {uri} is busy; it is asked again"]


def test_a_server_that_drops_the_connection_is_asked_again_and_that_is_said_in_our_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uri = f"http://me:hidden@127.0.0.1:{listener.getsockname()[1]}"

        def answer_the_fourth() -> None:
            for number in range(4):  # the first only sees whether anybody listens
                with listener.accept()[0] as asked:
                    if number and asked.recv(65_536) and number == 3:
                        asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer_the_fourth)
        thread.start()
        assert connection.Server(uri).call("GET", "/x") == {}
        thread.join()
    shown = uri.replace("me:hidden@", "")
    assert caplog.messages == [f"the MLflow server {shown} does not answer; it is asked again"]
    # What others ask is logged as before.
    logging.getLogger("urllib3.connectionpool").warning("Retrying (%r)", "theirs")
    assert caplog.messages[1:] == ["Retrying ('theirs')"]


def test_the_workspace_goes_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    with Proxy("http://127.0.0.1:9", lambda _: Answer(403, REFUSAL, JSON)) as server:
        with pytest.raises(TrackerError):
            collect("digits", uri=server.uri)
        assert {request.headers.get("x-mlflow-workspace") for request in server.requests} == {"team"}
