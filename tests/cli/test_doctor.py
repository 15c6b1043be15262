"""`surge-sweep doctor` at the terminal: only looks until the user agrees, then mends, and says so to scripts."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result

pytest.importorskip("mlflow")

from mlflow import MlflowClient

from surge_sweeps.cli.sweep import app

OLD_MS = 1_700_000_000_000
LIMIT_S = 60.0


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a stale run of another program and without an index; the working folder is its own."""
    monkeypatch.chdir(tmp_path)
    path = Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))
    client = MlflowClient(f"sqlite:///{path}")
    client.create_run(client.create_experiment("digits"), start_time=OLD_MS, run_name="a\x1b[2J")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX index_metrics_run_uuid_key_step")
    return path


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_without_a_terminal_it_only_looks(store: Path) -> None:
    before = store.read_bytes()
    done = doctor()
    assert done.exit_code == 1
    assert "0 mended, 2 left." in done.output
    assert "--yes" in done.output
    assert "\x1b" not in done.output
    assert store.read_bytes() == before
    assert sorted(path.name for path in store.parent.iterdir()) == ["mlflow.db"]


def test_with_yes_it_mends_and_a_second_look_finds_nothing(store: Path) -> None:
    done = doctor("--yes")
    assert done.exit_code == 0, done.output
    assert "2 mended, 0 left." in done.output
    again = doctor("--yes")
    assert again.exit_code == 0
    assert "Nothing is wrong." in again.output


def test_scripts_get_json_and_the_exit_code(store: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "digits", "--json"])
    assert done.exit_code == 1
    seen = json.loads(done.stdout)
    assert [(item["code"], item["can_mend"], item["state"]) for item in seen["findings"]] == [
        ("missing-index", True, "left"),
        ("stale-runs", True, "left"),
    ]
    assert (seen["runs"], seen["experiments"]) == (1, 1)
    mended = CliRunner().invoke(app, ["doctor", "--json", "--yes"])
    assert mended.exit_code == 0
    assert {item["state"] for item in json.loads(mended.stdout)["findings"]} == {"mended"}
    assert json.loads(doctor("--json").stdout)["findings"] == []


def test_one_that_cannot_be_mended_does_not_keep_it_from_the_others(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(store)) as other:
        # An older schema, on a disk whose room is said to be gone.
        other.execute("UPDATE alembic_version SET version_num = 'c3d6457b6d8a'")
        other.commit()
    usage = shutil.disk_usage(store)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type(usage)(usage.total, usage.total, 0))
    done = doctor("--yes")
    assert done.exit_code == 1
    assert "Not mended: the disk of" in done.output.replace("\n   ", " ")
    assert "1 mended, 1 left." in done.output


def test_while_a_launch_runs_here_sweeps_are_left_alone(store: Path) -> None:
    client = MlflowClient(f"sqlite:///{store}")
    client.create_run("1", start_time=OLD_MS, tags={"surge.kind": "sweep"})
    lock = store.parent / ".surge" / "launch.lock"
    lock.parent.mkdir()
    with FileLock(lock):
        done = doctor("--yes")
        assert done.exit_code == 1
        assert "2 mended, 1 left." in done.output
    assert doctor("--yes").exit_code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_on_a_terminal_it_asks_for_each(store: Path) -> None:
    import pty
    import select

    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "surge_sweeps.cli", "doctor"])
    said, answered = b"", 0
    answers = [b"n\n", b"y\n"]
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        said += part
        if not part:
            break
        if said.count(b"[y/N]:") > answered:
            os.write(terminal, answers[answered])
            answered += 1
    else:
        os.kill(child, 9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1, said.decode()
    os.close(terminal)
    assert answered == 2
    assert b"1 mended, 1 left." in said
    left = json.loads(doctor("--json").stdout)["findings"]
    assert [item["code"] for item in left] == ["missing-index"]
