"""GPUs and cores that tasks on this machine are given: seen from inside the scripts, with a real fake `nvidia-smi`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from launch.local_launches import launch, script_sweep

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.gpus import find_gpus, take_gpus
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.plan import Resources
from surge_sweeps.launch.slots import available_cores, make_slots
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers import open_tracker

NVIDIA_SMI = """#!/bin/sh
test "$*" = "--query-gpu=index,uuid --format=csv,noheader" || exit 9
printf '%s' "{lines}"
exit {code}
"""
#: Tells what it was given, and waits until both scripts of the test are at work, so that each has a place of its own.
TELLING_SCRIPT = """
import json, os, sys, time
from pathlib import Path
seed = sys.argv[3].partition("=")[2]
told = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
Path(f".told-{seed}").write_text(json.dumps(told | {"cores": sorted(os.sched_getaffinity(0))}))
Path(f".told-{seed}").rename(f"told-{seed}")
while len(list(Path().glob("told-*"))) < 2:
    time.sleep(0.02)
import mlflow
with mlflow.start_run():
    mlflow.log_metric("my loss", 1.0, step=1)
"""


@pytest.fixture
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def bin_folder(no_variable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """First on the path, and empty; no other `nvidia-smi` can be found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    if shutil.which("nvidia-smi"):
        monkeypatch.setenv("PATH", str(folder))
        (folder / "sh").symlink_to("/bin/sh")
    return folder


def put_driver(folder: Path, names: Sequence[str], code: int = 0) -> None:
    program = folder / "nvidia-smi"
    lines = "".join(f"{name}, GPU-{name}0c9a-77\n" for name in names)
    program.write_text(NVIDIA_SMI.format(lines=lines, code=code))
    program.chmod(0o755)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TELLING_SCRIPT)
    return replace(script_sweep(), seed=(0, 1))


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_gpus_are_those_of_the_driver_unless_the_variable_names_them(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_gpus() == []
    put_driver(bin_folder, ["0", "1", "2"])
    assert find_gpus() == ["0", "1", "2"]
    assert take_gpus(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f1b, 3")
    assert find_gpus() == ["GPU-8f1b", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1,2")  # as CUDA reads it
    assert find_gpus() == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus() == []


def test_more_gpus_than_there_are_is_one_sentence_with_their_number(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SurgeError, match=r"1 GPU was asked for, and this machine has none\. Leave that out"):
        take_gpus(1)
    with pytest.raises(SurgeError, match="this machine has none"):
        take_gpus(None)
    put_driver(bin_folder, ["0", "1"])
    with pytest.raises(
        SurgeError, match=r"3 GPUs were asked for, and this machine has 2 GPUs\. Ask for 2 at most"
    ):
        take_gpus(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(SurgeError, match="and CUDA_VISIBLE_DEVICES names 1 GPU"):
        take_gpus(2)
    assert take_gpus(0) == []


def test_a_driver_that_fails_is_not_taken_for_a_machine_without_gpus(bin_folder: Path) -> None:
    put_driver(bin_folder, ["NVML: Driver/library version mismatch"], code=18)
    with pytest.raises(SurgeError, match=r"nvidia-smi failed with exit code 18: .*version mismatch"):
        find_gpus()


@pytest.mark.parametrize(
    ("size", "gpus", "each", "expected"),
    [
        (None, ["0", "1"], 1, ["0", "1"]),
        (None, ["0", "1"], 0.5, ["0", "1", "0", "1"]),
        (3, ["0", "1"], 0.5, ["0", "1", "0"]),
        (None, ["0", "1", "2", "3"], 2, ["0,1", "2,3"]),
        (None, ["0"], 1 / 3, ["0", "0", "0"]),
        (2, [], 1, ["", ""]),
    ],
)
def test_places_share_the_gpus_evenly(
    size: int | None, gpus: list[str], each: float, expected: list[str]
) -> None:
    slots = make_slots(size, gpus, each, None)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == expected


def test_more_than_the_machine_holds_is_refused(no_variable: None) -> None:
    with pytest.raises(SurgeError, match=r"3 tasks at a time were asked for, and 2 GPUs hold 2"):
        make_slots(3, ["0", "1"], 1, None)
    with pytest.raises(SurgeError, match=r"4 GPUs a task were asked for, and there are 2"):
        make_slots(None, ["0", "1"], 4, None)
    with pytest.raises(SurgeError, match="must be a whole number"):
        make_slots(None, ["0", "1"], 1.5, None)
    cores = available_cores()
    with pytest.raises(SurgeError, match=f"2 x {cores} cores? w.* and this process may use {cores}"):
        make_slots(2, None, 1, cores)


def test_a_system_that_cannot_pin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    with pytest.raises(SurgeError, match="cannot pin a process to cores"):
        make_slots(1, None, 1, 1)


def test_each_script_sees_its_own_gpu(bin_folder: Path, sweep: Sweep, uri: str, tmp_path: Path) -> None:
    put_driver(bin_folder, ["4", "5"])
    assert launch(sweep, uri=uri, agents=None, gpus="all").missing == 0
    told = [json.loads((tmp_path / f"told-{seed}").read_text()) for seed in (0, 1)]
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in told) == ["4", "5"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins processes to cores")
@pytest.mark.skipif(available_cores() < 2, reason="two cores are needed to tell them apart")
def test_each_script_has_its_own_cores_and_may_share_a_gpu(
    bin_folder: Path, sweep: Sweep, uri: str, tmp_path: Path
) -> None:
    put_driver(bin_folder, ["0"])
    result = launch(sweep, uri=uri, agents=2, gpus=1, trials_per_gpu=2, resources=Resources(cpus_per_task=1))
    assert result.missing == 0
    told = [json.loads((tmp_path / f"told-{seed}").read_text()) for seed in (0, 1)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in told] == ["0", "0"]
    assert [each["OMP_NUM_THREADS"] for each in told] == ["1", "1"]
    cores = [each["cores"] for each in told]
    assert sorted(len(each) for each in cores) == [1, 1]
    assert cores[0] != cores[1]
    assert available_cores() >= 2  # this process itself is as free as before


def test_the_launcher_refuses_before_anything_is_written(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_tracker("mlflow", "project", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(SurgeError, match="this machine has none"):
        LocalLauncher(store, gpus=2)
    with pytest.raises(SurgeError, match="number of trials per GPU is 0"):
        LocalLauncher(store, trials_per_gpu=0)
    assert not (tmp_path / "mlflow.db").exists()
