"""The built-in trainer under W&B: real agents and a real client against the test server."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

pytest.importorskip("wandb")
import wandb
from wandb_server import WandbServer
from wandb_server.store import Run

from surge_sweeps.sweep import trial_id
from surge_sweeps.training import TrialConfig, train
from surge_sweeps.training.__main__ import main

ROOT = Path(__file__).parents[2]
#: Sends what is logged every second instead of every 15 s, so that a test can see how far a run is; W&B takes no less.
PROMPT = {
    "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    "OMP_NUM_THREADS": "1",
}

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Popen = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def register(cli: Cli, parameters: Mapping[str, object]) -> str:
    """A sweep of the built-in trainer, registered by the real command line; its path."""
    sweep = {
        "project": "digits",
        "entity": "test-entity",
        "method": "grid",
        "command": ["${env}", "${interpreter}", "-m", "surge_sweeps.training", "${args}"],
        "parameters": parameters,
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    done = cli("sweep", "sweep.yaml", env=PROMPT)
    found = re.search(r"with ID: (\w+)", done.stderr)
    assert found is not None, done.stderr
    return f"test-entity/digits/{found[1]}"


def points(run: Run) -> list[tuple[int, float, float | None, float]]:
    return [
        (int(row["_step"]), float(row["eval/loss"]), _float(row.get("train/loss")), float(row["examples"]))
        for row in run.history.rows()
    ]


def _float(value: object) -> float | None:
    return None if value is None else float(str(value))


def expected(**parameters: object) -> list[tuple[int, float, float | None, float]]:
    """The points of the same trial, trained without a break or a tracker."""
    (record,) = train([("t", TrialConfig.from_parameters(parameters))], mode="loop")
    training = dict(record.metrics["train/loss"])
    examples = dict(record.metrics["examples"])
    return [(step, loss, training.get(step), examples[step]) for step, loss in record.metrics["eval/loss"]]


def test_an_agent_runs_the_trainer_and_a_diverged_run_is_a_finished_one(
    wandb_server: WandbServer, wandb_cli: Cli, tmp_path: Path
) -> None:
    fixed = {"batch_size": 8, "seed": 1, "max_steps": 4, "optimizer": "sgd"}
    path = register(wandb_cli, {"lr": {"values": [0.05, 1e25]}} | {k: {"value": v} for k, v in fixed.items()})
    done = wandb_cli("agent", path, env=PROMPT)
    runs = {run.values["lr"]: run for run in wandb_server.runs}
    assert sorted(runs) == [0.05, 1e25], done.stderr
    assert {lr: run.summary["surge/status"] for lr, run in runs.items()} == {
        0.05: "finished",
        1e25: "diverged",
    }
    for lr, run in runs.items():
        assert (run.state, run.exit_code, run.sweep) == ("finished", 0, path.rpartition("/")[2])
        assert run.values["trial_id"] == trial_id({"lr": lr, **fixed})
        assert run.values["sweep_id"] == run.sweep
        assert (run.values["weight_decay"], run.values["workload"]) == (0.0, "digits")
        assert (run.group, run.job_type) == ("bs=8", "train")
        assert repr(points(run)) == repr(expected(lr=lr, **fixed))
    assert any(not math.isfinite(loss) for _, loss, _, _ in points(runs[1e25]))
    assert_key_is_nowhere(tmp_path, wandb_server.api_key)
    assert wandb_server.api_key not in done.stdout + done.stderr


def assert_key_is_nowhere(folder: Path, key: str) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def test_a_run_that_makes_room_goes_on_elsewhere_with_the_same_bits(
    wandb_server: WandbServer, wandb_cli: Cli, wandb_popen: Popen, tmp_path: Path
) -> None:
    parameters = {"lr": 0.002, "batch_size": 16, "seed": 3, "max_steps": 3000}
    path = register(wandb_cli, {name: {"value": value} for name, value in parameters.items()})
    shared = tmp_path / "shared"
    environment = PROMPT | {"SURGE_CHECKPOINT_DIR": str(shared)}
    first = wandb_popen("agent", "--forward-signals", path, env=environment)
    wait_for(lambda: [run for run in wandb_server.runs if len(run.history.rows()) > 5], first)
    arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "surge_sweeps.training" in arguments
    assert wandb_server.api_key not in arguments
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=60)
    (run,) = wandb_server.runs
    assert run.state == "preempted", output
    assert run.exit_code == 143
    assert "surge/status" not in run.summary
    assert [file.name for file in shared.iterdir()] == [f"{run.name}.pt"]
    logged = len(points(run))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = wandb_cli("agent", path, env=environment, cwd=elsewhere)
    assert (run.state, run.summary["surge/status"]) == ("finished", "finished"), done.stderr
    assert wandb_server.runs == [run]
    assert logged < len(points(run))
    assert points(run) == expected(**parameters)
    assert list(shared.iterdir()) == []
    assert_key_is_nowhere(tmp_path, wandb_server.api_key)


def test_without_its_state_a_run_starts_over_and_logs_what_is_missing(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = {"lr": 0.002, "batch_size": 16, "seed": 3, "max_steps": 40}
    arguments = [f"--{name}={value}" for name, value in parameters.items()]
    run = wandb_server.add_run(
        "test-entity",
        "digits",
        "given123",
        history=[
            {"_step": step, "eval/loss": loss, "train/loss": training, "examples": examples}
            for step, loss, training, examples in expected(**parameters)[:7]
        ],
        state="preempted",
    )
    monkeypatch.setenv("WANDB_RUN_ID", run.name)
    monkeypatch.setenv("WANDB_PROJECT", "digits")
    wandb.teardown()
    assert main([*arguments, "--tracker=wandb"]) == 0
    assert "starting over from step 0; the steps up to 6 are logged already" in capsys.readouterr().err
    assert points(run) == expected(**parameters)
    assert (run.state, run.summary["surge/status"]) == ("finished", "finished")
    assert main(["--lr=0.1", *arguments[1:], "--tracker=wandb"]) == 1
    assert "has lr=0.002, and this trial has 0.1" in capsys.readouterr().err


def test_outside_an_agent_a_run_that_is_ended_is_crashed(wandb_server: WandbServer, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "surge_sweeps.training", "--tracker=wandb", "--project=digits",
        "--lr=1e-4", "--batch_size=4", "--max_steps=10000000",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env={**os.environ, **PROMPT}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: [run for run in wandb_server.runs if run.history.rows()], process)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, stderr.splitlines()[-1]) == (143, "terminated; the run is closed as crashed.")
    (run,) = wandb_server.runs
    assert (run.state, run.summary["surge/status"]) == ("failed", "crashed")
    assert not (tmp_path / ".surge").exists()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"the run did not start; the process returned {process.poll()}")


def test_an_agents_run_without_a_key_is_told(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_SWEEP_ID", "ab12cd34")
    wandb.teardown()
    assert main(["--lr=0.1", "--batch_size=8", "--max_steps=1"]) == 1
    assert "there is no W&B key" in capsys.readouterr().err
    assert wandb_server.runs == []
