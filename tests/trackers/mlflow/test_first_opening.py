"""Four processes at once on a store that none has opened before: one experiment, every run, no error."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from forked_python import ForkedPython
from mlflow_stores import MlflowServer, Postgres, free_port

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import collect, open_tracker

PROCESSES = 4
# They wait for each other before they open the store, so that they do open it at once.
WRITES = """
import sys, time
from pathlib import Path
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.mlflow import writer
uri, index, folder, count = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
(folder / index).touch()
while len(list(folder.iterdir())) < count:
    time.sleep(0.01)
tracker = open_tracker("mlflow", "first-opening", uri)
run = tracker.start_run(None, f"t{index}", {"lr": 0.1, "batch_size": 8, "seed": int(index)})
for step in range(5):
    run.log(step, {"eval/loss": 1.0})
run.finish("finished")
tracker.close()
"""


def write_at_once(uri: str, folder: Path) -> None:
    folder.mkdir()
    started = [
        ForkedPython(["-c", WRITES, uri, str(index), str(folder), str(PROCESSES)])
        for index in range(PROCESSES)
    ]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES, "\n".join(errors)
    curves = collect("first-opening", uri=uri)
    assert sorted(curves.runs["trial_id"]) == [f"t{index}" for index in range(PROCESSES)]
    assert set(curves.runs["status"]) == {"finished"}
    assert len(curves.points) == 5 * PROCESSES
    assert curves.problems == ()


@pytest.mark.slow
def test_a_new_sqlite_store_opened_by_four_processes_at_once(tmp_path: Path) -> None:
    write_at_once(f"sqlite:///{tmp_path / 'new.db'}", tmp_path / "ready")


@pytest.mark.slow
def test_an_empty_postgresql_database_opened_by_four_processes_at_once(
    postgres: Postgres, tmp_path: Path
) -> None:
    write_at_once(postgres.empty_database(), tmp_path / "ready")


@pytest.mark.slow
def test_a_new_experiment_of_a_server_written_by_four_processes_at_once(
    shared_server: MlflowServer, tmp_path: Path
) -> None:
    write_at_once(shared_server.uri, tmp_path / "ready")


def test_a_database_that_does_not_answer_is_an_error_at_once(postgres: Postgres) -> None:
    closed = postgres.address("demo").replace(f":{postgres.port}/", f":{free_port()}/")
    began = time.monotonic()
    for uri, said in (
        (closed, "could not be opened: connection failed"),
        (postgres.address("nowhere"), 'database "nowhere" does not exist'),
        (postgres.address("postgres", password="hunter2"), "password authentication failed"),
    ):
        with pytest.raises(TrackerError, match=said) as caught:
            open_tracker("mlflow", "demo", uri).open_sweep("s1", "digits", {})
        assert caught.value.hint
        assert "hunter2" not in str(caught.value)
    assert time.monotonic() - began < 30
