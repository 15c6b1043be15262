"""`surge-sweep branch`, from a sweep file to a report that knows where its runs started."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surge_sweeps.cli.report import app as report_app
from surge_sweeps.cli.sweep import app
from surge_sweeps.sweep import Sweep
from surge_sweeps.training import TrialConfig

SWEEP = Sweep(
    lr=(0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
    batch_size=(8, 32, 128),
    seed=(0, 1, 2),
    constants={
        "workload": "digits",
        "model": "mlp",
        "optimizer": "sign",
        "max_steps": 300,
        "target_loss": 0.3,
    },
    name="small",
)


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    SWEEP.write(Path("small.yaml"))
    return Path("small.yaml")


def test_branches_are_launched_and_reported_as_what_they_are(file: Path) -> None:
    said = call("branch", file, "--losses", "1.8,0.9", "--steps", 10)
    assert "54 trials = 6 learning rates x 3 batch sizes x 3 seeds, from digits-mlp-loss-1.8-" in said
    assert said.splitlines()[-1] == (
        "Next: surge-sweep launch small/small-from-1.8.yaml small/small-from-0.9.yaml --project small-branches"
    )
    written = Sweep.read(Path("small/small-from-0.9.yaml"))
    assert (written.lr, written.batch_size, written.seed) == (SWEEP.lr, SWEEP.batch_size, SWEEP.seed)
    assert written.constants["max_steps"] == 10
    assert Path(str(written.constants["init_from"])).is_absolute()
    assert not {"target_loss", "max_examples"} & set(written.constants)
    call(
        "launch",
        "small/small-from-1.8.yaml",
        "small/small-from-0.9.yaml",
        "--tracker",
        "files",
        "--project",
        "runs",
    )
    done = CliRunner().invoke(report_app, ["runs", "-o", "out"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (group,) = json.loads(Path("out/fit.json").read_text())["groups"]
    found = [(t["protocol"], t["start"], t["horizon_steps"], round(t["loss"], 1)) for t in group["targets"]]
    assert found == [("gain", "checkpoint", 10, 1.8), ("gain", "checkpoint", 10, 0.9)]


def test_the_same_call_makes_the_same_branches_and_replaces_nothing_unasked(file: Path) -> None:
    arguments = (
        "branch",
        file,
        "--losses",
        "1.8",
        "--examples",
        640,
        "-o",
        "there",
        "--reference-batch-size",
        64,
    )
    call(*arguments)
    before = Path("there/small-from-1.8.yaml").read_text()
    again = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert again.exit_code == 1
    assert "there/small-from-1.8.yaml is there already." in str(again.exception)
    call(*arguments, "--force")
    assert Path("there/small-from-1.8.yaml").read_text() == before
    assert len(list(Path("there/checkpoints").iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--losses", "low", "--steps", "10"], "is no list of numbers"),
        (["--losses", "1,1", "--steps", "10"], "names a loss twice"),
        (["--losses", "0.0001", "--steps", "10"], "did not reach loss 0.0001"),
        (["--losses", "9", "--steps", "10"], "starts at loss"),
        (["--losses", "1.8"], "either --steps or --examples"),
    ],
)
def test_what_cannot_be_branched_is_said(file: Path, options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["branch", str(file), *options])
    assert done.exit_code in (1, 2)
    assert message in f"{done.output} {done.exception}"


def test_a_branch_has_a_constant_learning_rate_whatever_the_whole_run_has(file: Path) -> None:
    shape = {"schedule": "cosine", "warmup_steps": 20}
    replace(SWEEP, constants={**SWEEP.constants, **shape}).write(file)
    call("branch", file, "--losses", "1.8", "--steps", 10)
    written = Sweep.read(Path("small/small-from-1.8.yaml"))
    assert not set(shape) & set(written.constants)
    TrialConfig.from_parameters(written.trials()[0].parameters)


def test_a_script_of_ones_own_is_not_branched(file: Path) -> None:
    Sweep(
        lr=(0.1,),
        batch_size=(8,),
        seed=(0,),
        constants={"max_steps": 5},
        program="train.py",
        command=("python",),
    ).write(file)
    done = CliRunner().invoke(app, ["branch", str(file), "--losses", "1", "--steps", "5"])
    assert "calls a script of its own" in str(done.exception)
