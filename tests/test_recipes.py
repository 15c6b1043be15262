"""docs/own_script.md with W&B: scripts run as printed, under the real ``wandb sweep`` and ``wandb agent``.

Each is swept over a tiny grid against the test server, then read back with the real client and with the collector.
"""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pandas as pd
import pytest
from own_script_page import PAGE, QUICK_START, fenced_blocks, printed_commands, printed_scripts, sweep_command
from typer.testing import CliRunner
from wandb_server import WandbServer

from surge_sweeps import collect
from surge_sweeps.cli.report import app as report_app
from surge_sweeps.cli.sweep import app as sweep_app
from surge_sweeps.fitting.observables.groups import split_groups

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="docs/ is not part of the wheel")

PROJECT = "recipes"
MAX_STEPS = 12
#: The scripts' evaluation steps up to MAX_STEPS.
EVALUATED = list(range(1, 13))


class Cells(NamedTuple):
    """A tiny grid; the scripts put at most 16 examples into a micro-batch."""

    lrs: tuple[float, ...]
    batch_sizes: tuple[int, ...]


class LoggedRun(NamedTuple):
    """A run as the real client reads it back: state, configuration, rows of history."""

    state: str
    config: Mapping[str, object]
    rows: list[dict[str, float]]

    def losses(self, step: str) -> dict[int, float]:
        """The held-out loss by the metric that counts optimizer steps."""
        return {
            int(row[step]): float(row["eval/loss"]) for row in self.rows if row.get("eval/loss") is not None
        }


@pytest.fixture(autouse=True)
def quick_scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of their own, no downloads, one thread, and none of what W&B records about the machine."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "WANDB_CONSOLE": "off",
        "WANDB_X_DISABLE_META": "true",
        "WANDB_X_DISABLE_STATS": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", QUICK_START, prepend=os.pathsep)


@pytest.fixture
def start_sweep(wandb_server: WandbServer, wandb_cli: Callable, tmp_path: Path) -> Callable[..., str]:
    """Write a printed script and the sweep file of its printed command, tiny, and register it by ``wandb sweep``."""

    def start(program: str, cells: Cells, max_steps: int = MAX_STEPS) -> str:
        (tmp_path / program).write_text(printed_scripts()[program])
        command = sweep_command(program)
        lrs, batch_sizes = (",".join(map(str, values)) for values in cells)
        words = [*command, "--force"]
        # Of an option given twice the last one counts.
        words += ["--lr", lrs, "--batch-size", batch_sizes, "--seeds", "1", "--set", f"max_steps={max_steps}"]
        made = CliRunner().invoke(sweep_app, words)
        assert made.exit_code == 0, made.output
        registered = wandb_cli("sweep", "--project", PROJECT, command[1])
        assert registered.returncode == 0, registered.stderr
        sweep_id = re.search(r"with ID: (\w+)", registered.stderr)[1]
        return f"{wandb_server.entity}/{PROJECT}/{sweep_id}"

    return start


def run_agents(wandb_popen: Callable, sweep: str, meanwhile: Callable[[], None] = lambda: None) -> str:
    """Run two agents at once on a sweep until both are done; returns what they printed."""
    agents = [wandb_popen("agent", "--forward-signals", sweep) for _ in range(2)]
    meanwhile()
    printed = "".join(agent.communicate(timeout=120)[0] for agent in agents)
    assert [agent.returncode for agent in agents] == [0, 0], printed
    return printed


def logged_runs(server: WandbServer, cells: Cells, printed: str) -> list[LoggedRun]:
    """Every run of the project, which must be the whole grid, finished, each trial once."""
    import wandb

    found = wandb.Api().runs(f"{server.entity}/{PROJECT}", lazy=False)
    runs = [LoggedRun(run.state, run.config, list(run.scan_history(use_cache=False))) for run in found]
    assert [run.state for run in runs] == ["finished"] * len(runs), printed
    done = sorted((run.config["lr"], run.config["batch_size"], run.config["seed"]) for run in runs)
    assert done == sorted(product(*cells, [0])), printed
    return runs


def check_collected(server: WandbServer, runs: list[LoggedRun], step: str) -> pd.DataFrame:
    """``collect`` without any flag gives each run's cell, steps, examples and losses; returns the run table."""
    curves = collect(f"{server.entity}/{PROJECT}")
    assert len(curves.runs) == len(runs)
    assert len(split_groups(curves)[0]) == 1  # nothing a script records tears its grid apart
    points = curves.points.merge(curves.runs[["run", "lr", "batch_size", "seed"]], on="run")
    for run in runs:
        lr, batch_size = run.config["lr"], run.config["batch_size"]
        mine = points[(points["lr"] == lr) & (points["batch_size"] == batch_size) & (points["seed"] == 0)]
        losses = run.losses(step)
        assert mine["step"].tolist() == list(losses)
        assert mine["examples"].tolist() == [batch_size * done for done in losses]
        assert mine["loss"].tolist() == pytest.approx(list(losses.values()), nan_ok=True)
    return curves.runs


def test_the_sweep_file_of_the_page_is_what_its_command_writes(tmp_path: Path) -> None:
    command, *_ = printed_commands("surge-sweep")
    assert CliRunner().invoke(sweep_app, command).exit_code == 0
    printed, *_ = fenced_blocks("yaml")
    assert (tmp_path / command[1]).read_text().split("\n", 1)[1] == printed


def test_every_flag_of_the_page_exists() -> None:
    calls = [(sweep_app, words[:1], words) for words in printed_commands("surge-sweep")]
    calls += [(report_app, [], words) for words in printed_commands("surge-report")]
    for app, subcommand, words in calls:
        help_text = CliRunner().invoke(app, [*subcommand, "--help"], env={"COLUMNS": "200"}).output
        assert [word for word in words if word.startswith("-") and word not in help_text] == []


def test_five_lines_and_a_learning_rate_that_diverges(
    wandb_server: WandbServer, start_sweep: Callable, wandb_popen: Callable, tmp_path: Path
) -> None:
    cells = Cells((0.01, 1e15), (16,))
    sweep = start_sweep("train_wandb.py", cells, max_steps=40)
    script = tmp_path / "train_wandb.py"
    script.write_text(script.read_text().replace("AdamW", "SGD"))  # AdamW stays finite at any
    printed = run_agents(wandb_popen, sweep)
    runs = logged_runs(wandb_server, cells, printed)
    for run in runs:
        losses = run.losses("_step")
        diverged = run.config["lr"] == 1e15
        assert list(losses)[:12] == EVALUATED[: len(losses)]
        assert math.isnan(list(losses.values())[-1]) == diverged
        assert (max(losses) < 40) == diverged
    table = check_collected(wandb_server, runs, "_step")
    assert set(zip(table["lr"], table["status"], strict=True)) == {(0.01, "finished"), (1e15, "diverged")}
    (missing,) = [words for words in printed_commands("surge-sweep") if words[0] == "missing"]
    project = f"{wandb_server.entity}/{PROJECT}"
    counted = CliRunner().invoke(sweep_app, [*missing, "--project", project, "--json", "--quiet"])
    (standing,) = json.loads(counted.stdout)["sweeps"]
    assert [standing[name] for name in ("planned", "finished", "diverged", "missing")] == [2, 1, 1, 0]


@pytest.mark.slow
def test_pytorch_run_that_was_preempted_continues_as_if_nothing_had_happened(
    wandb_server: WandbServer,
    start_sweep: Callable,
    wandb_popen: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = Cells((0.003, 0.03), (32,))
    sweep = start_sweep("train_torch.py", cells, max_steps=1000)
    agent = wandb_popen("agent", "--forward-signals", sweep)
    assert any("View run" in line for line in agent.stdout)  # training begins
    agent.send_signal(signal.SIGTERM)
    printed = agent.communicate(timeout=60)[0]
    (first,) = wandb_server.runs
    assert first.state == "preempted", printed
    assert [path.stem for path in (tmp_path / "checkpoints").iterdir()] == [first.name]
    logged = len(first.history.rows())

    alone: dict[int, float] = {}
    script = tmp_path / "train_torch.py"
    printed = run_agents(
        wandb_popen, sweep, lambda: alone.update(losses_without_wandb(script, first.values, monkeypatch))
    )
    runs = logged_runs(wandb_server, cells, printed)
    resumed = next(run for run in runs if run.config == first.values)
    assert 0 < logged < len(resumed.losses("_step"))
    assert resumed.losses("_step") == pytest.approx(alone, rel=1e-4)
    check_collected(wandb_server, runs, "_step")


def losses_without_wandb(
    script: Path, config: Mapping[str, object], monkeypatch: pytest.MonkeyPatch
) -> dict[int, float]:
    """Run a script in this process, from beginning to end, with a stand-in for wandb; step -> held-out loss."""
    losses: dict[int, float] = {}

    class Run:
        id = "alone"

        def __enter__(self) -> Run:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def log(self, row: Mapping[str, float], step: int) -> None:
            losses[step] = row["eval/loss"]

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **settings: Run()))
        patch.setattr(signal, "signal", lambda *handler: None)
        patch.setattr(sys, "argv", [str(script), *(f"--{name}={value}" for name, value in config.items())])
        runpy.run_path(str(script), run_name="__main__")
    return losses


def add_half_batch(server: WandbServer, sweep: str, run: LoggedRun) -> LoggedRun:
    """Add what the script would log at half the batch size, where the micro-batch is the batch.

    With a third batch size, neither micro-batch nor accumulation goes one to one with the batch size any more.
    """
    sizes = {key for key in ("batch_size", "per_device_train_batch_size") if key in run.config}
    config = {key: 8 if key in sizes else value for key, value in run.config.items()}
    rows = [row | {key: row[key] / 2 for key in ("examples",) if key in row} for row in run.rows]
    server.add_run(server.entity, PROJECT, config=config, history=rows, sweep=sweep.split("/")[-1])
    return LoggedRun("finished", config, rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "step"),
    [("train_transformers.py", "train/global_step"), ("train_lightning.py", "trainer/global_step")],
)
def test_framework(
    program: str, step: str, wandb_server: WandbServer, start_sweep: Callable, wandb_popen: Callable
) -> None:
    pytest.importorskip("transformers" if "transformers" in program else "lightning")
    cells = Cells((0.003,), (16, 32))  # one micro-batch a step, and two
    runs = logged_runs(wandb_server, cells, run_agents(wandb_popen, start_sweep(program, cells)))
    for run in runs:
        losses = run.losses(step)
        assert list(losses) == EVALUATED
        assert losses[MAX_STEPS] < losses[1]
    assert len({run.losses(step)[MAX_STEPS] for run in runs}) == len(runs)
    half = start_sweep(program, Cells(cells.lrs, (8,)))
    runs += [add_half_batch(wandb_server, half, run) for run in runs if run.config["batch_size"] == 16]
    check_collected(wandb_server, runs, step)
