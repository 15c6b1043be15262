"""Points gathered run by run as they are read, so that no more than some runs are held in full.

First the losses by optimizer step, then the examples that belong to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.curve_cache import Series
from surge_sweeps.curves import Problem
from surge_sweeps.point_columns import PointColumns
from surge_sweeps.trackers.placing import Findings, Kind, Placing
from surge_sweeps.trackers.stored_runs import StoredRun


def place_losses(
    parts: Iterable[Series], placing: Placing, stored: Sequence[StoredRun], problems: list[Problem]
) -> PointColumns:
    """The losses of every run whose steps are to be believed; what was found of them is added to `problems`.

    Args:
        parts: the series of all runs, in any order. stored: the runs, in the order in which they are told of.

    Raises:
        SurgeError: the steps of as many runs as not cannot be believed.
    """
    findings, params = Findings(), {run.run: run.params for run in stored}
    metric = placing.names.loss
    losses = PointColumns()
    doubted: dict[str, str] = {}
    stepless: dict[str, str] = {}
    with_points = 0
    for part in parts:
        series = placing.steps_of(part, metric, params, findings)
        with_points += int((series.rows > 0).sum())
        stepless |= placing.stepless(series)
        doubted |= {run: why for run, why in placing.doubts(series).items() if run not in stepless}
        believed = [run for run in series.runs if run not in doubted and run not in stepless]
        for run, placed in placing.place(series.take(believed), metric, findings).items():
            losses.add(run, *placed)
    runs = [run.run for run in stored]
    placing.refuse_stepless(_in_order(stepless, runs), with_points)
    placing.refuse_doubted(_in_order(doubted, runs), with_points, len(runs))
    for run, why in stepless.items():
        findings.add(Kind.WITHOUT_STEPS, run, f"left out: {why}")
    for run, why in doubted.items():
        findings.add(Kind.DOUBTED, run, f"left out: {why}")
    problems += findings.problems(runs)
    return losses


def add_examples(
    points: PointColumns,
    parts: Iterable[Series],
    placing: Placing,
    counted: Sequence[StoredRun],
    problems: list[Problem],
) -> None:
    """Put the examples seen beside the losses, NaN where none were logged at the step of a loss.

    Args:
        points: of all runs. parts: the series of `counted`, of the metric that counts examples.
    """
    points.expect_examples()
    findings, params = Findings(), {run.run: run.params for run in counted}
    metric = placing.names.examples or ""
    for part in parts:
        series = placing.steps_of(part, metric, params, findings)
        for run, (step, value) in placing.place(series, metric, findings).items():
            losses = points[run]
            losses.examples[:] = _at(losses.step, step, value)
    runs = [run.run for run in counted]
    problems += findings.problems(runs)
    for run in runs:
        gaps = int(np.isnan(points[run].examples).sum())
        if gaps:
            what = f"{metric!r} is missing at {gaps} points: step times batch size is used there"
            problems.append(Problem(run, what))


def _at(
    wanted: NDArray[np.int64], step: NDArray[np.int64], value: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n,) the values at the steps wanted, NaN where there is none; `step` rises."""
    if np.array_equal(wanted, step):
        return value
    found = np.full(len(wanted), np.nan)
    if len(step):
        index = np.minimum(np.searchsorted(step, wanted), len(step) - 1)
        there = step[index] == wanted
        found[there] = value[index[there]]
    return found


def _in_order(found: dict[str, str], runs: Sequence[str]) -> dict[str, str]:
    return {run: found[run] for run in runs if run in found}
