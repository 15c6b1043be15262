"""Reading MLflow's tables directly, in SQLite and in PostgreSQL: nothing written, nothing wrong, no secret told."""

from __future__ import annotations

import math
import os
import pwd
import sqlite3
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psycopg
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow_stores import Postgres
from mlflow_stores.postgres import PASSWORD, USER

from surge_sweeps.errors import MissingExtraError, SurgeError, TrackerError, UnknownNameError
from surge_sweeps.trackers import collect
from surge_sweeps.trackers.mlflow.database.opening import open_database
from surge_sweeps.trackers.mlflow.database.tables import DatabaseStore

Log = Callable[..., str]
LOSS = {"eval/loss": [(1, 2.0), (2, 1.0)]}
PARAMS = {"lr": 0.1, "batch_size": 8, "seed": 0}
BOTH = pytest.mark.parametrize("uri", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    """An empty store: SQLite, or PostgreSQL where the test says so."""
    if getattr(request, "param", "sqlite") == "postgres":
        return str(request.getfixturevalue("postgres_uri"))
    return f"sqlite:///{request.getfixturevalue('database')}"


def points(uri: str, project: str = "foreign", metric: str = "eval/loss") -> list[list[tuple[float, float]]]:
    with open_database(uri) as store:
        runs = [run.run for run in store.runs(store.experiment_id(project))]
        series = store.fetch(runs, metric, None).split()
    return [list(zip(series[run].step.tolist(), series[run].value.tolist(), strict=True)) for run in runs]


@BOTH
def test_every_kind_of_value_and_step_comes_back(uri: str, foreign_run: Log, client: MlflowClient) -> None:
    values = [1.0, math.nan, math.inf, -math.inf, 1.5e308, 5e-324, 0.1 + 0.2]
    run = foreign_run(PARAMS, {"eval/loss": list(enumerate(values, start=-2)), "other": [(0, 1.0)]})
    client.log_metric(run, "eval/loss", 7.0, timestamp=1_700_000_000_000_000_001, step=2**53)
    with open_database(uri) as store:
        series = store.fetch([run], "eval/loss", None)
        assert store.count([run], "eval/loss") == [8]
    np.testing.assert_array_equal(series.value, [*values, 7.0])
    assert series.step.tolist() == [-2, -1, 0, 1, 2, 3, 4, 2.0**53]
    assert series.timestamp[-1] == 1_700_000_000_000_000_001


def test_a_float_step_that_sqlite_keeps_is_read_as_it_stands(uri: str, foreign_run: Log) -> None:
    foreign_run(PARAMS, {"eval/loss": [(1, 2.0), (2.5, 1.0)]})  # type: ignore[list-item]
    assert points(uri) == [[(1.0, 2.0), (2.5, 1.0)]]


@pytest.mark.parametrize("column", ["step", "value", "timestamp"])
def test_text_where_a_number_should_be_is_said(uri: str, foreign_run: Log, column: str) -> None:
    run = foreign_run(PARAMS, LOSS)
    change(uri, f"UPDATE metrics SET {column} = 'soon' WHERE step = 2")
    with pytest.raises(TrackerError, match=f"'eval/loss' in the run {run} is no number"):
        points(uri)


@BOTH
def test_points_of_one_step_and_time_come_in_one_order_from_every_database(
    uri: str, foreign_run: Log, client: MlflowClient
) -> None:
    run = foreign_run(PARAMS, {})
    for step, time_ms, value in [(2, 5, 1.0), (1, 9, 3.0), (1, 9, math.nan), (1, 9, 2.0), (1, 8, 7.0)]:
        client.log_metric(run, "eval/loss", value, timestamp=time_ms, step=step)
    assert str(points(uri)) == str([[(1.0, 7.0), (1.0, 2.0), (1.0, 3.0), (1.0, math.nan), (2.0, 1.0)]])


@BOTH
def test_runs_come_in_the_order_asked_for_and_may_lack_the_metric(uri: str, foreign_run: Log) -> None:
    logged: list[list[tuple[int, float]]] = [[], [(0, 1.0)], [(0, 2.0)]]
    names = [foreign_run(PARAMS, {"eval/loss": series}) for series in logged]
    asked = [names[2], names[0], "no such run", names[1]]
    with open_database(uri) as store:
        series = store.fetch(asked, "eval/loss", None)
        assert store.count(asked, "eval/loss") == [1, 0, 0, 1] == series.rows.tolist()
        assert store.fetch([], "eval/loss", None).runs == ()
    assert series.runs == tuple(asked)
    assert series.value.tolist() == [2.0, 1.0]


@BOTH
def test_a_point_added_below_the_newest_after_the_end_is_seen(
    uri: str, foreign_run: Log, client: MlflowClient
) -> None:
    quiet, late = foreign_run(PARAMS, LOSS), foreign_run(PARAMS, LOSS)
    read_ms = int(time.time() * 1000)
    with open_database(uri) as store:
        before = store.runs(store.experiment_id("foreign"))
        assert store.touched("eval/loss", read_ms) == set()
    client.log_metric(late, "eval/loss", 9.0, step=0)
    with open_database(uri) as store:
        assert store.runs(store.experiment_id("foreign")) == before
        assert store.touched("eval/loss", read_ms) == {late}
        assert store.touched("train/loss", read_ms) == set()
        assert store.count([quiet, late], "eval/loss") == [2, 3]


@BOTH
def test_nothing_can_be_written(uri: str, foreign_run: Log) -> None:
    foreign_run(PARAMS, LOSS)
    with (
        pytest.raises(TrackerError, match=r"readonly database|read-only transaction"),
        open_database(uri) as store,
    ):
        run_anything(store, "DELETE FROM metrics")
    assert points(uri) == [[(1.0, 2.0), (2.0, 1.0)]]


@BOTH
def test_a_deleted_experiment_and_one_of_another_workspace(
    uri: str, foreign_run: Log, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_run(PARAMS, LOSS, project="gone")
    number = client.get_experiment_by_name("gone").experiment_id
    client.delete_experiment(number)
    with pytest.raises(TrackerError, match=f"mlflow experiments restore --experiment-id {number}"):
        collect("gone", uri=uri)
    client.restore_experiment(number)
    monkeypatch.setenv("MLFLOW_WORKSPACE", "another")
    with pytest.raises(UnknownNameError, match=r"Valid.*: none"):
        collect("gone", uri=uri)


@BOTH
def test_of_many_experiments_the_nearest_names_are_listed(uri: str, client: MlflowClient) -> None:
    for index in range(100):
        client.create_experiment(f"sweep-{index:03d}")
    client.create_experiment("digits")
    with pytest.raises(UnknownNameError) as caught:
        collect("swep-042", uri=uri)
    assert "nearest first: sweep-042" in str(caught.value)
    assert "digits" not in str(caught.value)
    assert len(str(caught.value)) < 500


@BOTH
def test_a_sweep_that_writes_is_read_without_a_torn_batch(
    uri: str, foreign_run: Log, client: MlflowClient
) -> None:
    run = foreign_run(PARAMS, {"eval/loss": [(step, 1.0) for step in range(10)]}, status=None)

    def write() -> None:
        for start in range(10, 300, 10):
            batch = [
                Metric("eval/loss", 1.0, 1_700_000_000_000 + step, step) for step in range(start, start + 10)
            ]
            client.log_batch(run, batch)

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(len(points(uri)[0]))
    writer.join()
    seen.append(len(points(uri)[0]))
    assert seen == sorted(seen)
    assert {count % 10 for count in seen} == {0}
    assert seen[-1] == 300


@pytest.mark.parametrize("index", ["index_metrics_run_uuid_key_step", "index_metrics_run_uuid", ""])
def test_points_are_found_by_the_run_and_never_by_a_scan_of_the_metric_in_all_runs(
    uri: str, foreign_run: Log, index: str
) -> None:
    run = foreign_run(PARAMS, LOSS)
    others = {"index_metrics_run_uuid_key_step", "index_metrics_run_uuid"} - {index}
    for other in others if index != "index_metrics_run_uuid_key_step" else ():
        change(uri, f"DROP INDEX {other}")
    with open_database(uri) as store:
        statements: list[str] = []
        store._connection.set_trace_callback(statements.append)  # type: ignore[attr-defined]
        assert store.fetch([run], "eval/loss", None).value.tolist() == [2.0, 1.0]
        assert store.count([run], "eval/loss") == [2]
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        plans = [str(connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchone()[3]) for text in statements]
    assert len(plans) == 2
    assert all(f"INDEX {index or 'sqlite_autoindex_metrics_1'} " in plan for plan in plans), plans


def test_a_store_that_is_locked_for_a_while_is_waited_for(uri: str, database: Path, foreign_run: Log) -> None:
    foreign_run(PARAMS, LOSS)
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(1.0, holder.execute, ["ROLLBACK"])
        release.start()
        began = time.monotonic()
        assert len(points(uri)[0]) == 2
        assert time.monotonic() - began > 0.5
        release.join()


def test_what_still_stands_in_the_log_beside_the_file_is_read(
    uri: str, database: Path, foreign_run: Log
) -> None:
    run = foreign_run(PARAMS, LOSS)
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        size = database.stat().st_size
        writer.execute("INSERT INTO metrics VALUES ('eval/loss', 0.5, 9, ?, 3, 0)", (run,))
        assert database.stat().st_size == size
        assert points(uri) == [[(1.0, 2.0), (2.0, 1.0), (3.0, 0.5)]]


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_store_in_a_folder_that_cannot_be_written(
    database: Path, uri: str, foreign_run: Log, journal: str
) -> None:
    foreign_run(PARAMS, LOSS)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mlflow.db").write_bytes(database.read_bytes())
        folder.chmod(0o555)
        with without_rights():
            read = f"sqlite:///{folder}/mlflow.db"
            if journal == "DELETE":
                assert points(read) == [[(1.0, 2.0), (2.0, 1.0)]]
            else:
                with pytest.raises(TrackerError, match=r"mlflow\.db-shm beside it.*copy mlflow\.db"):
                    points(read)
        folder.chmod(stat.S_IRWXU)
        assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db"]


@pytest.mark.parametrize("revision", ["89d4b8295536", "bd07f7e963c5", "400f98739977"])
def test_a_store_of_an_older_schema_is_read(tmp_path: Path, revision: str) -> None:
    uri = f"sqlite:///{tmp_path}/old.db"
    make_schema(uri, revision)
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection, connection:
        fill_old(connection)
    before = (tmp_path / "old.db").read_bytes()
    curves = collect("old", uri=uri, step="_step")
    np.testing.assert_array_equal(curves.points["loss"], [2.0, np.nan])
    assert curves.runs[["lr", "batch_size", "status"]].iloc[0].tolist() == [0.1, 8, "diverged"]
    assert (tmp_path / "old.db").read_bytes() == before


@pytest.mark.parametrize(
    ("revision", "lacking"),
    [(None, "'is_nan'"), ("451aebb31d03", "'is_nan'"), ("7ac759974ad8", "'latest_metrics'")],
)
def test_a_store_that_is_too_old_is_refused_with_what_mends_it(
    tmp_path: Path, revision: str | None, lacking: str
) -> None:
    uri = f"sqlite:///{tmp_path}/old.db"
    make_schema(uri, revision)
    change(uri, "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (1, 'old', 'active')")
    with pytest.raises(TrackerError, match=f"{lacking}.*very old.*mlflow db upgrade"):
        collect("old", uri=uri)


@BOTH
def test_a_schema_from_the_future_is_read_where_the_columns_are_there_and_else_refused(
    uri: str, foreign_run: Log
) -> None:
    foreign_run(PARAMS, LOSS)
    change(uri, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    assert len(points(uri)[0]) == 2
    change(uri, "ALTER TABLE latest_metrics RENAME COLUMN is_nan TO flags")
    with pytest.raises(TrackerError, match=r"'is_nan'.*\(ffffffffffff\) is newer.*Update surge-sweeps"):
        collect("foreign", uri=uri)


def test_a_database_that_is_no_store(postgres: Postgres, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE runs (name)")
    for uri in (postgres.empty_database(), f"sqlite:///{other}"):
        with pytest.raises(TrackerError, match=r"holds no MLflow tables.*MLFLOW_TRACKING_URI"):
            collect("demo", uri=uri)


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://{user}:{password}@127.0.0.1:{port}/{database}",
        "postgresql+psycopg2://{user}:{password}@127.0.0.1:{port}/{database}?sslmode=prefer",
        "postgresql+psycopg://{user}:{password}@/{database}?host=127.0.0.1:{port}",
        "postgresql://{user}@127.0.0.1:{port}/{database}?password={password}&application_name=a%20b",
        "postgresql://{user}:{password}@127.0.0.1:{port}/{database}?options=-csearch_path%3Dpublic",
        "postgresql:///{database}",
    ],
)
def test_every_form_of_address_is_understood(
    postgres: Postgres, postgres_uri: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    MlflowClient(postgres_uri).create_experiment("demo")
    if "password" not in form:
        for name, value in {
            "HOST": "127.0.0.1",
            "PORT": postgres.port,
            "USER": USER,
            "PASSWORD": PASSWORD,
        }.items():
            monkeypatch.setenv(f"PG{name}", str(value))
    database = postgres_uri.rpartition("/")[2]
    uri = form.format(user=USER, password=quote(PASSWORD, safe=""), port=postgres.port, database=database)
    assert len(collect("demo", uri=uri).runs) == 0


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("postgresql://{user}:hunter2@127.0.0.1:{port}/x", "password authentication failed.*Check the user"),
        ("postgresql://{user}:{password}@127.0.0.1:{port}/absent", '"absent" does not exist.*Mend the name'),
        ("postgresql://me:hunter2@127.0.0.1:9/x", "Connection refused.*See that the server runs"),
        ("postgresql://me:hun@ter2@127.0.0.1/x", "cannot be read.*write @ as %40"),
        (
            "postgresql://me:hunter2@127.0.0.1:{port}/x?sslmod=off&token=hunter2",
            "invalid connection option.*Mend",
        ),
        ("postgresql://me:hunter2@127.0.0.1:many/x", "invalid.*port.*Mend"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_without_its_secrets(
    postgres: Postgres, form: str, said: str
) -> None:
    uri = form.format(user=USER, password=quote(PASSWORD, safe=""), port=postgres.port)
    with pytest.raises(TrackerError, match=f"(?s){said}") as caught:
        collect("demo", uri=uri)
    told = "".join(traceback.format_exception(caught.value))
    for secret in ("hunter2", "ter2", PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in told


@pytest.mark.parametrize("uri", ["postgres"], indirect=True)
def test_a_user_who_may_only_read_reads_and_one_who_may_not_is_told_what_to_ask_for(
    uri: str, postgres: Postgres, foreign_run: Log
) -> None:
    foreign_run(PARAMS, LOSS)
    database = uri.rpartition("/")[2]
    role = f"reader_{database}"
    address = postgres.address(database, user=role, password="only reads")
    change(uri, f"CREATE ROLE {role} LOGIN PASSWORD 'only reads'")
    with pytest.raises(TrackerError, match=r"permission denied for table \w+.*GRANT SELECT"):
        collect("foreign", uri=address)
    change(uri, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    assert collect("foreign", uri=address).points["loss"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("uri", ["postgres"], indirect=True)
def test_a_parent_that_begins_while_runs_are_listed_is_not_taken_for_a_trial(
    uri: str, foreign_run: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = foreign_run(PARAMS, LOSS)
    begun: list[str] = []
    with open_database(uri) as store:
        number, query_rows = store.experiment_id("foreign"), store._rows

        def rows(query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
            found = list(query_rows(query, values))
            if not begun:
                begun.append(foreign_run(PARAMS, LOSS, tags={"surge.kind": "sweep"}))
            return found

        monkeypatch.setattr(store, "_rows", rows)
        assert [run.run for run in store.runs(number)] == [trial]
    assert begun


@pytest.mark.parametrize("uri", ["postgres"], indirect=True)
def test_a_connection_that_is_cut_is_a_sentence(uri: str, foreign_run: Log) -> None:
    foreign_run(PARAMS, LOSS)
    ours = "application_name = 'to be cut'"

    def cut_off() -> None:
        with open_database(f"{uri}?application_name=to%20be%20cut") as store:
            assert store.experiment_id("foreign") > 0
            change(uri, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
            store.experiment_id("foreign")

    with pytest.raises(TrackerError, match="call the same command again"):
        cut_off()


def test_without_psycopg_the_line_that_installs_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'surge-sweeps\[mlflow\]'"):
        collect("demo", uri="postgresql://127.0.0.1:9/x")


@BOTH
def test_an_axis_of_another_metric_is_refused(uri: str) -> None:
    with pytest.raises(SurgeError, match="carry their own step"), open_database(uri) as store:
        store.fetch(["a"], "eval/loss", "examples")


def run_anything(store: DatabaseStore, statement: str) -> None:
    with store._moment():
        list(store._rows(statement))


def change(uri: str, statement: str) -> None:
    """Change a store behind MLflow's back."""
    if uri.startswith("sqlite"):
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute(statement)
    else:
        with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as server:
            server.execute(statement.encode())


def make_schema(uri: str, revision: str | None) -> None:
    """A store as the MLflow of that revision made it; None: before the first revision."""
    import sqlalchemy
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    engine.dispose()
    if revision is not None:
        command.upgrade(_get_alembic_config(uri), revision)


def fill_old(connection: sqlite3.Connection) -> None:
    """One run that ended with a NaN, in the columns that every schema has."""
    rows: dict[str, Sequence[tuple[Any, ...]]] = {
        "experiments (experiment_id, name, lifecycle_stage)": [(1, "old", "active")],
        "runs (run_uuid, status, start_time, end_time, lifecycle_stage, experiment_id)": [
            ("a", "FINISHED", 1, 2, "active", 1)
        ],
        "params (key, value, run_uuid)": [("lr", "0.1", "a"), ("batch_size", "8", "a")],
        "metrics (key, value, timestamp, run_uuid, step, is_nan)": [
            ("loss", 2.0, 1, "a", 1, 0),
            ("loss", 0.0, 2, "a", 2, 1),
        ],
        "latest_metrics (key, value, timestamp, run_uuid, step, is_nan)": [("loss", 0.0, 2, "a", 2, 1)],
    }
    for table, values in rows.items():
        places = ", ".join("?" * len(values[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({places})", values)


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user who is not root, whom no folder refuses anything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
