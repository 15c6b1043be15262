"""Sweeps registered on a W&B server: make one, list those of a project, see what became of their runs.

A sweep there is a grid that the server hands out cell by cell to whichever agents ask. Its definition is the sweep
file's, so a run that knows nothing of this tool is still told by its learning rate, batch size and seed.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import yaml

from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.wandb.client import (
    WandbProject,
    parse_project,
    read_again,
    wandb_errors,
)

#: A sweep in one of these states may still hand out cells; the first three are W&B's own words for it.
UNFINISHED = ("PENDING", "RUNNING", "PAUSED")
#: A run in one of these states has not ended, or will be started again by the server.
ACTIVE = ("pending", "running", "preempting")
REQUEUED = ("preempted",)

_PAGE = 500
_SET_BY_SWEEP = ("WANDB_ENTITY", "WANDB_PROJECT")


class RunState(NamedTuple):
    """A run of a sweep as a listing shows it.

    Attributes:
        run: W&B's id. sweep: W&B's id of its sweep. state: W&B's word (`running`, `finished`, `failed`, `crashed`,
            `killed`, `preempted`, ...).
    """

    run: str
    sweep: str
    state: str


@dataclass(frozen=True)
class RegisteredSweep:
    """A sweep on the server.

    Attributes:
        id: W&B's id. path: as an agent takes it. state: W&B's word, in capitals.
        definition: the grid, or None if it is none that this tool could have written.
    """

    id: str
    path: str
    state: str
    definition: Sweep | None

    @cached_property
    def _trial_ids(self) -> Mapping[tuple[float, float, float], str]:
        trials = self.definition.trials() if self.definition else []
        return {(trial.lr, trial.batch_size, trial.seed): trial.trial_id for trial in trials}

    @property
    def trial_ids(self) -> frozenset[str]:
        """The ids of all its trials."""
        return frozenset(self._trial_ids.values())

    def trial_of(self, config: Mapping[str, object]) -> str | None:
        """The id of the trial that a run with this configuration did, or None if it is no cell of the grid.

        >>> sweep = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,))
        >>> registered = RegisteredSweep("ab12", "team/digits/ab12", "RUNNING", sweep)
        >>> registered.trial_of({"lr": "0.1", "batch_size": 8, "seed": 0}) == sweep.trials()[0].trial_id
        True
        >>> registered.trial_of({"lr": 0.2, "batch_size": 8, "seed": 0})
        """
        return self._trial_ids.get(
            (_number(config.get("lr")), _number(config.get("batch_size")), _number(config.get("seed")))
        )


def _number(value: object) -> float:
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except ValueError:
            return math.nan
    return math.nan


def home_of(text: str | None, sweep: Sweep) -> WandbProject:
    """The project that a sweep's runs go to; asks no server, so that the entity may be empty: the default one.

    Args:
        text: `entity/project` or a project's name, as the user gave it. Without it: the project of the sweep's own
            file, else WANDB_PROJECT, else the sweep's name. An entity that is not named is the sweep file's, if any.

    Raises:
        SurgeError: this is no project, or one sweep of it.

    >>> home_of("digits", Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), extra={"entity": "team"})).path
    'team/digits'
    """
    project = parse_project(
        text or str(sweep.extra.get("project") or os.environ.get("WANDB_PROJECT") or sweep.name)
    )
    if project.sweep is not None:
        raise SurgeError(
            f"{text!r} names one sweep of a project.", "Name the project alone: --project entity/project."
        )
    if not project.entity and "entity" in sweep.extra:
        return project._replace(entity=str(sweep.extra["entity"]))
    return project


def register(project: WandbProject, sweep: Sweep) -> str:
    """Register the sweep with the server and return W&B's id of it; agents may start at once.

    Raises:
        TrackerError: the server is away or refuses it.
    """
    wandb = require("wandb", "wandb")
    # The function prints the id and sets the project in this process's environment: neither is asked for here.
    with wandb_errors("told of the sweep"), _environment_kept(), redirect_stdout(io.StringIO()):
        # It also calls what it deprecates itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        return str(wandb.sweep(sweep.to_dict(), entity=project.entity, project=project.project))


@contextmanager
def _environment_kept() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _SET_BY_SWEEP}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def list_sweeps(api: Any, project: WandbProject) -> list[RegisteredSweep]:
    """Every sweep of a project, with its definition and its state; none where there is no such project.

    Raises:
        TrackerError: the server is away or refuses.
    """

    def listed() -> list[Any]:
        return list(api.project(project.project, entity=project.entity).sweeps(per_page=_PAGE))

    try:
        found = read_again("read", listed)
    except ValueError:
        # What the client says where the project does not exist.
        return []
    return [
        RegisteredSweep(
            str(sweep.id),
            f"{project.path}/{sweep.id}",
            str(sweep.state).upper(),
            _definition(sweep.config),
        )
        for sweep in found
    ]


def _definition(config: object) -> Sweep | None:
    """The grid; None for the sweeps that users make for other ends, by other methods or with other axes."""
    try:
        return Sweep.from_yaml(yaml.safe_dump(config))
    except SurgeError:
        return None


def preempted_runs(api: Any, project: WandbProject) -> frozenset[str]:
    """W&B's ids of the project's runs that were preempted and that no agent has gone on with.

    Raises:
        TrackerError: the server is away or refuses.
    """
    return frozenset(str(run.id) for run in _runs(api, project, {"state": {"$in": list(REQUEUED)}}))


def run_states(api: Any, project: WandbProject, sweeps: Iterable[str]) -> list[RunState]:
    """The runs of some sweeps (W&B's ids), oldest first; light: neither configurations nor metrics are fetched.

    Raises:
        TrackerError: the server is away or refuses.
    """
    return [
        RunState(str(run.id), str(run.sweep_name), str(run.state)) for run in _runs(api, project, _of(sweeps))
    ]


def logged_metrics(api: Any, project: WandbProject, sweeps: Iterable[str]) -> dict[str, frozenset[str]]:
    """W&B's run id -> names of the metrics it has logged so far, for every run of some sweeps.

    Raises:
        TrackerError: the server is away or refuses.
    """
    found = {}
    for run in _runs(api, project, _of(sweeps), lazy=False):
        # A metric may be kept out of the summary, and a summary may be ahead of the history's keys.
        names = {*run.summary_metrics, *((getattr(run, "history_keys", None) or {}).get("keys") or {})}
        found[str(run.id)] = frozenset(name for name in map(str, names) if not name.startswith("_"))
    return found


def handed_out(
    api: Any, project: WandbProject, sweeps: Iterable[RegisteredSweep]
) -> dict[str, frozenset[str]]:
    """W&B's id of each sweep -> ids of the trials that have a run in it and will not be handed out again.

    Preempted runs do not count: the server gives those to the next agent.

    Raises:
        TrackerError: the server is away or refuses.
    """
    wanted = {sweep.id: sweep for sweep in sweeps}
    found: dict[str, set[str]] = {sweep: set() for sweep in wanted}
    for run in _runs(api, project, _of(wanted), lazy=False):
        trial = wanted[str(run.sweep_name)].trial_of(run.config)
        if trial is not None and str(run.state) not in REQUEUED:
            found[str(run.sweep_name)].add(trial)
    return {sweep: frozenset(trials) for sweep, trials in found.items()}


def _of(sweeps: Iterable[str]) -> dict[str, object]:
    # An empty "or" would match every run.
    return {"$or": [{"sweep": sweep} for sweep in sweeps] or [{"sweep": ""}]}


def _runs(api: Any, project: WandbProject, filters: Mapping[str, object], *, lazy: bool = True) -> list[Any]:
    """The runs that pass; none where there is no such project."""

    def listed() -> list[Any]:
        # The API object answers the same question from memory otherwise.
        api.flush()
        return list(
            api.runs(project.path, filters=dict(filters), order="+created_at", per_page=_PAGE, lazy=lazy)
        )

    try:
        return read_again("read", listed)
    except ValueError:
        return []
