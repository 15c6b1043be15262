"""The doctor against real stores: it sees what is wrong, mends it for good, and writes nothing before."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from forked_python import ForkedPython

pytest.importorskip("mlflow")

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow_stores import MlflowServer

from surge_sweeps.errors import TrackerError, UnknownNameError
from surge_sweeps.progress import no_progress
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow.doctor import disk, points
from surge_sweeps.trackers.mlflow.doctor.examine import examine
from surge_sweeps.trackers.mlflow.doctor.finding import Finding
from surge_sweeps.trackers.mlflow.doctor.server import installed_version, server_findings
from surge_sweeps.trackers.mlflow.schema import open_to_read
from surge_sweeps.trackers.mlflow.server_probe import ServerLook, look_at_server
from surge_sweeps.trackers.mlflow.writer import MlflowTracker

HOUR_MS = 3_600_000
#: A sweep of which one trial is done and one is being written when the process says so.
WRITER = """
import sys, time
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow.writer import MlflowTracker
tracker = MlflowTracker("killed", sys.argv[1])
tracker.open_sweep("s1", "grid", {"name": "grid"})
tracker.write_runs("s1", [RunRecord({"lr": 0.1, "batch_size": 8}, "t1", "finished", {"train/loss": [(0, 1.0)]})])
tracker.start_run("s1", "t2", {"lr": 0.2, "batch_size": 8}).log(0, {"train/loss": 1.0})
print("at work", flush=True)
time.sleep(600)
"""


def now_ms() -> int:
    return int(time.time() * 1000)


def found(uri: str, project: str | None = None, **options: Any) -> dict[str, Finding]:
    return {finding.code: finding for finding in examine(uri, project, **options).findings}


def mend(finding: Finding) -> str:
    assert finding.mend is not None
    return finding.mend(no_progress)


def age(path: Path, by_ms: int) -> None:
    """Make everything in the store as old as if it had been written that much earlier."""
    with closing(sqlite3.connect(path)) as connection:
        for table in ("metrics", "latest_metrics"):
            connection.execute(f"UPDATE {table} SET timestamp = timestamp - ?", (by_ms,))
        connection.execute(
            "UPDATE runs SET start_time = start_time - ?, end_time = end_time - ?", (by_ms, by_ms)
        )
        connection.commit()


def add_points(path: Path, run: str, count: int) -> None:
    rows = [("loss", 1.0, step, run, step) for step in range(count)]
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, 0)", rows)
        connection.commit()


def test_a_sound_store_has_no_findings(uri: str, record: Callable[..., RunRecord]) -> None:
    tracker = MlflowTracker("sound", uri)
    tracker.open_sweep("s1", "grid", {"name": "grid"})
    tracker.write_runs("s1", [record("t1"), record("t2", "diverged")])
    tracker.close()
    seen = examine(uri)
    assert seen.findings == []
    assert (seen.runs, seen.experiments) == (3, 2)


def test_what_a_killed_launch_left_open_is_closed_once_and_for_all(uri: str, database: Path) -> None:
    with ForkedPython(["-c", WRITER, uri]) as writer:
        assert writer.stdout.readline() == "at work\n"
        assert examine(uri).findings == []  # it is at work
        writer.kill()
    assert examine(uri).findings == []  # nobody can know yet
    age(database, 2 * HOUR_MS)

    before = database.read_bytes()
    seen = found(uri)
    assert set(seen) == {"stale-trials", "stale-parents"}
    assert database.read_bytes() == before
    assert found(uri, "Default") == {}
    for finding in seen.values():
        assert mend(finding) == "1 run ended"
    assert examine(uri).findings == []

    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("killed").experiment_id])
    states = {run.data.tags.get("surge.trial_id"): run for run in runs}
    assert {trial: run.info.status for trial, run in states.items()} == {
        None: "KILLED",
        "t1": "FINISHED",
        "t2": "KILLED",
    }
    assert states["t2"].data.tags["surge.status"] == "crashed"
    assert states["t2"].info.end_time < now_ms() - HOUR_MS  # when it was last alive, not now
    assert "surge.status" not in states[None].data.tags
    assert dict(MlflowTracker("killed", uri).done_trials()) == {"t1": "finished"}


@pytest.mark.parametrize("unit_s", [1.0, 1e6], ids=["seconds", "no time"])
def test_a_run_at_work_whose_points_are_not_stamped_in_milliseconds_is_left_alone(
    uri: str, client: MlflowClient, foreign_run: Callable[..., str], unit_s: float
) -> None:
    run = foreign_run({}, {}, status=None, time_ms=now_ms() - 10 * HOUR_MS)
    client.log_metric(run, "loss", 1.0, timestamp=int(time.time() / unit_s), step=1)
    assert "stale-runs" not in found(uri)


def test_a_run_whose_last_point_is_hours_old_in_seconds_ends_then(
    uri: str, client: MlflowClient, foreign_run: Callable[..., str]
) -> None:
    run = foreign_run({}, {}, status=None, time_ms=now_ms() - 10 * HOUR_MS)
    last_s = int(time.time()) - 7200
    client.log_metric(run, "loss", 1.0, timestamp=last_s, step=1)
    assert mend(found(uri)["stale-runs"]) == "1 run ended"
    assert client.get_run(run).info.end_time == 1000 * last_s


def test_a_result_that_only_looks_open_keeps_its_status(uri: str, foreign_run: Callable[..., str]) -> None:
    tags = {"surge.kind": "trial", "surge.trial_id": "t1", "surge.status": "diverged"}
    run = foreign_run({}, {"train/loss": [(0, 1.0)]}, status=None, time_ms=1_700_000_000_000, tags=tags)
    mend(found(uri)["stale-trials"])
    after = MlflowClient(uri).get_run(run)
    assert (after.info.status, after.data.tags["surge.status"]) == ("FINISHED", "diverged")


def test_runs_of_other_programs_get_no_tag_and_one_that_woke_up_stays(
    uri: str, client: MlflowClient, foreign_run: Callable[..., str]
) -> None:
    dead = foreign_run({}, {"loss": [(0, 1.0)]}, status=None, time_ms=1_700_000_000_000)
    woken = foreign_run({}, {"loss": [(0, 1.0)]}, status=None, time_ms=1_700_000_000_000)
    finding = found(uri)["stale-runs"]
    assert len(finding.items) == 2
    client.log_metric(woken, "loss", 0.5, timestamp=now_ms(), step=1)
    assert mend(finding) == "1 run ended; 1 run changed meanwhile and left alone"
    assert client.get_run(dead).info.status == "KILLED"
    assert "surge.status" not in client.get_run(dead).data.tags
    assert client.get_run(woken).info.status == "RUNNING"


def test_a_parent_is_at_work_while_its_children_are(
    uri: str, client: MlflowClient, foreign_run: Callable[..., str]
) -> None:
    parent = foreign_run({}, {}, status=None, time_ms=1_700_000_000_000)
    child = foreign_run({}, {}, status=None, time_ms=now_ms(), tags={"mlflow.parentRunId": parent})
    client.set_tag(parent, "mlflow.parentRunId", child)  # a circle, as nobody keeps users from making
    assert found(uri) == {}


def test_open_runs_may_be_those_of_a_launch_in_this_folder(uri: str, foreign_run: Callable[..., str]) -> None:
    foreign_run({}, {}, status=None, time_ms=1_700_000_000_000, tags={"surge.kind": "sweep"})
    finding = found(uri, is_launching=True)["stale-parents"]
    assert finding.mend is None
    assert "launch is running" in finding.remedy


def test_statistics_make_sqlite_take_the_right_index(
    uri: str, database: Path, foreign_run: Callable[..., str]
) -> None:
    run = foreign_run({}, {"loss": [(-1, 1.0)]})
    for _ in range(3):
        foreign_run({}, {"loss": [(0, 1.0)]})
    add_points(database, run, 30_000)

    def plan() -> str:
        query = "EXPLAIN QUERY PLAN SELECT value FROM metrics WHERE run_uuid = 'x' AND key = 'loss'"
        with closing(sqlite3.connect(database)) as connection:
            return str(connection.execute(query).fetchone())

    assert "index_metrics_run_uuid_key_step" not in plan()
    seen = examine(uri)
    assert [finding.code for finding in seen.findings] == ["no-statistics"]
    assert seen.points == 30_004
    mend(seen.findings[0])
    assert "index_metrics_run_uuid_key_step" in plan()
    assert examine(uri).findings == []


def test_a_locked_store_is_said_and_the_finding_stays(
    uri: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP INDEX index_metrics_run_uuid_key_step")
    finding = found(uri)["missing-index"]
    monkeypatch.setattr("surge_sweeps.trackers.mlflow.doctor.writing._LOCK_WAIT_S", 0.1)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackerError, match=r"could not be mended: database is locked"):
            mend(finding)
    mend(finding)
    assert found(uri) == {}


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A store as MLflow made it at the end of 2025, before its newest index."""
    import sqlalchemy
    from alembic import command
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    path = tmp_path / "older.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        config = utils._get_alembic_config(str(engine.url))
        config.attributes["connection"] = connection
        command.upgrade(config, "c3d6457b6d8a")
    engine.dispose()
    return path


def test_an_older_store_is_upgraded_after_a_backup(older: Path) -> None:
    before = older.read_bytes()
    with closing(sqlite3.connect(older)) as connection:
        version = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    uri = f"sqlite:///{older}"
    seen = found(uri)
    assert set(seen) == {"older-schema"}
    assert older.read_bytes() == before
    said = mend(seen["older-schema"])
    (backup,) = older.parent.glob("older.db.backup-*")
    assert backup.name in said
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == version
    assert found(uri) == {}
    MlflowClient(uri).create_experiment("new")
    assert not list(older.parent.glob(".*"))


def test_without_room_for_a_backup_nothing_is_changed(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = older.read_bytes()
    usage = shutil.disk_usage(older.parent)
    full = type(usage)(usage.total, usage.total - 1000, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: full)
    with pytest.raises(TrackerError, match="Make room"):
        mend(found(f"sqlite:///{older}")["older-schema"])
    assert older.read_bytes() == before
    assert [path.name for path in older.parent.iterdir()] == ["older.db"]


def test_wal_is_a_hint_for_several_writers_on_a_local_disk(
    uri: str, database: Path, foreign_run: Callable[..., str]
) -> None:
    foreign_run({}, {"loss": [(1, 1.0)]}, status=None, time_ms=now_ms())
    assert found(uri) == {}
    foreign_run({}, {"loss": [(1, 1.0)]}, status=None, time_ms=now_ms())
    finding = found(uri)["no-wal"]
    assert not finding.is_fault
    mend(finding)
    assert found(uri) == {}
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_network_disk_is_said_and_gets_no_wal(
    uri: str, tmp_path: Path, foreign_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {tmp_path.resolve()} rw - nfs4 server:/home rw\n"
    )
    monkeypatch.setattr(disk, "_MOUNTS", mounts)
    for _ in range(2):
        foreign_run({}, {"loss": [(1, 1.0)]}, status=None, time_ms=now_ms())
    seen = found(uri)
    assert set(seen) == {"network-disk"}
    assert "nfs4" in seen["network-disk"].what


def test_points_without_steps_twice_at_a_step_and_results_that_contradict(
    uri: str, client: MlflowClient, foreign_run: Callable[..., str]
) -> None:
    stepless = foreign_run({}, {"loss": [(0, 2.0), (0, 1.0)], "time": [(0, 1.0)]})
    foreign_run({}, {"loss": [(0, 2.0), (1, 1.0)]})
    tags = {"surge.kind": "trial", "surge.trial_id": "t1", "surge.status": "finished"}
    twice = foreign_run({}, {"train/loss": [(1, 2.0), (2, 1.0), (2, 1.5)]}, tags=tags)
    nan = foreign_run({}, {"train/loss": [(1, float("nan"))]}, tags=tags)
    inf = foreign_run({}, {"eval/loss": [(1, float("inf"))]}, tags=tags | {"surge.trial_id": "t2"})
    deleted = foreign_run({}, {"loss": [(0, 2.0), (0, 1.0)]})
    client.delete_run(deleted)

    seen = found(uri)
    assert set(seen) == {"one-step", "broken-results", "repeated-trials", "doubled-points"}
    assert [finding.code for finding in seen.values() if not finding.is_fault] == [
        "repeated-trials",
        "doubled-points",
    ]
    assert all(finding.mend is None for finding in seen.values())

    def named(code: str) -> set[str]:
        return {item.rpartition("(")[2].rstrip(")") for item in seen[code].items}

    assert named("one-step") == {stepless}
    assert "'loss' of 1" in seen["one-step"].what
    assert named("broken-results") == {nan, inf}
    assert named("repeated-trials") == {twice, nan}
    assert named("doubled-points") == {twice}


def test_a_look_for_doubled_points_that_took_too_long_says_so(
    uri: str, foreign_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        tags = {"surge.kind": "trial", "surge.trial_id": f"t{number}", "surge.status": "finished"}
        foreign_run({}, {"train/loss": [(1, 2.0), (2, 1.0), (2, 1.5)]}, tags=tags)
    monkeypatch.setattr(points, "_RUNS_AT_ONCE", 1)
    monkeypatch.setattr(points, "_LIMIT_S", -1.0)
    assert "0 of 3 trials were looked at" in found(uri)["doubled-points-unknown"].what
    monkeypatch.setattr(points, "_LIMIT_S", 60.0)
    assert "doubled-points-unknown" not in found(uri)


def test_postgresql_is_looked_at_and_mended_too(postgres_uri: str) -> None:
    import sqlalchemy

    client = MlflowClient(postgres_uri)
    number = client.create_experiment("pg")
    dead = client.create_run(number, start_time=1_700_000_000_000, tags={"surge.kind": "trial"}).info.run_id
    tags = {"surge.kind": "trial", "surge.trial_id": "t1", "surge.status": "finished"}
    broken = client.create_run(number, tags=tags).info.run_id
    client.log_batch(
        broken,
        [Metric("train/loss", float("inf"), 5, 0), Metric("train/loss", 1.0, 4, 0)],
    )
    client.set_terminated(broken)
    engine = sqlalchemy.create_engine(postgres_uri, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("ALTER TABLE metrics SET (autovacuum_enabled = false)")
        connection.exec_driver_sql(
            "INSERT INTO metrics SELECT 'loss', 1.0, s, %(run)s, s, false FROM generate_series(1, 30000) s",
            {"run": dead},
        )
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    engine.dispose()
    deadline = time.monotonic() + 30
    while not examine(postgres_uri).points and time.monotonic() < deadline:
        time.sleep(0.1)

    seen = found(postgres_uri)
    assert set(seen) == {"stale-trials", "no-statistics", "broken-results", "one-step", "doubled-points"}
    for code in ("stale-trials", "no-statistics"):
        mend(seen[code])
    left = found(postgres_uri)
    assert set(left) == {"broken-results", "one-step", "doubled-points"}
    assert client.get_run(dead).info.status == "KILLED"


def test_a_server_is_looked_at_from_outside(shared_server: MlflowServer) -> None:
    client = MlflowClient(shared_server.uri)
    number = client.create_experiment("doctor through a server")
    run = client.create_run(number, start_time=1_700_000_000_000, tags={"surge.kind": "trial"}).info.run_id
    seen = found(shared_server.uri, "doctor through a server")
    assert set(seen) == {"stale-trials"}
    mend(seen["stale-trials"])
    assert client.get_run(run).data.tags["surge.status"] == "crashed"
    assert found(shared_server.uri, "doctor through a server") == {}

    look = look_at_server(shared_server.uri)
    assert look == ServerLook(installed_version(), None, has_bulk_history=True)
    refused = found(f"http://127.1:{shared_server.port}")
    assert set(refused) == {"host-refused"}
    assert "--allowed-hosts '127.1,127.1:*" in refused["host-refused"].remedy


@pytest.mark.parametrize(
    ("look", "codes"),
    [
        (ServerLook("1.20.0", None, has_bulk_history=False), ["old-server", "version-mismatch"]),
        (ServerLook("2.22.0", None, has_bulk_history=True), ["version-mismatch"]),
        (ServerLook("99.0.0", None, has_bulk_history=True), ["version-mismatch"]),
        (ServerLook(None, None, has_bulk_history=True), ["no-version"]),
        (ServerLook("3.0.0", "login01", has_bulk_history=False), ["host-refused"]),
    ],
)
def test_what_a_server_says_of_itself(look: ServerLook, codes: list[str]) -> None:
    assert [finding.code for finding in server_findings("http://login01:5000", look)] == codes


def test_an_unknown_project_and_no_store_are_said(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Default"):
        examine(uri, "Defualt")
    with pytest.raises(TrackerError, match="no MLflow store"):
        examine(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(TrackerError, match="migrate-filestore"):
        examine(str(tmp_path))


@pytest.mark.parametrize("kind", ["uri", "postgres_uri"])
def test_what_is_opened_to_read_refuses_to_write(kind: str, request: pytest.FixtureRequest) -> None:
    store = request.getfixturevalue(kind)
    with pytest.raises(TrackerError, match=r"read-?only"), open_to_read(store) as connection:
        connection.exec_driver_sql("DELETE FROM experiments")
