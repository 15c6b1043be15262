"""What the tests of launches on this machine share: sweeps, stores, and the command in a process of its own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest

from surge_sweeps.launch.base import LaunchResult
from surge_sweeps.launch.checks import Check, no_check
from surge_sweeps.launch.driver import launch_sweeps
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.plan import Resources
from surge_sweeps.launch.target import Target
from surge_sweeps.launch.watch import OnStatus, tell_nobody
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep
from surge_sweeps.trackers import open_tracker

BUILTIN = Sweep(
    lr=(0.001, 0.003, 0.01),
    batch_size=(8, 16),
    seed=(0, 1),
    constants={"workload": "digits", "model": "mlp", "optimizer": "adamw", "max_steps": 30},
    name="small",
)

WAITING_SCRIPT = """
import os, signal, sys, time
from pathlib import Path
if Path("deaf").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(".began").write_text(str(os.getpid()))
Path(".began").rename("began")
while not Path("go").exists():
    time.sleep(0.05)
import mlflow
with mlflow.start_run():
    mlflow.log_metric("my loss", 1.0, step=1)
"""


def launch(
    *sweeps: Sweep,
    uri: str,
    agents: int | None = 2,
    gpus: int | Literal["all"] | None = None,
    trials_per_gpu: int = 1,
    resources: Resources | None = None,
    on_status: OnStatus = tell_nobody,
    check: Check = no_check,
) -> LaunchResult:
    """Launch in this process, into the experiment `project`."""
    store = open_tracker("mlflow", "project", uri)
    try:
        return launch_sweeps(
            sweeps,
            Target.of("project", "mlflow", uri),
            store,
            LocalLauncher(store, agents, gpus, trials_per_gpu),
            packed=True,
            resources=resources,
            on_status=on_status,
            check=check,
        )
    finally:
        store.close()


def statuses(uri: str) -> Mapping[str, int]:
    """Trial runs in the store by their status, straight from the database."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as store:
        rows = store.execute(
            "select value, count(*) from tags where key = 'surge.status' group by value"
        ).fetchall()
    return dict(rows)


def script_sweep(program: str = "train.py", loss: str = "my loss") -> Sweep:
    """One trial of a user's script."""
    return Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program=program, loss=loss)


def waiting_sweep(folder: Path) -> Sweep:
    """One trial whose script writes its process id to `began` and waits for the file `go`."""
    (folder / "train.py").write_text(WAITING_SCRIPT)
    return script_sweep()


def start_launch(folder: Path, uri: str, *options: str) -> subprocess.Popen[str]:
    """`surge-sweep launch` of the folder's sweep.yaml in a process group of its own."""
    command = ["launch", "sweep.yaml", "--project=project", f"--uri={uri}", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "surge_sweeps.cli", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(is_so: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Fails the test where it does not come to be so, or where the process that is to bring it about has ended."""
    deadline = time.monotonic() + 120
    while not is_so():
        if process is not None and process.poll() is not None:
            pytest.fail(f"the launch ended before: {process.communicate()[0]}")
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def wait_for_a_result(uri: str, process: subprocess.Popen[str]) -> None:
    """Until the store has a finished run."""

    def has_one() -> bool:
        with suppress(sqlite3.OperationalError):
            return statuses(uri).get("finished", 0) > 0
        return False

    wait_for(has_one, process)


def wait_until_the_group_is_gone(group: int) -> None:
    """Until nothing of a process group lives."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("worker processes outlived the launch by 30 s")
