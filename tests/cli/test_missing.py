"""`surge-sweep missing` on both trackers: what is counted, and what is written to finish the sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from wandb_server import WandbServer

from surge_sweeps.cli.sweep import app
from surge_sweeps.curves import Status
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep, Trial
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.wandb.client import WandbProject
from surge_sweeps.trackers.wandb.sweeps import register

SWEEP = Sweep(
    lr=(0.1, 0.3),
    batch_size=(8, 32),
    seed=(0, 1),
    command=SCRIPT_COMMAND,
    program="train.py",
    name="study",
    loss="val/loss",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    SWEEP.write(tmp_path / "study.yaml")
    return tmp_path


def call(*arguments: str) -> str:
    return call_file("study.yaml", *arguments)


def call_file(file: str, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["missing", file, *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def counts(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("--json", *arguments))["sweeps"][0]
    return found


def write_mlflow(uri: str, trials: Sequence[Trial], statuses: Sequence[Status]) -> None:
    tracker = open_tracker("mlflow", "study", uri)
    tracker.open_sweep(SWEEP.sweep_id, SWEEP.name, SWEEP.to_dict())
    records = [
        RunRecord(dict(trial.parameters), trial.trial_id, status, {"val/loss": [(1, 1.0)]})
        for trial, status in zip(trials, statuses, strict=True)
    ]
    tracker.write_runs(SWEEP.sweep_id, records)
    tracker.close()


def test_mlflow_is_counted_and_the_rest_is_written_as_sweeps(folder: Path) -> None:
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    trials = SWEEP.trials()
    write_mlflow(uri, trials[:5], ["finished", "diverged", "capped", "crashed", "finished"])
    found = counts("--uri", uri, "-o", "rest.yaml")
    assert (found["planned"], found["finished"], found["diverged"], found["capped"]) == (8, 2, 1, 1)
    assert (found["missing"], found["crashed"]) == (4, 1)
    assert found["missing_trials"] == [trial.trial_id for trial in (trials[3], *trials[5:])]
    written = [Sweep.read(path) for path in sorted(folder.glob("rest-*.yaml"))]
    assert len(written) == 2 or len(written) == 3
    rest = [trial.trial_id for sweep in written for trial in sweep.trials()]
    assert sorted(rest) == sorted(found["missing_trials"])

    with pytest.raises(SurgeError, match=r"rest-1.yaml is there already.*--force"):
        call("--uri", uri, "-o", "rest.yaml")
    write_mlflow(uri, [trial for trial in trials if trial.trial_id in rest], ["finished"] * len(rest))
    text = call("--uri", uri, "-o", "none.yaml")
    assert not (folder / "none.yaml").exists()
    row = next(line for line in text.splitlines() if "study.yaml" in line)
    assert row.split()[1:] == ["8", "6", "1", "1", "0", "0"]


def test_what_is_written_goes_to_the_store_that_was_asked(folder: Path) -> None:
    uri = f"sqlite:///{folder / 'other.db'}"
    write_mlflow(uri, SWEEP.trials()[:4], ["finished"] * 4)
    text = call("--uri", f"{uri}?timeout=5", "-o", "rest.yaml")
    assert f"Next: surge-sweep launch rest.yaml --project study --uri {uri}\n" in text
    assert "without user, password and options" in text
    assert f"--uri {uri} " in (folder / "rest.yaml").read_text().replace("\n# ", " ")


def test_wandb_is_counted_by_the_sweeps_definition(folder: Path, wandb_server: WandbServer) -> None:
    project = ("test-entity", "study")
    name = register(WandbProject(*project), SWEEP)
    histories: list[tuple[str, dict[str, list[float]]]] = [
        ("finished", {"val/loss": [1.0, 0.5]}),
        ("failed", {"val/loss": [1.0, float("nan")]}),
        ("crashed", {"val/loss": [1.0]}),
        ("running", {"val/loss": [1.0]}),
        ("finished", {"other": [1.0]}),
        ("preempted", {"val/loss": [1.0]}),
    ]
    trials = SWEEP.trials()
    for trial, (state, history) in zip(trials, histories, strict=False):
        config = dict(trial.parameters)
        wandb_server.add_run(*project, config=config, history=history, state=state, sweep=name)
    # The run that crashed was done again elsewhere in the project.
    again = replace(SWEEP, lr=(trials[2].lr,), batch_size=(8,), seed=(trials[2].seed,))
    config = dict(trials[2].parameters)
    other = register(WandbProject(*project), again)
    wandb_server.add_run(*project, config=config, history=histories[0][1], state="finished", sweep=other)
    found = counts("--tracker=wandb", "--project=study", "-o", "rest.yaml")
    assert (found["finished"], found["diverged"], found["running"]) == (2, 1, 1)
    assert (found["missing"], found["crashed"], found["preempted"]) == (4, 1, 1)
    assert trials[3].trial_id not in found["missing_trials"]
    rest = Sweep.read(folder / "rest.yaml")
    assert (rest.extra, len(rest.trials())) == ({"entity": "test-entity", "project": "study"}, 4)
    # A follow-up finds its project by itself.
    assert json.loads(call_file("rest.yaml", "--json"))["project"] == "test-entity/study"


def test_runs_of_a_deleted_sweep_and_of_none_count_by_their_config(
    folder: Path, wandb_server: WandbServer
) -> None:
    project = ("test-entity", "study")
    gone = register(WandbProject(*project), SWEEP)
    living = register(WandbProject(*project), replace(SWEEP, lr=(0.7,)))
    trials = SWEEP.trials()
    as_text = {name: f"{value:.3e}" for name, value in trials[1].parameters.items() if name == "lr"}
    for config, sweep, metric in (
        ({**trials[0].parameters, "more": 1}, gone, "val/loss"),
        ({**trials[1].parameters, **as_text}, None, "val/loss"),
        # A sweep that is there says that this is no trial of its own, and so of nobody's.
        (trials[2].parameters, living, "val/loss"),
        (trials[3].parameters, None, "other"),
        ({name: trials[4].parameters[name] for name in ("lr", "batch_size")}, None, "val/loss"),
    ):
        wandb_server.add_run(*project, config=config, history={metric: [1.0]}, state="finished", sweep=sweep)
    wandb_server.delete_sweep(gone)
    found = counts("--tracker=wandb", "--project=study")
    assert (found["finished"], found["missing"], found["crashed"]) == (2, 6, 0)
    assert found["missing_trials"] == [trial.trial_id for trial in trials[2:]]


def test_several_files_are_added_up_and_share_their_missing_trials(folder: Path) -> None:
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    write_mlflow(uri, SWEEP.trials()[:2], ["finished"] * 2)
    replace(SWEEP, lr=(0.3, 0.9)).write(folder / "more.yaml")
    text = call("more.yaml", "--uri", uri, "-o", "rest.yaml")
    total = next(line for line in text.splitlines() if line.strip().startswith("all"))
    assert "Next: surge-sweep launch" in text
    assert "--project study" in text
    assert "Next: " not in call("more.yaml", "--uri", uri, "-o", "rest.yaml", "--force", "--quiet")
    assert total.split()[1:] == ["16", "2", "0", "0", "0", "14"]
    written = [trial.trial_id for path in folder.glob("rest*.yaml") for trial in Sweep.read(path).trials()]
    assert len(written) == len(set(written)) == 10


def test_a_project_that_is_not_there_is_told(folder: Path, wandb_server: WandbServer) -> None:
    with pytest.raises(TrackerError, match="Launch a sweep first"):
        call("--uri", f"sqlite:///{folder / 'none.db'}")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    write_mlflow(uri, SWEEP.trials()[:1], ["finished"])
    with pytest.raises(UnknownNameError, match="studdy"):
        call("--uri", uri, "--project=studdy")
    with pytest.raises(TrackerError, match="no W&B project 'test-entity/studdy'"):
        call("--tracker=wandb", "--project=studdy")
    with pytest.raises(SurgeError, match="no project that trials are logged to"):
        call("--project=runs.csv")
