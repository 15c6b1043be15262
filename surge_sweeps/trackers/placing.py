"""Placing logged points on optimizer steps: whole steps, one point a step, no branch that a resumed run left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.counting import counted
from surge_sweeps.curve_cache import Series
from surge_sweeps.curves import Problem
from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers.naming.names import ReadNames
from surge_sweeps.trackers.rewinds import left_behind_by_time, left_behind_in_log_order

#: Nearer than this to a whole step is one: a product of floats is seldom exact.
_WHOLE = 1e-6


class Kind(IntEnum):
    """What can be found of a run's points, in the order in which it is told."""

    MOVED = auto()
    WITHOUT_STEPS = auto()
    DOUBTED = auto()
    WITHOUT_AXIS = auto()
    NO_STEP = auto()
    NO_ORDER = auto()
    REPEATED = auto()
    ABANDONED = auto()


class Findings:
    """What was found of the points of many runs, which are read in any order."""

    def __init__(self) -> None:
        self._found: list[tuple[Kind, str, str]] = []

    def add(self, kind: Kind, run: str, what: str) -> None:
        """Note something of a run."""
        self._found.append((kind, run, what))

    def problems(self, runs: Sequence[str]) -> list[Problem]:
        """Everything found, kind by kind, and of one kind in the order of these runs."""
        position = {run: number for number, run in enumerate(runs)}
        ordered = sorted(self._found, key=lambda one: (one[0], position[one[1]]))
        return [Problem(run, what) for _, run, what in ordered]


class PlacedPoints(NamedTuple):
    """The points of one run, by rising steps."""

    step: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True)
class Placing:
    """How the points of a project get their steps.

    Attributes:
        names: what is read, and by which axis.
        in_order: series come in the order in which they were logged, and a step below an earlier one says that the
            run was resumed there; else the points' times tell it, as far as they do: see `rewinds`.
    """

    names: ReadNames
    in_order: bool

    def steps_of(
        self, series: Series, metric: str, params: Mapping[str, Mapping[str, str]], findings: Findings
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
                findings.add(Kind.MOVED, run, what)
        return series

    def doubts(self, series: Series) -> dict[str, str]:
        """Runs whose steps are not to be believed -> why; `series`: their loss by optimizer step."""
        if not self.names.doubtful_step and self.names.step.counts == "steps":
            return {}
        return {
            run: why
            for run, part in series.split().items()
            if (why := self._doubt(part.step[np.isfinite(part.step)])) is not None
        }

    def stepless(self, series: Series) -> dict[str, str]:
        """Runs whose points all stand at one step -> that in words, as of a program that logs without steps.

        Two points at one step may be a run that was resumed there; at step 0 nothing can have been trained twice.
        """
        ends = np.cumsum(series.rows)
        starts = ends - series.rows
        changes = np.zeros(len(series.step), dtype=bool)
        changes[1:] = series.step[1:] != series.step[:-1]
        there = np.flatnonzero(series.rows)
        changes[starts[there]] = False
        moving = there[np.logical_or.reduceat(changes, starts[there])] if there.size else there
        found: dict[str, str] = {}
        for number in np.setdiff1d(np.flatnonzero(series.rows > 1), moving):
            step, count = series.step[starts[number]], int(series.rows[number])
            if count > 2 or step == 0:
                what = f"its {count:,} points of {self.names.loss!r} all stand at step {step:g}"
                found[series.runs[number]] = what
        return found

    def refuse_stepless(self, stepless: Mapping[str, str], with_points: int) -> None:
        """Refuse a project whose program logs without steps; see `refuse_doubted`.

        Raises:
            SurgeError: there are as many such runs as others.
        """
        if not stepless or 2 * len(stepless) < with_points:
            return
        run, why = next(iter(stepless.items()))
        raise SurgeError(
            f"the points of {self.names.loss!r} have no steps of their own: in {counted(len(stepless), 'run')} of"
            f" {with_points:,} all stand at one (in {run}, {why}), and nothing tells their order.",
            "Log with a step, as in mlflow.log_metric(name, value, step=n) or wandb.log(values, step=n), and run"
            " again; or give --step-column METRIC with a metric that counts optimizer steps in the same calls.",
        )

    def refuse_doubted(self, doubted: Mapping[str, str], with_points: int, runs: int) -> None:
        """Refuse an axis that many runs cast doubt on.

        Args:
            doubted: see `doubts`, of all runs. with_points: how many runs have points at all. runs: how many there are.

        Raises:
            SurgeError: there are as many of them as others, so the axis itself is none.
        """
        if not doubted or 2 * len(doubted) < with_points:
            return
        run, why = next(iter(doubted.items()))
        raise SurgeError(
            f"the optimizer step cannot be told by {self.names.read_as.get('step', 'its axis')}: {why}"
            f" ({len(doubted)} of {runs} runs, as in {run}).",
            "Give --step-column METRIC with one that counts optimizer steps and goes on from epoch to epoch, or"
            " --step-column _step if the program logs once an optimizer step or gives it as step. An axis that is"
            " asked for is read as it is: of what a resumed run logged twice, the later counts.",
        )

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

    def place(self, series: Series, metric: str, findings: Findings) -> dict[str, PlacedPoints]:
        """For each run one point per step, the newest of several, by rising steps.

        Of a run that was resumed at an earlier step, what the abandoned branch logged from that step on is left out.
        """
        messy = self._messy(series)
        found = _split(series.runs, series.rows, series.step, series.value)
        if messy:
            found |= self._place_messy(series.take(messy), metric, findings)
        return found

    def _messy(self, series: Series) -> list[str]:
        """The runs whose points do not simply follow one another by whole steps."""
        step = series.step
        whole = (step >= 0) & (step == np.floor(step)) & (step < 2.0**53)
        follows = np.ones(len(step), dtype=bool)
        follows[1:] = step[1:] > step[:-1]
        if not self.in_order:
            follows[1:] &= series.timestamp[1:] >= series.timestamp[:-1]
        starts = np.cumsum(series.rows)[:-1]
        follows[starts[starts < len(step)]] = True
        numbers = np.searchsorted(np.cumsum(series.rows), np.flatnonzero(~(whole & follows)), "right")
        return [series.runs[number] for number in np.unique(numbers)]

    def _place_messy(self, series: Series, metric: str, findings: Findings) -> dict[str, PlacedPoints]:
        run, axis = series.run_index(), self.names.step.metric

        def say(kind: Kind, rows: NDArray[np.int64], what: str) -> None:
            for number, count in zip(*np.unique(rows, return_counts=True), strict=True):
                points = f"{count} point{'s' if count > 1 else ''} of {metric!r} left out"
                findings.add(kind, series.runs[number], f"{points}: {what}")

        without = np.isnan(series.step) & (axis is not None)
        say(Kind.WITHOUT_AXIS, run[without], f"logged without {axis!r}")
        whole = (series.step >= 0) & (series.step == np.floor(series.step)) & (series.step < 2.0**53)
        say(Kind.NO_STEP, run[~whole & ~without], "the step is no whole number from 0 on")
        index = np.flatnonzero(whole)
        abandoned = np.zeros(len(series.step), dtype=bool)
        if self.in_order:
            abandoned[index] = left_behind_in_log_order(run[index], series.step[index])
            last: NDArray[np.int64] | NDArray[np.float64] = index
        else:
            abandoned[index] = _left_behind_by_time(
                run[index], series.step[index], series.timestamp[index], series.runs, metric, findings
            )
            # A store without an order may give points of one step and time in any.
            last = series.value[index]
        order = index[np.lexsort((last, series.timestamp[index], series.step[index], run[index]))]
        run, step = run[order], series.step[order]
        repeated = np.zeros(len(order), dtype=bool)
        repeated[:-1] = (run[1:] == run[:-1]) & (step[1:] == step[:-1])
        say(Kind.REPEATED, run[repeated], "a newer one stands at the same step")
        behind = abandoned[order] & ~repeated
        say(Kind.ABANDONED, run[behind], "the run was resumed at an earlier step and took another way")
        kept = ~repeated & ~behind
        rows = np.bincount(run[kept], minlength=len(series.runs))
        return _split(series.runs, rows, step[kept], series.value[order[kept]])


def _split(
    runs: Sequence[str], rows: NDArray[np.int64], step: NDArray[np.float64], value: NDArray[np.float64]
) -> dict[str, PlacedPoints]:
    # What is no step becomes a number here too, and is then replaced by what `_place_messy` made of it.
    with np.errstate(invalid="ignore"):
        whole = step.astype(np.int64)
    ends = np.cumsum(rows)
    return {
        run: PlacedPoints(whole[end - count : end], value[end - count : end])
        for run, count, end in zip(runs, rows, ends, strict=True)
    }


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


def _left_behind_by_time(
    run: NDArray[np.int64],
    step: NDArray[np.float64],
    time: NDArray[np.int64],
    runs: Sequence[str],
    metric: str,
    findings: Findings,
) -> NDArray[np.bool_]:
    """(n,) `left_behind_by_time` of many runs, whose points come in any order; what it cannot tell is said."""
    found = np.zeros(len(step), dtype=bool)
    backwards = (run[1:] == run[:-1]) & ((np.diff(time) < 0) | (np.diff(step) < 0))
    for number in np.unique(run[1:][backwards]):
        part = np.arange(*np.searchsorted(run, [number, number + 1]))
        part = part[np.lexsort((step[part], time[part]))]
        told = left_behind_by_time(step[part])
        found[part] = told.abandoned
        if told.undecided:
            falls = "once" if told.falls == 1 else f"{told.falls:,} times"
            what = f"the times of {metric!r} do not tell its order (the step falls {falls})"
            what = f"{what}: every step counts, its newest point where there are several"
            findings.add(Kind.NO_ORDER, runs[number], what)
    return found
