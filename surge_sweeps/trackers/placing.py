"""Placing logged points on optimizer steps: whole steps, one point a step, no branch that a resumed run left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.curve_cache import Series
from surge_sweeps.curves import Problem
from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers.naming.names import ReadNames

#: Nearer than this to a whole step is one: a product of floats is seldom exact.
_WHOLE = 1e-6
#: A step that falls more often than once in so many points was not logged by training that is resumed now and then.
_POINTS_A_RESUME = 4


@dataclass(frozen=True)
class Placing:
    """How the points of a project get their steps.

    Attributes:
        names: what is read, and by which axis.
        in_order: series come in the order in which they were logged; else the points' times tell it. A step below an
            earlier one says that the run was resumed there.
    """

    names: ReadNames
    in_order: bool

    def steps_of(
        self, series: Series, metric: str, params: Mapping[str, Mapping[str, str]], problems: list[Problem]
    ) -> Series:
        """The series with optimizer steps for what its axis counts.

        Where batches are not all of one size, a counter of examples falls between steps: such points go to the nearest
        step where that keeps all of a run's points apart.
        """
        if self.names.step.counts == "steps":
            return series
        counts = [self.names.steps_per_count(params[run]) for run in series.runs]
        a_step = np.array([np.nan if count is None else count for count in counts])
        step = series.step / a_step[series.run_index()]
        step = np.where(np.abs(step - np.rint(step)) <= _WHOLE, np.rint(step), step)
        series = replace(series, step=step)
        for run, part in series.split().items():
            moved = int((part.step != np.rint(part.step))[np.isfinite(part.step)].sum())
            if moved and _stay_apart(part.step[np.isfinite(part.step)]):
                # The parts are views.
                part.step[:] = np.rint(part.step)
                points = f"{moved} point{'s' if moved > 1 else ''}"
                what = f"{points} of {metric!r} placed on the nearest step: {self._counter} is no whole number there"
                problems.append(Problem(run, what))
        return series

    def doubted(self, series: Series) -> dict[str, str]:
        """Runs whose steps are not to be believed -> why; `series`: their loss by optimizer step.

        Raises:
            SurgeError: there are as many of them as others, so the axis itself is none.
        """
        if not self.names.doubtful_step and self.names.step.counts == "steps":
            return {}
        found = {
            run: why
            for run, part in series.split().items()
            if (why := self._doubt(part.step[np.isfinite(part.step)])) is not None
        }
        if found and 2 * len(found) >= (series.rows > 0).sum():
            run, why = next(iter(found.items()))
            raise SurgeError(
                f"the optimizer step cannot be told by {self.names.read_as.get('step', 'its axis')}: {why}"
                f" ({len(found)} of {len(series.runs)} runs, as in {run}).",
                "Give --step-column METRIC with one that counts optimizer steps and goes on from epoch to epoch, or"
                " --step-column _step if the program logs once an optimizer step or gives it as step. An axis that is"
                " asked for is read as it is: of what a resumed run logged twice, the later counts.",
            )
        return found

    def _doubt(self, step: NDArray[np.float64]) -> str | None:
        if self.names.doubtful_step and self.in_order and _begins_again(step):
            return f"{self.names.step.metric!r} begins again within a run"
        between = int((step != np.rint(step)).sum())
        if self.names.step.counts != "steps" and 2 * between > len(step):
            return f"{self._counter} is no whole number at {between} of {len(step)} points"
        return None

    @property
    def _counter(self) -> str:
        return f"{self.names.step.metric or '_step'!r} / {self.names.batch}"

    def place(self, series: Series, metric: str, problems: list[Problem]) -> pd.DataFrame:
        """One row per run and step, the newest of several; columns `run`, `step` and `value`, sorted.

        Of a run that was resumed at an earlier step, what the abandoned branch logged from that step on is left out.
        """
        run, axis = series.run_index(), self.names.step.metric
        without = np.isnan(series.step) & (axis is not None)
        _count(run[without], series.runs, problems, f"of {metric!r} left out: logged without {axis!r}")
        whole = (series.step >= 0) & (series.step == np.floor(series.step)) & (series.step < 2.0**53)
        _count(
            run[~whole & ~without],
            series.runs,
            problems,
            f"of {metric!r} left out: the step is no whole number from 0 on",
        )
        index = np.flatnonzero(whole)
        abandoned = np.zeros(len(series.step), dtype=bool)
        if self.in_order:
            abandoned[index] = _abandoned(run[index], series.step[index])
            last: NDArray[np.int64] | NDArray[np.float64] = index
        else:
            abandoned[index] = _abandoned_by_time(
                run[index], series.step[index], series.timestamp[index], series.runs, metric, problems
            )
            # A store without an order may give points of one step and time in any.
            last = series.value[index]
        order = index[np.lexsort((last, series.timestamp[index], series.step[index], run[index]))]
        run, step, value = run[order], series.step[order], series.value[order]
        repeated = np.zeros(len(order), dtype=bool)
        repeated[:-1] = (run[1:] == run[:-1]) & (step[1:] == step[:-1])
        _count(
            run[repeated],
            series.runs,
            problems,
            f"of {metric!r} left out: a newer one stands at the same step",
        )
        behind = abandoned[order] & ~repeated
        _count(
            run[behind],
            series.runs,
            problems,
            f"of {metric!r} left out: the run was resumed at an earlier step and took another way",
        )
        kept = ~repeated & ~behind
        names = np.array(series.runs, dtype=object)[run[kept]]
        return pd.DataFrame(
            {"run": pd.Series(names, dtype="str"), "step": step[kept].astype(np.int64), "value": value[kept]}
        )


def _stay_apart(step: NDArray[np.float64]) -> bool:
    """Whether points at different steps stay in their order, and apart, when rounded."""
    return bool((np.sign(np.diff(np.rint(step))) == np.sign(np.diff(step))).all())


def _begins_again(step: NDArray[np.float64]) -> bool:
    """Whether an axis falls back to about where it began, as a counter within an epoch does.

    >>> _begins_again(np.array([1.0, 2, 3, 1, 2, 3])), _begins_again(np.array([10.0, 20, 30, 40, 35, 45]))
    (True, False)
    """
    change = np.diff(step)
    falls = change < 0
    if not falls.any():
        return False
    interval = np.median(change[change > 0]) if (change > 0).any() else 0.0
    return bool((step[1:][falls] <= step[0] + interval).any())


def _abandoned(run: NDArray[np.int64], step: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) which points, in the order logged, have one of a lower step behind them in their run."""
    found = np.zeros(len(step), dtype=bool)
    ends = np.flatnonzero(np.diff(run)) + 1
    for part in np.split(np.arange(len(step)), ends):
        # The least step from each point on; that of the point itself changes nothing.
        least = np.minimum.accumulate(step[part][::-1])[::-1]
        found[part] = step[part] > least
    return found


def _abandoned_by_time(
    run: NDArray[np.int64],
    step: NDArray[np.float64],
    time: NDArray[np.int64],
    runs: Sequence[str],
    metric: str,
    problems: list[Problem],
) -> NDArray[np.bool_]:
    """(n,) like `_abandoned` of points in any order, which their times tell; of one time, the order of the steps.

    A run is resumed now and then. Where the step falls more often than that, times do not tell the order of training,
    as where checkpoints were evaluated later: then nothing is taken for abandoned.
    """
    found = np.zeros(len(step), dtype=bool)
    backwards = (run[1:] == run[:-1]) & ((np.diff(time) < 0) | (np.diff(step) < 0))
    for number in np.unique(run[1:][backwards]):
        part = np.arange(*np.searchsorted(run, [number, number + 1]))
        part = part[np.lexsort((step[part], time[part]))]
        falls = int((np.diff(step[part]) < 0).sum())
        if falls * _POINTS_A_RESUME <= len(part):
            found[part] = _abandoned(run[part], step[part])
        else:
            what = f"the times of {metric!r} do not tell its order (the step falls {falls} times)"
            problems.append(
                Problem(runs[number], f"{what}: every step counts, its newest point where there are several")
            )
    return found


def _count(run: NDArray[np.int64], runs: Sequence[str], problems: list[Problem], what: str) -> None:
    for index, count in zip(*np.unique(run, return_counts=True), strict=True):
        problems.append(Problem(runs[index], f"{count} point{'s' if count > 1 else ''} {what}"))
