"""`surge-sweep launch` and the commands around it as a user types them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cli.test_commands import is_told, sweep_command, sweep_here

from surge_sweeps.cli.launch_result import tell_next
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.plan import Plan, Task, new_launch_id
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep

DIGITS = Sweep(
    lr=(0.001, 0.003),
    batch_size=(16,),
    seed=(0,),
    constants={"workload": "digits", "max_steps": 5},
    name="small",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    DIGITS.write(tmp_path / "small.yaml")
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("engine", ["local", "slurm", "kubernetes", "ray"])
def test_a_dry_run_shows_what_would_be_submitted_and_changes_nothing(folder: Path, engine: str) -> None:
    settings = ["--set=image=me/sweeps:1"] if engine == "kubernetes" else []
    uri = "--uri=http://team.example:5000"
    before = files(folder)
    # No server answers there: a local store is asked which trials have a result, a server would be.
    store = [] if engine != "kubernetes" else [uri]
    done = sweep_here(folder, "launch", "small.yaml", f"--on={engine}", "--dry-run", *settings, *store)
    if engine == "kubernetes":
        assert is_told(done, "team.example")
    else:
        assert done.returncode == 0, done.stderr
        assert ("trained together" if engine == "local" else "run_task") in done.stdout
    assert files(folder) == before


def test_a_file_that_was_changed_goes_on_as_it_was_launched(folder: Path) -> None:
    assert sweep_command(folder, "launch", "small.yaml").returncode == 0
    replace(DIGITS, lr=(0.001, 0.003, 0.01)).write(folder / "small.yaml")
    done = sweep_command(folder, "launch", "small.yaml")
    assert done.returncode == 0, done.stderr
    assert "2 trials: 2 done before" in done.stdout
    said = " ".join(done.stderr.split())
    assert "small.yaml was changed since it was launched (lr: 0.01 added). It goes on as it was" in said
    done = sweep_command(folder, "launch", "small.yaml", "--replan")
    assert "3 trials: 2 done before, 1 finished" in done.stdout
    assert "changed" not in sweep_here(folder, "launch", "small.yaml").stderr


def test_a_sweep_that_cannot_run_is_not_kept(folder: Path) -> None:
    replace(DIGITS, constants={"workload": "digitz"}).write(folder / "small.yaml")
    assert is_told(sweep_here(folder, "launch", "small.yaml"), "unknown workload 'digitz'")
    DIGITS.write(folder / "small.yaml")
    assert "2 finished" in sweep_command(folder, "launch", "small.yaml").stdout


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--on=slurmm"], ["unknown engine 'slurmm'", "Did you mean 'slurm'?"]),
        (["--on=slurm", "--set=partitoin=low"], ["unknown setting", "Did you mean 'partition'?"]),
        (["--on=slurm", "--set=partition"], ["--set NAME=VALUE"]),
        (["--on=slurm", "--set=at_most=many"], ["at_most", "surge-sweep engines slurm"]),
        (["--on=kubernetes"], ["needs image"]),
        (["--settings=gone.yaml"], ["there is no file 'gone.yaml'"]),
        (["--memory-gb=0"], ["memory_gb is 0", "above 0"]),
        (["--micro-batch-size=0"], ["micro_batch_size is 0"]),
        (["--set=gpus=64"], ["GPU"]),
    ],
)
def test_bad_input_is_one_sentence_and_the_next_step(
    folder: Path, arguments: list[str], texts: list[str]
) -> None:
    before = files(folder)
    assert is_told(sweep_here(folder, "launch", "small.yaml", *arguments), *texts)
    assert files(folder) == before


def test_settings_of_a_file_and_of_the_command_line(folder: Path) -> None:
    (folder / "cluster.yaml").write_text("partition: low\naccount: me\n")
    done = sweep_here(
        folder,
        "launch",
        "small.yaml",
        "--on=slurm",
        "--settings=cluster.yaml",
        "--set=partition=high",
        "--dry-run",
    )
    assert "--partition=high" in done.stdout
    assert "--account=me" in done.stdout


def test_a_refused_launch_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert is_told(sweep_here(folder, "launch", "small.yaml", "--on=slurm"), "SLURM is not installed")
    assert "No launch was made" in sweep_here(folder, "launches").stdout
    replace(DIGITS, lr=(0.01,)).write(folder / "small.yaml")
    done = sweep_command(folder, "launch", "small.yaml")
    assert "1 trial: 1 finished" in done.stdout
    assert "changed" not in done.stderr


def test_the_next_command_finds_the_project_past_a_file_of_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    tell_next("small", "mlflow", None, "eval/loss")
    (folder / "small").write_text("a sweep file without an ending")
    tell_next("small", "mlflow", None, "eval/loss", is_running=True)
    assert capsys.readouterr().out.splitlines() == [
        "Next: surge-report small",
        "Next: surge-sweep status small --tracker mlflow --watch",
    ]


def test_agents_are_for_this_machine(folder: Path) -> None:
    done = sweep_here(folder, "launch", "small.yaml", "--on=slurm", "--agents=2")
    assert done.returncode == 2
    assert "at_most" in done.stderr


def test_launches_are_listed_and_their_logs_shown(folder: Path) -> None:
    (folder / "train.py").write_text("import sys; print('this is the script'); sys.exit('no such luck')")
    script = Sweep(
        lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py", name="script"
    )
    script.write(folder / "script.yaml")
    assert sweep_command(folder, "launch", "script.yaml").returncode == 1
    assert "is over" in sweep_here(folder, "launches").stdout
    (listed,) = json.loads(sweep_here(folder, "launches", "--all", "--json").stdout)
    assert (listed["engine"], listed["over"]) == ("local", True)
    for task in ("0", script.trials()[0].trial_id):
        assert "this is the script" in sweep_here(folder, "logs", listed["launch"], task).stdout
    assert is_told(sweep_here(folder, "logs", listed["launch"], "7"), "has no task 7", "0 to 0")
    assert is_told(
        sweep_here(folder, "logs", "20260101-000000-0000", "0"), "unknown launch", listed["launch"]
    )
    assert "Nothing of it" in sweep_here(folder, "cancel", listed["launch"]).stdout


def test_an_engine_that_does_not_answer_keeps_trials_from_running_twice(folder: Path) -> None:
    trials = tuple(Task("trial", 0, (trial.trial_id,)) for trial in DIGITS.trials())
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    plan = Plan(new_launch_id(), "small", "mlflow", uri, folder, (DIGITS,), trials, engine="ray")
    launch = Launch.create(plan)
    (launch.folder / "job.json").write_text("{")
    done = sweep_command(folder, "launch", "small.yaml")
    if done.returncode == 1:
        assert is_told(done, "cannot be told", f"surge-sweep cancel {plan.launch_id} --forget")
        assert "over" in sweep_here(folder, "cancel", plan.launch_id, "--forget").stdout
        done = sweep_command(folder, "launch", "small.yaml")
    assert "2 finished" in done.stdout
