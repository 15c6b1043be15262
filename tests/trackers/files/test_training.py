"""The built-in trainer logging to files: stopped, killed and started again it gives the bits of an undisturbed run."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from forked_python import ForkedPython

from surge_sweeps.trackers.files.layout import RunsFolder
from surge_sweeps.trackers.files.run_file import read_whole

pytest.importorskip("torch")

FLAGS = ("--lr=0.01", "--batch_size=16", "--seed=3", "--max_steps=2500")


def train(folder: Path, project: str) -> ForkedPython:
    task = ("--sweep-id=s1", "--trial-id=t1", "--owner=launch/0")
    command = ["-m", "surge_sweeps.training", *FLAGS, "--tracker=files", *task]
    return ForkedPython([*command, f"--project={project}"], folder=folder)


def written_ns(folder: Path) -> list[int]:
    """When each run's file was written last."""
    return [file.stat().st_mtime_ns for file in folder.glob("disturbed/runs/*.parquet")]


def wait_until_it_writes(folder: Path, process: ForkedPython, before: list[int]) -> None:
    deadline_s = time.monotonic() + 120
    while written_ns(folder) == before:
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_run_that_was_stopped_and_killed_is_one_run_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed = train(tmp_path, "undisturbed")
    stopped = train(tmp_path, "disturbed")
    wait_until_it_writes(tmp_path, stopped, [])
    time.sleep(0.3)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(120) != 0
    before = written_ns(tmp_path)
    killed = train(tmp_path, "disturbed")
    wait_until_it_writes(tmp_path, killed, before)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
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
