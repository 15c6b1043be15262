"""The file of a new MLflow store: whole or not there, whatever kills its maker."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from forked_python import ForkedPython

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow import file as mlflow_file
from surge_sweeps.trackers.mlflow.client import connect

OPEN = "import sys; from surge_sweeps.trackers.mlflow.client import connect; connect(sys.argv[1])"
START_LIMIT_S = 60.0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def kill_while_making(path: Path, delay_s: float) -> None:
    with ForkedPython(["-c", OPEN, f"sqlite:///{path}"]) as process:
        deadline = time.monotonic() + START_LIMIT_S
        while not names(path.parent) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay_s)
        process.kill()


def test_a_store_whose_maker_is_killed_is_made_whole_by_the_next(
    tmp_path: Path, record: Callable[..., RunRecord]
) -> None:
    path = tmp_path / "new.db"
    killed = 0
    for delay_s in (0.05, 0.4, 0.8):
        kill_while_making(path, delay_s)
        killed += not path.exists()
        for left in tmp_path.iterdir():
            if path.exists():
                left.unlink()
    assert killed
    uri = f"sqlite:///{path}"
    tracker = open_tracker("mlflow", "demo", uri)
    tracker.open_sweep("s1", "digits", {})
    tracker.write_runs("s1", [record("t1")])
    tracker.close()
    assert collect("demo", uri=uri).runs["trial_id"].tolist() == ["t1"]
    assert names(tmp_path) == ["new.db"]
    with closing(sqlite3.connect(path)) as connection:
        places = connection.execute("SELECT artifact_location FROM experiments").fetchall()
    assert len(places) == 2
    assert not [place for (place,) in places if "tmp" in Path(place).suffix or ".new.db" in place]


def test_a_stop_while_a_store_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow.store.db.utils._upgrade_db", stop)
    with pytest.raises(KeyboardInterrupt):
        connect(f"sqlite:///{tmp_path / 'new.db'}")
    assert names(tmp_path) == []
    monkeypatch.undo()
    connect(f"sqlite:///{tmp_path / 'new.db'}")
    assert names(tmp_path) == ["new.db"]


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    client = connect(f"sqlite:///{path}")
    client.create_experiment("demo")
    assert names(tmp_path) == ["empty.db"]
    assert len(collect("demo", uri=f"sqlite:///{path}").runs) == 0


@pytest.mark.parametrize("content", [b"theirs", b""], ids=["whole", "empty"])
def test_a_store_that_another_process_made_meanwhile_stays(tmp_path: Path, content: bytes) -> None:
    ours, path = tmp_path / ".ours", tmp_path / "mlflow.db"
    ours.write_bytes(b"ours")
    path.write_bytes(content)
    mlflow_file._move_into_place(ours, path)
    assert path.read_bytes() == (content or b"ours")


@pytest.fixture
def half_made(empty_store: Path, tmp_path: Path) -> Path:
    path = Path(shutil.copy(empty_store, tmp_path / "half.db"))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP TABLE webhook_events; UPDATE alembic_version SET version_num = '451aebb31d03'"
        )
    return path


def test_a_store_whose_making_was_cut_off_is_said_with_the_way_out(half_made: Path) -> None:
    with pytest.raises(TrackerError, match=r"half\.db cannot be opened .* cut off.* Delete that file"):
        connect(f"sqlite:///{half_made}")


def test_a_broken_store_that_holds_runs_is_never_called_safe_to_delete(half_made: Path) -> None:
    with closing(sqlite3.connect(half_made)) as connection:
        connection.execute("INSERT INTO runs (run_uuid, experiment_id) VALUES ('a', 0)")
        connection.commit()
    with pytest.raises(TrackerError, match="could not be opened") as caught:
        connect(f"sqlite:///{half_made}")
    assert "elete" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("other.db", "sqlite:///other.db"),
        ("/nowhere/x.sqlite3", "sqlite:////nowhere/x.sqlite3"),
        ("127.0.0.1:5931", "http://127.0.0.1:5931"),
        ("login01:5000/mlflow", "http://login01:5000/mlflow"),
    ],
)
def test_an_address_without_its_beginning_is_told_what_it_should_be(
    given: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for way in (
        lambda: collect("p", tracker="mlflow", uri=given),
        lambda: open_tracker("mlflow", "p", given),
    ):
        with pytest.raises(TrackerError) as caught:
            way()
        assert caught.value.hint == f"Did you mean {meant}?"
    assert not list(tmp_path.iterdir())
