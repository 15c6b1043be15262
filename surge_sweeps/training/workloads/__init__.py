"""Built-in workloads by name. A further one is a module like `digits` and a line in `WORKLOADS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from surge_sweeps.errors import UnknownNameError
from surge_sweeps.training.workloads import digits
from surge_sweeps.training.workloads.base import Workload


class _Entry(NamedTuple):
    load: Callable[[], Workload]
    models: Iterable[str]


WORKLOADS: dict[str, _Entry] = {"digits": _Entry(digits.load, digits.MODELS)}


def check_workload(name: str, model: str) -> None:
    """Check names without loading any data.

    Raises:
        UnknownNameError: unknown workload or model; the message lists the valid names.

    >>> check_workload("digits", "mlp")
    >>> check_workload("digits", "gpt")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.UnknownNameError: unknown model 'gpt'. Valid: cnn, mlp.
    """
    if name not in WORKLOADS:
        raise UnknownNameError("workload", name, WORKLOADS)
    if model not in WORKLOADS[name].models:
        raise UnknownNameError("model", model, WORKLOADS[name].models)


@cache
def load_workload(name: str) -> Workload:
    """The workload of that name, loaded once a process.

    Raises:
        UnknownNameError: there is none.
        MissingExtraError: a package it needs is not installed.
    """
    if name not in WORKLOADS:
        raise UnknownNameError("workload", name, WORKLOADS)
    return WORKLOADS[name].load()
