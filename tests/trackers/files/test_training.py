"""The built-in trainer logging to files: stopped, killed and started again it gives the bits of an undisturbed run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surge_sweeps.trackers.files.layout import RunsFolder
from surge_sweeps.trackers.files.run_file import read_whole

pytest.importorskip("torch")

FLAGS = ("--lr=0.01", "--batch_size=16", "--seed=3", "--max_steps=2500")


def train(folder: Path, project: str) -> subprocess.Popen[bytes]:
    task = ("--sweep-id=s1", "--trial-id=t1", "--owner=launch/0")
    command = [sys.executable, "-m", "surge_sweeps.training", *FLAGS, "--tracker=files", *task]
    return subprocess.Popen([*command, f"--project={project}"], cwd=folder)


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_run_that_was_stopped_and_killed_is_one_run_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed = train(tmp_path, "undisturbed")
    stopped = train(tmp_path, "disturbed")
    wait_for(tmp_path, "disturbed/runs/*.parquet", stopped)
    time.sleep(0.3)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(120) != 0
    killed = train(tmp_path, "disturbed")
    time.sleep(2.0)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert train(tmp_path, "disturbed").wait(300) == 0
    assert undisturbed.wait(300) == 0
    both = []
    for project in ("undisturbed", "disturbed"):
        (file,) = RunsFolder(tmp_path / project).list_runs().runs
        assert file.status == "finished"
        both.append(read_whole(file.path))
    assert both[1].run.attempts >= 2
    for metric in ("eval/loss", "train/loss", "examples"):
        one, other = (whole.points[metric] for whole in both)
        assert one.step.tolist() == other.step.tolist()
        assert one.value.tolist() == other.value.tolist()
