"""What the rows of a counter tell of the store's own step: whether it counts optimizer steps, or contradicts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from surge_sweeps.curve_cache import Series
from surge_sweeps.trackers.stored_runs import StoredRun

#: Reads the series of a metric of some runs, by the store's own step.
ReadSeries = Callable[[Sequence[StoredRun], str], Series]

_SAME = 1e-9


@dataclass
class Evidence:
    """How a counter goes with the store's own step, run by run.

    Attributes:
        a_step: run -> what a step should add to the counter, of every run looked at.
        agreeing: runs whose counter is the step times that in every row. differing: runs where it is not.
        per_step: those of the differing runs whose counter is the step times another number in every row.
        steps_a_row: where all other differing runs have as many steps between any two neighbouring rows, and more than
            one, that number, as for a program that logs every tenth step; else None.
    """

    a_step: Mapping[str, float] = field(default_factory=dict)
    agreeing: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    per_step: dict[str, float] = field(default_factory=dict)
    steps_a_row: float | None = None

    def confirms(self, runs: Iterable[str]) -> bool:
        """Whether the step counts optimizer steps in most of some runs, of those that tell at all."""
        wanted = set(runs)
        agreeing, differing = (len(wanted.intersection(kind)) for kind in (self.agreeing, self.differing))
        return agreeing > differing


def look_at(series: Series | None, a_step: Mapping[str, float]) -> Evidence:
    """Compare a counter with the store's own step in every row.

    Args:
        series: the counter by the store's own step. a_step: run -> what an optimizer step adds to the counter.

    >>> rows = Series(("a",), np.array([3]), np.array([1.0, 2, 4]), np.array([8.0, 16, 32]), np.arange(3))
    >>> look_at(rows, {"a": 8.0}).agreeing, look_at(rows, {"a": 1.0}).per_step
    (['a'], {'a': 8.0})
    """
    found = Evidence(a_step)
    apart: set[float | None] = set()
    for run, part in (series.split() if series is not None else {}).items():
        known = np.isfinite(part.value) & np.isfinite(part.step)
        step, value = part.step[known], part.value[known]
        # At count 0 every step agrees with every other.
        if not (value > 0).any():
            continue
        if np.allclose(step * a_step[run], value, rtol=_SAME, atol=0.0):
            found.agreeing.append(run)
            continue
        found.differing.append(run)
        size = _per_step(step, value)
        if size is not None:
            found.per_step[run] = size
        else:
            apart.add(_increment(step, value, a_step[run]))
    if len(apart) == 1:
        found.steps_a_row = apart.pop()
    return found


def _per_step(step: np.ndarray, value: np.ndarray) -> float | None:
    """What one step adds where that is the same in every row, and more than one; else None.

    Steps from 0 on are what W&B counts by itself, one a log call, so they tell nothing; and no optimizer step sees less
    than one example. A program that gives the number of examples as the step says what it means.
    """
    if step[0] <= 0 or len(np.unique(step)) < 2:
        return None
    size = float(value[-1] / step[-1])
    same = np.allclose(step * size, value, rtol=_SAME, atol=0.0)
    return size if same and size > 1 + _SAME else None


def _increment(step: np.ndarray, value: np.ndarray, a_step: float) -> float | None:
    """How many optimizer steps lie between neighbouring log calls, if always the same whole number above 1."""
    if len(step) < 2 or not (np.diff(step) == 1).all():
        return None
    between = np.diff(value) / a_step
    steps = float(np.rint(between[0]))
    return steps if steps > 1 and np.allclose(between, steps, rtol=_SAME, atol=0.0) else None
