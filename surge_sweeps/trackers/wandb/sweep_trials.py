"""Which trial a run of a sweep did where the run does not say so itself: a user's own script under an agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from surge_sweeps.counting import counted
from surge_sweeps.curves import Problem
from surge_sweeps.errors import SurgeError
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.wandb.failures import read_again
from surge_sweeps.trackers.wandb.sweeps import RegisteredSweep


class SweepTrials:
    """The definitions of the runs' sweeps, each fetched once, when a run does not name its trial itself."""

    def __init__(self) -> None:
        self._known: dict[str, RegisteredSweep | None] = {}
        self._gone: dict[str, int] = {}

    def trial_of(self, run: Any, params: Mapping[str, str]) -> str | None:
        """The trial that the run did, or None if its sweep is no grid of ours, or is deleted."""
        name = str(run.sweep_name)
        if name not in self._known:
            self._known[name] = self._fetch(run, name)
        if name in self._gone:
            self._gone[name] += 1
        sweep = self._known[name]
        return sweep.trial_of(params) if sweep is not None else None

    def problems(self) -> list[Problem]:
        """One for each sweep that is deleted."""
        return [
            Problem(
                None,
                f"the sweep {name} of {counted(runs, 'run')} is deleted: which trials they did is not known",
            )
            for name, runs in self._gone.items()
        ]

    def _fetch(self, run: Any, name: str) -> RegisteredSweep | None:
        found = read_again("read", lambda: run.sweep)
        if found is None:
            self._gone[name] = 0
            return None
        try:
            definition = Sweep.from_yaml(yaml.safe_dump(found.config))
        except SurgeError:
            # Users make sweeps for other ends too.
            return None
        return RegisteredSweep(name, name, str(found.state), definition)
