"""The step that a point carries on MLflow, which the program gave: whether it counts optimizer steps.

Most programs give the epoch, Ray gives the number of reports, a call without `step` gives 0. What contradicts that it
is the optimizer step is refused. Where nothing tells, the user is asked if the points lie evenly, as one an epoch or
one every few epochs does, and told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.curves import DOUBT, Problem
from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.aliases import matching
from surge_sweeps.trackers.naming.evidence import ReadSeries
from surge_sweeps.trackers.naming.frameworks import LIGHTNING_BEHIND, Framework
from surge_sweeps.trackers.naming.names import OWN_STEP, number
from surge_sweeps.trackers.stored_runs import StoredRun

_Found = TypeVar("_Found")

#: So many runs are looked at, point by point.
_LOOKED_AT = 8

#: Metrics of Ray (air/integrations/mlflow.py) that it gives as the step, and what they count.
_RAY_STEPS = {"training_iteration": "reports to Ray", "timesteps_total": "steps of an environment"}
_HINT = (
    "Log the optimizer step, or the examples seen, beside the loss and give --step-column METRIC or --examples-column"
    f" METRIC. Or --step-column {OWN_STEP} if the step given is the optimizer step."
)


@dataclass(frozen=True)
class GivenStep:
    """Runs whose points carry the step that their program gave.

    Attributes:
        runs: those that decide, all with the loss. loss: the metric read. framework: theirs.
        record: they use the names of this tool's run record. read: reads a metric of some runs.
    """

    runs: Sequence[StoredRun]
    loss: str
    framework: Framework | None
    record: bool
    read: ReadSeries

    def why(self, problems: list[Problem]) -> str:
        """Why the step is taken for the optimizer step, in words; what leaves a doubt is added to the problems.

        Raises:
            SurgeError: it counts something else, or looks like it.
        """
        if self.framework is not None and not self.framework.steps:
            why = self.framework.no_steps
            raise SurgeError(f"nothing tells which optimizer step a point belongs to: {why}.", _HINT)
        self.check()
        confirmed = self._confirming_setting()
        if confirmed is not None:
            return f"{OWN_STEP}, which {confirmed} confirms"
        steps = self._looked_at()
        if steps and max(found[-1] for found in steps) <= 0:
            raise SurgeError(
                f"all points of {self.loss!r} stand at step 0: they were logged without a step.",
                "Log with one: mlflow.log_metric(name, value, step=n). Where a metric beside counts optimizer steps:"
                " --step-column METRIC.",
            )
        several = [found for found in steps if len(found) > 1]
        strides = [stride for found in several if (stride := even_stride(found)) is not None]
        if not self.record and not self._finer_than_epochs() and 2 * len(strides) > len(several):
            where = "at every single one" if min(strides) == 1 else f"every {min(strides):g}"
            raise SurgeError(
                f"nothing tells whether the step of {self.loss!r} counts optimizer steps or epochs: there is a point"
                f" {where}, as where a program gives the epoch.",
                _HINT,
            )
        what = (
            f"{DOUBT} that the step of {self.loss!r} counts optimizer steps: it is taken for them. If it"
            " counts epochs or micro-batches, give --step-column METRIC or --examples-column METRIC; if it is right,"
            f" --step-column {OWN_STEP}"
        )
        problems.append(Problem(None, what))
        if any(name in aliases.EPOCH_COUNTS for run in self.runs for name in run.metrics):
            problems.append(Problem(None, LIGHTNING_BEHIND))
        return f"{OWN_STEP}, as the program gave it"

    def check(self) -> None:
        """Refuse a step that by the newest points counts something else.

        Raises:
            SurgeError: it counts epochs or reports.
        """
        told = self._counts()
        if told is not None:
            raise SurgeError(f"the step of {self.loss!r} counts {told}. It is no optimizer step.", _HINT)

    def counts_epochs(self) -> bool:
        """Whether the newest points show that it counts epochs."""
        return (self._counts() or "").startswith("epochs")

    def _counts(self) -> str | None:
        return self._counts_with() or self._ends_with_epochs()

    def _counts_with(self) -> str | None:
        """A metric that says what else the step counts."""
        names = {name for run in self.runs for name in run.metrics}
        kinds = [(name, _RAY_STEPS[name], 0.0) for name in sorted(names & _RAY_STEPS.keys())]
        kinds += [(name, "epochs", 1.0) for name in sorted(names & aliases.EPOCH_COUNTS)]
        for name, what, slack in kinds:
            pairs = [
                (run.metrics[self.loss].step, run.metrics[name].value)
                for run in self.runs
                if name in run.metrics and run.metrics[self.loss].step > 1
            ]
            if _most([abs(step - value) for step, value in pairs], slack.__ge__):
                return f"{what}, as {name!r} does"
        return None

    def _ends_with_epochs(self) -> str | None:
        name = self._setting_at_end(aliases.EPOCHS)
        return None if name is None else f"epochs: the runs end where {name!r} says"

    def _finer_than_epochs(self) -> bool:
        """Whether the step goes on faster than the epochs that a metric or a setting counts."""
        newest = [
            (run.metrics[self.loss].step, epochs) for run in self.runs for epochs in _epochs_recorded(run)
        ]
        return _most(newest, lambda pair: pair[0] > pair[1] + 1)

    def _confirming_setting(self) -> str | None:
        return self._setting_at_end(aliases.MAX_STEPS)

    def _setting_at_end(self, keys: Sequence[str]) -> str | None:
        """The setting of these names that is the newest step of most runs that ended, or one more, counted from 0."""
        names = {name for run in self.runs for name in run.params}
        for name in dict.fromkeys(found for key in keys for found in matching(names, key)):
            ends = [
                (run.metrics[self.loss].step, last)
                for run in self.runs
                if run.status == "finished"
                and (last := number(run.params.get(name))) is not None
                and last > 1
            ]
            if _most(ends, lambda end: end[0] in (end[1] - 1, end[1])):
                return name
        return None

    def _looked_at(self) -> list[NDArray[np.float64]]:
        """The distinct steps of some runs, of those that have several points."""
        spread = {round(index) for index in np.linspace(0, len(self.runs) - 1, _LOOKED_AT)}
        parts = self.read([self.runs[index] for index in sorted(spread)], self.loss).split().values()
        return [np.unique(part.step) for part in parts if len(part.step) > 1]


def even_stride(steps: NDArray[np.float64]) -> float | None:
    """How far apart steps lie that lie evenly, as a program that gives the epoch leaves them; else None.

    The first gap or the last may be smaller: many programs log the first epoch or the last besides every so many.

    Args:
        steps: (n,) rising, n > 1.

    >>> [even_stride(np.array(steps)) for steps in ([0.0, 1, 2], [1.0, 5, 10, 15, 20, 22], [1.0, 2, 4, 8], [1.0, 2, 7])]
    [1.0, 5.0, None, None]
    """
    gaps = np.diff(steps)
    stride = gaps.max()
    is_even = bool((gaps[1:-1] == stride).all()) and 2 * np.count_nonzero(gaps == stride) > len(gaps)
    return float(stride) if is_even else None


def _epochs_recorded(run: StoredRun) -> list[float]:
    counted = [run.metrics[name].value for name in sorted(aliases.EPOCH_COUNTS & run.metrics.keys())]
    named = [number(run.params[name]) for key in aliases.EPOCHS for name in matching(run.params, key)]
    return [*counted, *(epochs for epochs in named if epochs is not None and epochs > 0)]


def _most(found: Sequence[_Found], holds: Callable[[_Found], bool]) -> bool:
    """Whether it holds in more than half of them; none at all: no."""
    return 2 * sum(map(holds, found)) > len(found)
