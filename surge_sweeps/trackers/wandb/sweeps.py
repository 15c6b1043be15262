"""Sweeps registered on a W&B server: make one, list those of a project, see what became of their runs.

A sweep there is a grid that the server hands out cell by cell to whichever agents ask. Its definition is the sweep
file's, so a run that knows nothing of this tool is still told by its learning rate, batch size and seed.
"""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.extras import require
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.wandb.client import (
    WandbProject,
    parse_project,
    read_again,
    wandb_errors,
)
from surge_sweeps.trackers.wandb.session import hide_key, quiet

#: A sweep in one of these states may still hand out cells; the first three are W&B's own words for it.
UNFINISHED = ("PENDING", "RUNNING", "PAUSED")
_PAGE = 500
_SET_BY_SWEEP = ("WANDB_ENTITY", "WANDB_PROJECT")
_OWN_CLIENT = ("WANDB_SERVICE",)


@dataclass(frozen=True)
class RegisteredSweep:
    """A sweep on the server.

    Attributes:
        id: W&B's id. path: as an agent takes it. state: W&B's word, in capitals.
        definition: the grid, or None if it is none that this tool could have written.
        created_at: when it was registered, in W&B's words, which sort by time. url: its page.
    """

    id: str
    path: str
    state: str
    definition: Sweep | None
    created_at: str = ""
    url: str = ""

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
    with wandb_errors("told of the sweep"), quiet(), _environment_kept(), redirect_stdout(io.StringIO()):
        # It also calls what it deprecates itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        return str(wandb.sweep(sweep.to_dict(), entity=project.entity, project=project.project))


def stop(path: str) -> None:
    """Let a sweep hand out nothing more, by W&B's own command; runs that go on are left alone.

    Raises:
        TrackerError: the server is away or refuses.
    """
    # What W&B's client offers for this in Python is not public.
    command = [sys.executable, "-m", "wandb", "sweep", "--stop", path]
    # This process's client would have to outlive the command.
    environment = {name: value for name, value in os.environ.items() if name not in _OWN_CLIENT}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = hide_key(" ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]))
        raise TrackerError(
            f"the sweep {path} cannot be stopped: {said or f'exit code {done.returncode}'}.",
            f"Stop it with: wandb sweep --stop {path}   then call the same command again.",
        )


def agent_heartbeats(api: Any, project: WandbProject, sweep: str) -> dict[str, str]:
    """The agents that ever worked on a sweep (W&B's id) -> when each was last heard of, in W&B's words.

    Raises:
        TrackerError: the server is away or refuses.
    """

    def listed() -> dict[str, str]:
        agents = api.sweep(f"{project.path}/{sweep}").agents()
        return {str(agent.id): str(agent.heartbeat_at) for agent in agents}

    return read_again("read", listed)


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
            str(sweep.created_at),
            str(sweep.url),
        )
        for sweep in found
    ]


def _definition(config: object) -> Sweep | None:
    """The grid; None for the sweeps that users make for other ends, by other methods or with other axes."""
    try:
        return Sweep.from_yaml(yaml.safe_dump(config))
    except SurgeError:
        return None
