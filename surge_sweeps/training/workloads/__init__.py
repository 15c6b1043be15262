"""Built-in workloads by name. A further one is a module like `digits` and a line in `WORKLOADS`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.data.places import data_folder
from surge_sweeps.training.workloads import digits, images, teacher, text
from surge_sweeps.training.workloads.base import Settings, Workload, WorkloadSpec

#: What a trial trains where it names no model.
DEFAULT_MODEL = "mlp"

WORKLOADS: dict[str, WorkloadSpec] = {
    "digits": digits.SPEC,
    "images": images.SPEC,
    "text": text.SPEC,
    "teacher": teacher.SPEC,
}
#: The settings that name data.
_OF_DATA = ("data", "eval_data")


def check_workload(name: str, model: str, settings: Settings) -> Settings:
    """Check names and settings without loading any data; the settings with every default filled in.

    Raises:
        UnknownNameError: unknown workload or model; the message lists the valid names.
        TrainingError: a setting that the workload or the model does not take, or lacks, or a shape that cannot be.

    >>> check_workload("digits", "mlp", Settings()) == Settings()
    True
    >>> check_workload("digits", "gpt", Settings())
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.UnknownNameError: unknown model 'gpt'. Valid: cnn, mlp.
    """
    spec = workload_spec(name)
    if model == DEFAULT_MODEL and model not in spec.models:
        raise TrainingError(
            f"the workload {name!r} needs a model.", f"Give model: {' or '.join(spec.models)}."
        )
    if model not in spec.models:
        raise UnknownNameError("model", model, spec.models)
    taken: Mapping[str, str | int | None] = {**spec.settings, **spec.models[model]}
    for setting in fields(Settings):
        value = getattr(settings, setting.name)
        if value is not None and setting.name not in taken:
            raise _not_taken(name, model, setting.name, taken)
    for required in spec.required:
        if getattr(settings, required) is None:
            raise TrainingError(f"the workload {name!r} needs {required}.", f"Give {required}.")
    missing = {key: value for key, value in taken.items() if getattr(settings, key) is None}
    filled = replace(settings, **missing)  # type: ignore[arg-type]  # a spec's defaults are of their settings' kinds
    spec.check(model, filled)
    return filled


def _not_taken(workload: str, model: str, setting: str, taken: Collection[str]) -> TrainingError:
    if setting in _OF_DATA and not any(name in taken for name in _OF_DATA):
        others = [name for name, spec in WORKLOADS.items() if "data" in spec.settings]
        return TrainingError(
            f"the workload {workload!r} has examples of its own and takes no {setting}.",
            f"Leave {setting} out, or take the workload {' or '.join(others)}.",
        )
    return TrainingError(
        f"the model {model!r} of {workload!r} takes no {setting}.",
        f"It takes: {', '.join(taken)}." if taken else "It takes no such settings: leave it out.",
    )


def workload_spec(name: str) -> WorkloadSpec:
    """What can be asked of the workload of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in WORKLOADS:
        raise UnknownNameError("workload", name, WORKLOADS)
    return WORKLOADS[name]


def load_workload(name: str, settings: Settings = Settings()) -> Workload:  # noqa: B008  # it cannot be changed
    """The workload of that name, loaded once a process for each of the settings, which hold every default.

    Raises:
        UnknownNameError: there is none.
        TrainingError: its data cannot be used.
        MissingExtraError: a package it needs is not installed.
    """
    # A relative name of data means what lies in the data folder.
    return _loaded(name, settings, data_folder().resolve())


@cache
def _loaded(name: str, settings: Settings, folder: Path) -> Workload:
    return workload_spec(name).load(settings)
