"""The commands as a user types them: what is right works, what is wrong is one sentence and the next step."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from surge_sweeps.cli.console import run
from surge_sweeps.cli.entry import report_main, sweep_main
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers import open_tracker

PYTHON = sys.executable


def of_trackers() -> list[str]:
    """The variables that say something of a tracker; a user has set none."""
    return [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]


def call(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in of_trackers()}
    return subprocess.run(
        [PYTHON, "-m", module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment | {"HOME": str(folder), "COLUMNS": "200"},
        timeout=300,
    )


def sweep_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call(folder, "surge_sweeps.cli", *arguments)


def report_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call(folder, "surge_sweeps.cli.report", *arguments)


def call_here(folder: Path, main: Callable[[], None], *arguments: str) -> subprocess.CompletedProcess[str]:
    """An entry point in this process, which has imported already what takes a process of its own seconds."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["command", *arguments])
        patch.setenv("HOME", str(folder))
        for name in of_trackers():
            patch.delenv(name)
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())


def sweep_here(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call_here(folder, sweep_main, *arguments)


def report_here(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call_here(folder, report_main, *arguments)


def is_told(done: subprocess.CompletedProcess[str], *texts: str) -> bool:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    flat = " ".join(done.stderr.split())
    assert all(text in flat for text in texts), flat
    return True


def test_new_writes_a_sweep_for_a_users_script(tmp_path: Path) -> None:
    done = sweep_command(
        tmp_path, "new", "mine.yaml", "--program=train.py", "--lr=1e-3:1e-1:5", "--batch-size=8:32:2", "--seeds=2",
        "--set=weight_decay=1e-4", "--set=optimizer=adamw", "--loss=val loss",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "30 trials = 5 learning rates x 3 batch sizes x 2 seeds" in done.stdout
    sweep = Sweep.read(tmp_path / "mine.yaml")
    assert (sweep.program, sweep.loss, sweep.name) == ("train.py", "val loss", "mine")
    assert sweep.constants == {"weight_decay": 1e-4, "optimizer": "adamw"}
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["parameters"]["weight_decay"]["value"] == 1e-4


def test_new_does_not_replace_a_file_unasked(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("precious")
    assert is_told(sweep_here(tmp_path, "new", "mine.yaml", "--program=t.py"), "there already", "--force")
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert sweep_here(tmp_path, "new", "mine.yaml", "--program=t.py", "--force").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["new", "x.yaml"], ["new", "x.yaml", "--program=a", "--workload=b"], ["launch"], ["lunch"], ["new"]],
)
def test_usage_errors_exit_2(tmp_path: Path, arguments: list[str]) -> None:
    assert sweep_here(tmp_path, *arguments).returncode == 2


def test_bad_axis_names_the_form(tmp_path: Path) -> None:
    assert is_told(sweep_here(tmp_path, "new", "x.yaml", "--program=t.py", "--lr=1:2"), "start:stop:count")
    assert is_told(sweep_here(tmp_path, "new", "x.yaml", "--program=t.py", "--lr=1:x:4"), "'1:x:4'")


def test_new_notes_a_program_that_is_not_there_and_writes_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "here.py").touch()
    assert sweep_here(tmp_path, "new", "x.yaml", "--program=here.py").stderr == ""
    done = sweep_here(tmp_path, "new", "y.yaml", "--program=nope.py")
    assert done.returncode == 0
    assert "there is no file 'nope.py' in this folder" in done.stderr
    assert Sweep.read(tmp_path / "y.yaml").program == "nope.py"


def test_unknown_tracker_and_engine_list_the_valid_ones(tmp_path: Path) -> None:
    Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), constants={"workload": "digits"}).write(tmp_path / "s.yaml")
    assert is_told(
        sweep_here(tmp_path, "launch", "s.yaml", "--tracker=mlfow"),
        "unknown tracker",
        "Valid: files, mlflow",
    )
    assert is_told(
        sweep_here(tmp_path, "launch", "s.yaml", "--on=slurmm"),
        "unknown engine",
        "Valid: kubernetes, local",
    )
    assert is_told(report_here(tmp_path, "p", "--tracker=mlfow"), "unknown tracker", "Valid: files, mlflow")


def test_launch_of_a_missing_file(tmp_path: Path) -> None:
    assert is_told(sweep_command(tmp_path, "launch", "none.yaml"), "none.yaml", "surge-sweep new")


def test_report_without_a_store_makes_none(tmp_path: Path) -> None:
    assert is_told(report_command(tmp_path, "digits-demo"), "mlflow.db")
    assert not list(tmp_path.glob("mlflow.db*"))
    assert not (tmp_path / "reports").exists()


def test_a_project_without_runs_gets_no_report(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    done = report_here(tmp_path, "Default")
    assert is_told(
        done, "no runs in MLflow experiment 'Default'", "surge-sweep launch FILE --project Default"
    )
    assert not (tmp_path / "reports").exists()


def test_a_small_sweep_from_yaml_to_report_and_again(tmp_path: Path) -> None:
    sweep = Sweep(
        lr=(0.0005, 0.002, 0.008, 0.03),
        batch_size=(8, 32, 128),
        seed=(0, 1),
        constants={"workload": "digits", "model": "mlp", "optimizer": "adamw", "max_steps": 60},
        name="little",
    )
    sweep.write(tmp_path / "little.yaml")
    first = sweep_command(tmp_path, "launch", "little.yaml")
    assert first.returncode == 0, first.stderr
    assert "24 trials: 24 finished" in first.stdout
    assert "surge-report little" in first.stdout
    second = sweep_command(tmp_path, "launch", "little.yaml")
    assert "24 trials: 24 done before" in second.stdout

    third = sweep_command(tmp_path, "launch", "little.yaml", "--quiet")
    assert (third.stdout, third.stderr) == ("24 trials: 24 done before\n", "")

    done = report_command(tmp_path, "little", "--draws=200")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "reports" / "little"
    names = {"report.html", "report.md", "fit.json", "schedule.yaml", "optimal_lr.csv"}
    assert {path.name for path in folder.iterdir()} == names
    fit = json.loads((folder / "fit.json").read_text())
    assert fit["schema"] == 1
    assert fit["project"] == "little"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    again = report_command(tmp_path, "little", "--draws=200", "--quiet")
    assert again.returncode == 0
    assert (again.stdout, again.stderr) == ("Report: reports/little/report.html\n", "")
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before

    assert is_told(report_here(tmp_path, "litle"), "experiment 'litle'", "little")
    assert is_told(report_here(tmp_path, "LITTLE"), "nearest first: little", "Did you mean 'little'?")
    assert is_told(report_here(tmp_path, "little", "--loss-column=eval/los"), "eval/los", "eval/loss")
    assert is_told(report_here(tmp_path, "little", "--lr-column=learning_rate"), "learning_rate", "lr")
    assert is_told(report_here(tmp_path, "little", "--protocol=reech"), "unknown protocol", "reach")
    assert is_told(report_here(tmp_path, "little", "--target-losses=a,b"), "not numbers")


@pytest.mark.parametrize(
    ("grid", "missing"),
    [
        ({"lr": (0.001, 0.003, 0.01), "batch_size": (16,)}, "batch size"),
        ({"lr": (0.001, 0.01), "batch_size": (8, 16, 32)}, "learning rate"),
        ({"lr": (1e6, 2e6, 4e6), "batch_size": (8, 16, 32)}, "diverged"),
    ],
)
def test_a_project_that_cannot_answer_gets_a_report_that_says_what_to_run(
    tmp_path: Path, empty_store: Path, grid: dict[str, tuple[float, ...]], missing: str
) -> None:
    from surge_sweeps.training import TrialConfig, limit_threads, train

    limit_threads(1)
    sweep = Sweep(
        lr=grid["lr"],
        batch_size=tuple(int(size) for size in grid["batch_size"]),
        seed=(0, 1),
        constants={"workload": "digits", "model": "mlp", "optimizer": "sgd", "max_steps": 40},
        name="poor",
    )
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = open_tracker("mlflow", "poor", f"sqlite:///{tmp_path / 'mlflow.db'}")
    store.open_sweep(sweep.sweep_id, sweep.name, sweep.to_dict())
    trials = [(trial.trial_id, TrialConfig.from_parameters(trial.parameters)) for trial in sweep.trials()]
    store.write_runs(sweep.sweep_id, train(trials))
    store.close()
    done = report_here(tmp_path, "poor", "--draws=200")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "reports" / "poor"
    fit = json.loads((folder / "fit.json").read_text())
    verdicts = {target["verdict"] for group in fit["groups"] for target in group["targets"]}
    assert verdicts <= {"inconclusive"}
    text = (folder / "report.md").read_text().lower()
    assert missing in text
    assert all(group["schedule"] is None for group in fit["groups"])


def test_set_takes_values_as_typed(tmp_path: Path) -> None:
    arguments = [
        "--set=a=1:30",
        "--set=b=010",
        "--set=c=no",
        "--set=d=true",
        "--set=e=['",
        "--set=f=2.5",
        "--set=g=@x",
    ]
    assert sweep_here(tmp_path, "new", "x.yaml", "--program=t.py", *arguments).returncode == 0
    constants = Sweep.read(tmp_path / "x.yaml").constants
    assert constants == {"a": "1:30", "b": 10, "c": "no", "d": True, "e": "['", "f": 2.5, "g": "@x"}
    assert is_told(
        sweep_here(tmp_path, "new", "y.yaml", "--program=t.py", "--set=lr=0.5"), "axis of the sweep"
    )
    assert is_told(sweep_here(tmp_path, "new", "y.yaml", "--program=t.py", "--set=x=1e999"), "finite")


def test_hostile_names_are_printed_as_they_are(tmp_path: Path) -> None:
    done = sweep_here(tmp_path, "new", "[b].yaml", "--program=t.py", "--name=a[/b]c")
    assert done.returncode == 0, done.stderr
    assert "[b].yaml: " in done.stdout
    assert is_told(report_here(tmp_path, "a[/b]c"), "mlflow.db")


def test_a_builtin_sweep_that_cannot_run_is_not_written(tmp_path: Path) -> None:
    assert is_told(sweep_here(tmp_path, "new", "x.yaml", "--workload=digits"), "no end", "max_steps")
    assert is_told(
        sweep_here(tmp_path, "new", "x.yaml", "--workload=digitz", "--set=max_steps=5"), "Valid: digits"
    )
    assert not (tmp_path / "x.yaml").exists()


def loss_table(*, steps: int | None) -> pd.DataFrame:
    """Losses with the optimal learning rate at 0.01 sqrt(batch size): the final ones, or at steps from 0 on."""
    cells = [
        (model, batch_size, lr, seed)
        for model in ("small", "large")
        for batch_size in (8, 16, 32, 64, 128)
        for lr in np.geomspace(0.005, 0.64, 8)
        for seed in range(2)
    ]
    table = pd.DataFrame(cells, columns=["model/size", "bs", "learning rate", "seed"])
    off = np.log(table["learning rate"] / (0.01 * np.sqrt(table["bs"])))
    speed = (
        table["bs"]
        / 64
        * np.exp(-(off**2) / 4)
        * np.exp(0.02 * np.random.default_rng(0).normal(size=len(table)))
    )
    if steps is None:
        return table.assign(**{"val loss": 1 + np.exp(-speed)})
    rows = table.loc[table.index.repeat(steps)].assign(step=np.tile(np.arange(steps), len(table)) * 4)
    return rows.assign(**{"val loss": 4 * np.exp(-0.05 * speed.loc[rows.index] * rows["step"])})


COLUMNS = [
    "--lr-column=learning rate",
    "--batch-column=bs",
    "--loss-column=val loss",
    "--group-by=model/size",
]


def test_a_table_of_final_losses_becomes_a_report(tmp_path: Path) -> None:
    loss_table(steps=None).to_csv(tmp_path / "my runs.csv", index=False)
    done = report_command(
        tmp_path, "my runs.csv", "-o", "OUT", *COLUMNS, "--batch-unit=sequences", "--draws=200"
    )
    assert done.returncode == 0, done.stderr
    assert "160 runs with one value of val loss each" in done.stderr
    assert f"Report: {Path('OUT') / 'report.html'}" in done.stdout
    fit = json.loads((tmp_path / "OUT" / "fit.json").read_text())
    assert (fit["project"], fit["source"], fit["batch_unit"]) == ("my runs", "my runs.csv", "sequences")
    assert [group["group"] for group in fit["groups"]] == [{"model/size": "large"}, {"model/size": "small"}]
    targets = [target for group in fit["groups"] for target in group["targets"]]
    assert {target["protocol"] for target in targets} == {"final"}
    found = [(record["batch_size"], record["lr"]) for target in targets for record in target["optimal_lr"]]
    assert found
    assert all(lr == pytest.approx(0.01 * batch_size**0.5, rel=0.3) for batch_size, lr in found)


def test_a_table_of_loss_curves_becomes_a_report_under_its_own_name(tmp_path: Path) -> None:
    loss_table(steps=60).to_parquet(tmp_path / "curves.parquet")
    done = report_here(tmp_path, "curves.parquet", *COLUMNS, "--step-column=step", "--draws=200")
    assert done.returncode == 0, done.stderr
    assert "160 runs, 9,600 points of val loss" in done.stderr
    assert "read by: the table itself" in done.stderr
    fit = json.loads((tmp_path / "reports" / "curves" / "fit.json").read_text())
    targets = [target for group in fit["groups"] for target in group["targets"]]
    assert targets
    assert {target["protocol"] for target in targets} == {"reach"}


def test_what_is_wrong_with_a_table_is_told(tmp_path: Path) -> None:
    loss_table(steps=None).to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    assert is_told(report_here(tmp_path, "none.csv"), "no file 'none.csv'")
    assert is_told(report_here(tmp_path, "binary.csv"), "'binary.csv' is no CSV table")
    assert is_told(report_here(tmp_path, "runs.csv"), "--batch-column 'batch_size'", "learning rate")
    assert is_told(report_here(tmp_path, "runs.csv", "--tracker=mlflow"), "'runs.csv' is a table")
    assert is_told(report_here(tmp_path, "runs.csv", *COLUMNS, "--gain-column=val loss"), "--loss-column")
    assert is_told(report_here(tmp_path, "little", "--group-by=a,b"), "'little' is no table, and --group-by")
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--budget-examples=nan", "the budget of nan examples is not finite and positive"),
        ("--budget-examples=0", "the budget of 0 examples"),
        ("--example-overhead=inf", "the example overhead inf is not finite and positive"),
        ("--example-overhead=-1", "the example overhead -1"),
    ],
)
def test_a_budget_or_overhead_that_is_no_length_is_told_before_anything_is_read(
    tmp_path: Path, option: str, told: str
) -> None:
    done = report_here(tmp_path, "none.csv", option)
    assert is_told(done, told)
    assert "Collecting" not in done.stderr


def test_more_draws_than_memory_holds_are_refused(tmp_path: Path) -> None:
    assert report_here(tmp_path, "none.csv", "--draws=1000000").returncode == 2


def test_full_memory_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> None:
        raise MemoryError

    with pytest.raises(SystemExit) as ended:
        run(fill)
    assert ended.value.code == 1
    assert "the memory is full" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "sweep"])
def test_ctrl_c_while_a_command_loads_leaves_no_traceback(tmp_path: Path, command: str) -> None:
    script = f"""
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "surge_sweeps.cli.{command}":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from surge_sweeps.cli.entry import {command}_main
{command}_main()
"""
    done = subprocess.run([PYTHON, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "stopped.\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert is_told(sweep_here(tmp_path, "new", "x.yaml", "--program=t.py"), "cannot be written")
