"""The argument list of a trial is the one a W&B agent would run, and never passes through a shell."""

from __future__ import annotations

import json
import sys

import pytest

from surge_sweeps.errors import SweepFileError, UnknownNameError
from surge_sweeps.launch.command import expand_command
from surge_sweeps.sweep import BUILTIN_COMMAND, SCRIPT_COMMAND, Sweep


def sweep(command: tuple[str, ...], **constants: str | int | float | bool) -> Sweep:
    return Sweep(
        lr=(1e-5,), batch_size=(8,), seed=(3,), constants=constants, command=command, program="my train.py"
    )


def test_script_command_runs_this_python_with_plain_flags() -> None:
    trial_command = expand_command(
        sweep(SCRIPT_COMMAND, note="a b; rm -rf /"), sweep(SCRIPT_COMMAND).trials()[0]
    )
    assert trial_command == [sys.executable, "my train.py", "--lr=1e-05", "--batch_size=8", "--seed=3"]


def test_hostile_values_stay_one_argument() -> None:
    hostile = sweep(SCRIPT_COMMAND, note="a b; $(touch x)")
    assert "--note=a b; $(touch x)" in expand_command(hostile, hostile.trials()[0])


def test_builtin_command_calls_the_trainer() -> None:
    builtin = sweep(BUILTIN_COMMAND, workload="digits")
    assert expand_command(builtin, builtin.trials()[0])[:3] == [sys.executable, "-m", "surge_sweeps.training"]


@pytest.mark.parametrize(
    ("macro", "expected"),
    [
        ("${args_no_equals}", ["--fast", "True", "--lr", "1e-05", "--batch_size", "8", "--seed", "3"]),
        ("${args_no_hyphens}", ["fast=True", "lr=1e-05", "batch_size=8", "seed=3"]),
        ("${args_no_boolean_flags}", ["--lr=1e-05", "--batch_size=8", "--seed=3", "--fast"]),
    ],
)
def test_other_macros(macro: str, expected: list[str]) -> None:
    one = sweep((macro,), fast=True)
    assert expand_command(one, one.trials()[0]) == expected


def test_args_json() -> None:
    one = sweep(("${args_json}",))
    assert json.loads(expand_command(one, one.trials()[0])[0]) == {"lr": 1e-5, "batch_size": 8, "seed": 3}


def test_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    one = sweep(("${envvar:SURGE_TEST}",))
    monkeypatch.setenv("SURGE_TEST", "here")
    assert expand_command(one, one.trials()[0]) == ["here"]
    monkeypatch.delenv("SURGE_TEST")
    with pytest.raises(SweepFileError, match="SURGE_TEST"):
        expand_command(one, one.trials()[0])


def test_unknown_macro_lists_the_valid_ones() -> None:
    one = sweep(("${argz}",))
    with pytest.raises(UnknownNameError, match="args_no_hyphens"):
        expand_command(one, one.trials()[0])
