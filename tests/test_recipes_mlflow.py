"""docs/own_script.md by ``surge-sweep launch``: the scripts as printed, their runs read back by the collector."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
from launch.local_launches import start_launch, statuses, wait_for
from own_script_page import (
    PAGE,
    QUICK_START,
    added_lines,
    fenced_blocks,
    printed_commands,
    printed_scripts,
    sweep_command,
)
from typer.testing import CliRunner
from wandb_server import WandbServer

from surge_sweeps import LossCurves, collect
from surge_sweeps.cli.sweep import app as sweep_app
from surge_sweeps.fitting.observables.groups import split_groups
from surge_sweeps.fitting.observables.targets import gain_targets

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="docs/ is not part of the wheel")

MAX_STEPS = 6
#: The scripts' evaluation steps up to MAX_STEPS.
EVALUATED = list(range(1, MAX_STEPS + 1))
#: Those that import a framework which may not be there.
FRAMEWORK_SCRIPTS = ("train_transformers_mlflow.py", "train_lightning_mlflow.py")


@pytest.fixture
def folder(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty store, in which scripts are quick."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", QUICK_START, prepend=os.pathsep)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def write_sweep(folder: Path, program: str, *, lr: str = "0.003", batch_size: str, max_steps: int) -> Path:
    """Write a script and the sweep file of its printed command, tiny."""
    (folder / program).write_text(printed_scripts()[program])
    command = sweep_command(program)
    # Of an option given twice the last one counts.
    tiny = ["--lr", lr, "--batch-size", batch_size, "--seeds", "1", "--set", f"max_steps={max_steps}"]
    call([*command, *tiny])
    return folder / command[1]


def call(words: list[str]) -> None:
    done = CliRunner().invoke(sweep_app, words)
    assert done.exit_code == 0, done.output


def launch_as_printed(file: Path, *options: str) -> None:
    """The launch that the page prints for the file; what is given is added to it."""
    printed = [words for words in printed_commands("surge-sweep") if words[:2] == ["launch", file.name]]
    call([*(printed[0] if printed else ["launch", file.name]), "--quiet", *options])


def check(curves: LossCurves, batch_sizes: list[int], lrs: tuple[float, ...] = (0.003,)) -> None:
    """Every trial is there, finished, with a point at each step evaluated, and its loss falls."""
    runs = curves.runs
    done = sorted(zip(runs["lr"], runs["batch_size"], runs["seed"], runs["status"], strict=True))
    assert done == sorted(product(lrs, batch_sizes, [0], ["finished"]))
    assert len(split_groups(curves)[0]) == 1  # nothing a script records tears its grid apart
    for run in runs.itertuples():
        points = curves.points[curves.points["run"] == run.run]
        assert points["step"].tolist() == EVALUATED
        assert points["examples"].tolist() == [run.batch_size * step for step in EVALUATED]
        losses = points["loss"].tolist()
        assert losses[-1] < losses[0]


def logged(folder: Path, metric: str) -> dict[str, list[float]]:
    """Run -> what it logged as that metric, by step, straight from the database."""
    with sqlite3.connect(folder / "mlflow.db") as store:
        query = "SELECT run_uuid, value FROM metrics WHERE key = ? ORDER BY step"
        found: dict[str, list[float]] = {}
        for run, value in store.execute(query, (metric,)):
            found.setdefault(run, []).append(value)
    return found


def test_every_script_of_the_page_is_run_by_a_test() -> None:
    here = {"train_mlflow.py", "train_torchrun.py", "train_torchrun_wandb.py", "train_branch.py"}
    with_agents = {"train_wandb.py", "train_torch.py", "train_transformers.py", "train_lightning.py"}
    bare = {"train.py"}  # nothing is added to it yet
    assert set(printed_scripts()) == {*here, *FRAMEWORK_SCRIPTS, *with_agents, *bare}


def test_every_script_but_the_bare_one_speaks_of_one_tracker() -> None:
    for name, text in printed_scripts().items():
        assert sum(tracker in text for tracker in ("mlflow", "wandb")) == (name != "train.py"), name


@pytest.mark.parametrize("program", ["train_mlflow.py", "train_wandb.py"])
def test_five_lines_are_five(program: str) -> None:
    assert len(added_lines(program)) == 5


def test_five_lines_and_a_learning_rate_that_diverges(folder: Path) -> None:
    file = write_sweep(folder, "train_mlflow.py", lr="0.1,1e15", batch_size="16", max_steps=MAX_STEPS)
    script = folder / "train_mlflow.py"
    script.write_text(script.read_text().replace("AdamW", "SGD"))  # AdamW stays finite at any
    launch_as_printed(file)
    curves = collect("mine")
    found = dict(zip(curves.runs["lr"], curves.runs["status"], strict=True))
    assert found == {0.1: "finished", 1e15: "diverged"}
    check(curves.restrict(curves.runs["lr"] == 0.1), [16], lrs=(0.1,))
    lengths = [len(values) for values in logged(folder, "train/loss").values()]
    assert sorted(lengths)[0] < sorted(lengths)[1] == MAX_STEPS  # it stops once it has diverged


@pytest.mark.slow
@pytest.mark.parametrize("program", FRAMEWORK_SCRIPTS)
def test_framework(program: str, folder: Path) -> None:
    pytest.importorskip("transformers" if "transformers" in program else "lightning")
    # One micro-batch a step, and two.
    file = write_sweep(folder, program, batch_size="16,32", max_steps=MAX_STEPS)
    launch_as_printed(file, "--agents", "2")
    curves = collect(file.stem)
    check(curves, [16, 32])
    stored = logged(folder, curves.loss_name)
    assert {run: points["loss"].tolist() for run, points in curves.points.groupby("run")} == stored


@pytest.mark.slow
def test_processes_of_torchrun_train_as_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(folder, "train_torchrun.py", batch_size="16,32", max_steps=MAX_STEPS)
    launch_as_printed(file)
    curves = collect("torchrun")
    check(curves, [16, 32])
    assert {len(values) for values in logged(folder, "eval/loss").values()} == {
        MAX_STEPS
    }  # the first alone logs
    for run in curves.runs.itertuples():
        mine = curves.points["loss"][curves.points["run"] == run.run]
        assert mine.tolist() == pytest.approx(
            losses_of_one_process(run.batch_size, monkeypatch, capsys), abs=1e-4
        )


def losses_of_one_process(
    batch_size: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[float]:
    """What the bare script prints, run here."""
    Path("train.py").write_text(printed_scripts()["train.py"])
    settings = {"lr": 0.003, "batch_size": batch_size, "max_steps": MAX_STEPS}
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *(f"--{name}={value}" for name, value in settings.items())])
        runpy.run_path("train.py", run_name="__main__")
    return [float(line.split(": ")[1]) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_torchrun_in_the_sweep_file_with_wandb(wandb_server: WandbServer, folder: Path) -> None:
    # One trial: processes that import torch and W&B take long to start.
    file = write_sweep(folder, "train_torchrun.py", batch_size="16", max_steps=MAX_STEPS)
    (folder / "train_torchrun.py").write_text(printed_scripts()["train_torchrun_wandb.py"])
    _, command = fenced_blocks("yaml")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | yaml.safe_load(command)))
    project = f"{wandb_server.entity}/recipes"
    launch_as_printed(file, "--processes-per-node", "1", "--tracker", "wandb", "--project", project)
    check(collect(project, tracker="wandb"), [16])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_launch_that_is_ended_leaves_no_process_of_torchrun(folder: Path) -> None:
    write_sweep(folder, "train_torchrun.py", batch_size="16", max_steps=10**6).rename(folder / "sweep.yaml")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    process = start_launch(folder, uri, "--processes-per-node=2")
    wait_for(lambda: logged(folder, "eval/loss"), process)
    # The launch, torchrun and two that train.
    assert len(processes_in(folder)) == 4
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert processes_in(folder) == set(), printed
    assert statuses(uri) == {"crashed": 1}, printed


def processes_in(folder: Path) -> set[int]:
    """The processes whose working folder it is, but this one."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                inside = (process / "cwd").readlink() == folder
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:  # it ended meanwhile, or is another user's
                continue
            if inside and state != "Z":
                found.add(int(process.name))
    return found


@pytest.mark.slow
def test_branches_from_a_common_checkpoint(folder: Path) -> None:
    file = write_sweep(folder, "train_branch.py", lr="0.001,0.003", batch_size="16", max_steps=MAX_STEPS)
    ((program, *options),) = printed_commands("python")
    done = subprocess.run(
        [sys.executable, program, *options, "--max_steps=200"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    launch_as_printed(file)
    curves = collect("branch")
    check(curves, [16], lrs=(0.001, 0.003))
    (checkpoint,) = set(curves.runs["start_checkpoint"])
    (start_loss,) = set(curves.runs["start_loss"].astype(float))
    assert len(checkpoint) == 12
    below = float(options[options.index("--save_at_loss") + 1])
    assert 0.9 * below < start_loss < below
    (target,), problems = gain_targets(curves)
    assert problems == []
    assert target.targets[0].horizon_steps == MAX_STEPS
    last = curves.points[curves.points["step"] == MAX_STEPS].set_index("run")["loss"]
    gains = dict(zip(target.curves.runs["run"], target.responses.values[:, 0], strict=True))
    assert gains == pytest.approx({run: start_loss - loss for run, loss in last.items()})
