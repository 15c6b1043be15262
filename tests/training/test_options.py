"""What the command line of a trial takes, and which of it is a parameter."""

from __future__ import annotations

import pytest

from surge_sweeps.training.options import parse
from surge_sweeps.training.workloads import WORKLOADS

TRIAL = ["--lr=0.01", "--batch_size=8", "--max_steps=3"]


def test_options_are_no_parameters() -> None:
    plain, _ = parse(TRIAL)
    parameters, options = parse(
        [*TRIAL, "--sweep-id=s", "--trial-id=t", "--owner=launch/3", "--uri=sqlite:///x.db", "--device=cpu",
         "--micro-batch-size=4", "--checkpoint-every-minutes=0.5"]
    )  # fmt: skip
    assert parameters == plain == {"lr": 0.01, "batch_size": 8, "max_steps": 3}
    assert options.task == ("s", "t", "launch/3")
    assert (options.uri, options.device, options.micro_batch_size) == ("sqlite:///x.db", "cpu", 4)
    assert options.checkpoint_every_minutes == 0.5


def test_without_them_a_run_belongs_to_no_task() -> None:
    _, options = parse(TRIAL)
    assert options.task is None
    assert options.micro_batch_size is None
    assert (options.device, options.checkpoint_every_minutes) == ("auto", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep-id=s"], "go together"),
        (["--owner=a/1", "--trial-id=t"], "go together"),
        (["--sweep-id=", "--trial-id=t", "--owner=a/1"], "go together"),
        (["--micro-batch-size=0"], "at least 1"),
        (["--checkpoint-every-minutes=-1"], "0 or more"),
        (["--checkpoint-every-minutes=nan"], "0 or more"),
        (["--checkpoint-every-minutes=inf"], "0 or more"),
        (["--device=tpu"], "choose from"),
    ],
)
def test_mistakes_are_usage_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse([*TRIAL, *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_help_names_the_defaults_of_the_models_and_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    listed = " ".join(capsys.readouterr().out.split()).split(" --")
    helps = {text.split()[0].replace("-", "_"): text for text in listed}
    for spec in WORKLOADS.values():
        defaults = [*spec.settings.items(), *(item for own in spec.models.values() for item in own.items())]
        for name, value in defaults:
            assert value is None or f" {value}" in helps[name], (name, value)
