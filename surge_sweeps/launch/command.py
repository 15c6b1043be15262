"""A sweep's command with W&B's macros filled in for one trial: the argument list an agent would run."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from surge_sweeps.errors import SweepFileError, UnknownNameError
from surge_sweeps.sweep import Scalar, Sweep, Trial

_MACRO = re.compile(r"\$\{([^}]*)\}")
_VARIABLE = re.compile(r"\$\{envvar:([^}]*)\}")


def expand_command(sweep: Sweep, trial: Trial) -> list[str]:
    """The arguments that run `trial`, to be started without a shell.

    `${interpreter}` is the Python that runs this tool, where a W&B agent takes the first `python` on the path.

    Raises:
        SweepFileError: the command names a program that the sweep does not have, or an unset variable.
        UnknownNameError: an unknown macro.

    >>> sweep = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=("${program}", "${args}"), program="train.py")
    >>> expand_command(sweep, sweep.trials()[0])
    ['train.py', '--lr=0.1', '--batch_size=8', '--seed=0']
    """
    arguments: list[str] = []
    for item in sweep.command:
        whole = _MACRO.fullmatch(item)
        arguments += _expand(whole.group(1), sweep, trial.parameters) if whole else [_fill_environment(item)]
    # `env` only looks the interpreter up on the path; an absolute one needs no look-up.
    return arguments[1:] if arguments[:1] == ["/usr/bin/env"] else arguments


def shown_command(sweep: Sweep, trial: Trial) -> list[str]:
    """As `expand_command`, with the names of environment variables for their values, which may be secrets.

    >>> command = ("${program}", "--key=${envvar:API_KEY}", "${args}")
    >>> sweep = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=command, program="train.py")
    >>> shown_command(sweep, sweep.trials()[0])[:2]
    ['train.py', '--key=$API_KEY']
    """
    hidden = tuple(_VARIABLE.sub(r"$\1", item) for item in sweep.command)
    return expand_command(replace(sweep, command=hidden), trial)


def _expand(macro: str, sweep: Sweep, parameters: Mapping[str, Scalar]) -> Sequence[str]:
    if macro.startswith("envvar:"):
        return [_environment(macro.removeprefix("envvar:"))]
    if macro not in _MACROS:
        raise UnknownNameError("macro in 'command'", macro, [*_MACROS, "envvar:NAME"])
    return _MACROS[macro](sweep, parameters)


def _fill_environment(item: str) -> str:
    """Only `${envvar:NAME}` may be a part of an item; the other macros are whole items."""
    return _VARIABLE.sub(lambda match: _environment(match.group(1)), item)


def _environment(name: str) -> str:
    if name not in os.environ:
        raise SweepFileError(f"the command uses the environment variable {name!r}, which is not set.")
    return os.environ[name]


def _program(sweep: Sweep, parameters: Mapping[str, Scalar]) -> Sequence[str]:
    if sweep.program is None:
        raise SweepFileError(
            "the command uses ${program}, but the sweep has no 'program'.", "Add 'program: train.py'."
        )
    return [sweep.program]


def _flags(sweep: Sweep, parameters: Mapping[str, Scalar]) -> Sequence[str]:
    return [f"--{name}={value}" for name, value in parameters.items()]


def _boolean_flags(sweep: Sweep, parameters: Mapping[str, Scalar]) -> Sequence[str]:
    plain = {name: value for name, value in parameters.items() if not isinstance(value, bool)}
    return [*_flags(sweep, plain), *(f"--{name}" for name, value in parameters.items() if value is True)]


_MACROS: Mapping[str, Callable[[Sweep, Mapping[str, Scalar]], Sequence[str]]] = {
    "env": lambda sweep, parameters: ["/usr/bin/env"],
    "interpreter": lambda sweep, parameters: [sys.executable],
    "program": _program,
    "args": _flags,
    "args_no_boolean_flags": _boolean_flags,
    "args_no_equals": lambda sweep, parameters: [
        part for name, value in parameters.items() for part in (f"--{name}", str(value))
    ],
    "args_no_hyphens": lambda sweep, parameters: [f"{name}={value}" for name, value in parameters.items()],
    "args_json": lambda sweep, parameters: [json.dumps(dict(parameters))],
}
