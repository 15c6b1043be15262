"""Which planned trial a run did that does not say so itself, told by its configuration alone.

A script that knows nothing of this tool logs its parameters and no trial id. Where nothing else tells its trial, a run
counts for the planned trial all of whose parameters it has, and the metric that the trial is about.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from surge_sweeps.sweep import Scalar, Trial
from surge_sweeps.trackers.stored_runs import StoredRun

_Values = tuple[float | str, ...]


class PlannedTrial(NamedTuple):
    """A trial that is to be done, and the metric that a run of it must log."""

    trial: Trial
    loss: str


def match_planned(
    stored: Iterable[StoredRun], planned: Mapping[str, PlannedTrial], left_alone: frozenset[str] = frozenset()
) -> list[StoredRun]:
    """The runs, with the trial id of the planned trial that each did, where it had none and one can be told.

    Values that are numbers are compared as numbers, others as text; a run may have more parameters than the trial. Of
    several trials that fit, the one with the most parameters is taken, and none where two have as many: they are of
    different scripts, and a run does not tell its script.

    Args:
        stored: a project's runs. planned: trial id -> the trial.
        left_alone: runs that something else says of that they did another trial, or none.

    >>> planned = PlannedTrial(Trial({"lr": 0.1, "seed": 0}), "val/loss")
    >>> run = StoredRun("r1", None, "finished", 0, 1, {"lr": "1e-1", "seed": "0"}, {"val/loss": None})
    >>> match_planned([run], {"t1": planned})[0].params["trial_id"]
    't1'
    >>> match_planned([run], {"t1": planned._replace(loss="eval/loss")})[0].params.get("trial_id")
    """
    trials = _by_values(planned)
    found = []
    for run in stored:
        trial = None
        if "trial_id" not in run.params and run.run not in left_alone:
            trial = _trial_of(run, trials, planned)
        found.append(run if trial is None else replace(run, params={**run.params, "trial_id": trial}))
    return found


def _by_values(
    planned: Mapping[str, PlannedTrial],
) -> list[tuple[Sequence[str], Mapping[_Values, Sequence[str]]]]:
    """Names of parameters, and values of those -> trial ids; the most parameters first."""
    found: dict[tuple[str, ...], dict[_Values, list[str]]] = defaultdict(lambda: defaultdict(list))
    for trial_id, item in planned.items():
        names = tuple(sorted(item.trial.parameters))
        values = tuple(_comparable(item.trial.parameters[name]) for name in names)
        found[names][values].append(trial_id)
    return sorted(found.items(), key=lambda item: -len(item[0]))


def _trial_of(
    run: StoredRun,
    trials: Iterable[tuple[Sequence[str], Mapping[_Values, Sequence[str]]]],
    planned: Mapping[str, PlannedTrial],
) -> str | None:
    best: list[str] = []
    size = 0
    for names, by_values in trials:
        if best and len(names) < size:
            break
        if all(name in run.params for name in names):
            values = tuple(_comparable(run.params[name]) for name in names)
            best += [trial for trial in by_values.get(values, ()) if planned[trial].loss in run.metrics]
            size = len(names)
    return best[0] if len(best) == 1 else None


def _comparable(value: Scalar) -> float | str:
    """A number as a number, whether it came as text or not; NaN, which equals nothing, and all else as text."""
    if isinstance(value, bool):
        return str(value)
    try:
        number = float(value)
    except ValueError:
        return str(value)
    return str(value) if math.isnan(number) else number
