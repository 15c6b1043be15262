"""What a pod starts, before it is the task: run as the pod runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launch.kubernetes_launches import launch, plan

from surge_sweeps.launch.kubernetes.manifest import CANCELLED


def start(folder: Path, index: str | None, of: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "JOB_COMPLETION_INDEX"}
    if index is not None:
        environment["JOB_COMPLETION_INDEX"] = index
    command = [
        sys.executable,
        "-m",
        "surge_sweeps.launch.kubernetes.pod",
        str(of or folder),
        str(folder / "cancelled"),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_it_becomes_the_task_of_its_index(tmp_path: Path) -> None:
    done = start(tmp_path, "7")
    assert done.returncode == 1
    # The task's own word: no launch lies there.
    assert "holds no plan of a launch" in done.stderr


def test_a_pod_that_nobody_told_where_the_server_is_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = launch(tmp_path, plan(uri=None))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = start(tmp_path, "99", made.folder)
    assert done.returncode == 1
    assert "no MLFLOW_TRACKING_URI tells this pod" in done.stderr
    assert "--set env_from_secret=NAME" in done.stderr
    # The task's own word: there is no task 99.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "MLFLOW_TRACKING_URI" not in start(tmp_path, "99", made.folder).stderr


@pytest.mark.parametrize("listed", ["7", "all"])
def test_a_cancelled_task_is_not_begun(tmp_path: Path, listed: str) -> None:
    (tmp_path / "cancelled").mkdir()
    (tmp_path / "cancelled" / listed).touch()
    done = start(tmp_path, "7")
    assert (done.returncode, done.stderr) == (CANCELLED, "cancelled before it began.\n")


def test_the_others_of_a_list_are_begun(tmp_path: Path) -> None:
    (tmp_path / "cancelled").mkdir()
    (tmp_path / "cancelled" / "8").touch()
    assert start(tmp_path, "7").returncode == 1


@pytest.mark.parametrize("index", [None, "", "-1", "../all"])
def test_outside_of_an_indexed_job_it_says_so(tmp_path: Path, index: str | None) -> None:
    done = start(tmp_path, index)
    assert done.returncode == 2
    assert "pod of an Indexed Job" in done.stderr
