"""What the definitions of the runs' sweeps tell: the trial of a run that does not name it, and early stopping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml

from surge_sweeps.counting import counted
from surge_sweeps.curves import Problem
from surge_sweeps.errors import SurgeError
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.wandb.failures import read_again
from surge_sweeps.trackers.wandb.sweeps import RegisteredSweep

#: Requests at once.
_THREADS = 6


class SweepTrials:
    """The definitions of the runs' sweeps, each fetched once, when a run does not name its trial itself."""

    def __init__(self) -> None:
        self._runs: Counter[str] = Counter()
        self._one_of: dict[str, Any] = {}
        self._stopping: dict[str, str | None] = {}
        self._known: dict[str, RegisteredSweep | None] = {}
        self._gone: dict[str, int] = {}

    def count(self, run: Any) -> None:
        """Take note of a run that is read, whether it names its trial or not."""
        if run.sweep_name:
            self._runs[str(run.sweep_name)] += 1
            self._one_of.setdefault(str(run.sweep_name), run)

    def trial_of(self, run: Any, params: Mapping[str, str]) -> str | None:
        """The trial that the run did, or None if its sweep is no grid of ours, or is deleted."""
        name = str(run.sweep_name)
        if name not in self._known:
            self._known[name] = self._fetch(run, name)
        if name in self._gone:
            self._gone[name] += 1
        sweep = self._known[name]
        return sweep.trial_of(params) if sweep is not None else None

    @property
    def gone(self) -> frozenset[str]:
        """W&B's ids of the sweeps that runs named and that are deleted."""
        return frozenset(self._gone)

    def problems(self) -> list[Problem]:
        """One for each sweep that is deleted."""
        return [
            Problem(
                None,
                f"the sweep {name} of {counted(runs, 'run')} is deleted: which trials they did is not known",
            )
            for name, runs in self._gone.items()
        ]

    def early_stopping(self) -> list[Problem]:
        """One for each sweep that ends runs early; a definition that is not known yet takes a request.

        W&B's client lists sweeps by a request each as well, those without runs too.

        Raises:
            TrackerError: the server is away.
        """
        unknown = sorted(self._runs.keys() - self._stopping.keys() - self._gone.keys())
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="surge-wandb") as pool:
            self._stopping |= zip(unknown, pool.map(self._rule_of, unknown), strict=True)
        return [
            Problem(
                None,
                f"the sweep {name} ends runs early (early_terminate: {kind}): of its {counted(runs, 'run')}, those that"
                " began worse stop sooner and still count as finished, which bends what is fitted at later steps."
                " Sweep without early_terminate, or leave it out by a filter",
            )
            for name, runs in sorted(self._runs.items())
            if (kind := self._stopping.get(name)) is not None
        ]

    def _rule_of(self, name: str) -> str | None:
        found = read_again("read", lambda: self._one_of[name].sweep)
        return None if found is None else early_stopping_of(found.config)

    def _fetch(self, run: Any, name: str) -> RegisteredSweep | None:
        found = read_again("read", lambda: run.sweep)
        if found is None:
            self._gone[name] = 0
            return None
        self._stopping[name] = early_stopping_of(found.config)
        try:
            definition = Sweep.from_yaml(yaml.safe_dump(found.config))
        except SurgeError:
            # Users make sweeps for other ends too.
            return None
        return RegisteredSweep(name, name, str(found.state), definition)


def early_stopping_of(config: object) -> str | None:
    """By which rule a sweep ends runs early; None for one that does not.

    >>> early_stopping_of({"early_terminate": {"type": "hyperband", "min_iter": 3}}), early_stopping_of({})
    ('hyperband', None)
    """
    rule = config.get("early_terminate") if isinstance(config, Mapping) else None
    if not rule:
        return None
    return str(rule.get("type", "unnamed")) if isinstance(rule, Mapping) else str(rule)
