"""From a tracker's runs and series to `LossCurves`: which loss, which status, which points.

The same for every tracker; each brings its runs as `StoredRun` and its points as a `SeriesSource`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd

from surge_sweeps.curves import RESULT_STATUSES, LossCurves, Problem, Status, curves_of_runs
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.point_columns import PointColumns
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.gathering import add_examples, place_losses
from surge_sweeps.trackers.naming.choose import choose_names
from surge_sweeps.trackers.naming.names import ReadNames, StepAxis
from surge_sweeps.trackers.placing import Placing
from surge_sweeps.trackers.reading import Origin, Reading, SeriesSource
from surge_sweeps.trackers.stored_runs import RunColumns, StoredRun, repeated_trials, run_columns

__all__ = ["Origin", "SeriesSource", "assemble"]

BatchUnit = Literal["examples", "sequences", "tokens"]

#: A run that is open but has logged nothing for this long is taken for dead.
STALE_AFTER_S = 3600.0


def assemble(
    stored: Sequence[StoredRun], source: SeriesSource, origin: Origin, options: ReadOptions
) -> LossCurves:
    """Read the loss of every usable run.

    Raises:
        UnknownNameError: a parameter, metric or batch unit that is not there.
        AmbiguousNameError: several names that may be meant. SurgeError: nothing tells the optimizer step.
    """
    if options.batch_unit not in get_args(BatchUnit):
        raise UnknownNameError("batch unit", options.batch_unit, get_args(BatchUnit))
    reading = Reading(source, origin, options)
    found = _assemble(stored, reading, look=False)
    return found if found is not None else cast(LossCurves, _assemble(stored, reading, look=True))


def _assemble(stored: Sequence[StoredRun], reading: Reading, *, look: bool) -> LossCurves | None:
    """The curves; None where what the newest values said of the step is not so in other rows: then look at all."""
    origin, options = reading.origin, reading.options
    names = choose_names(
        stored,
        options,
        own_step=origin.own_step,
        read=reading.look,
        count=reading.count,
        look=look,
    )
    placing = Placing(names, in_order=not origin.own_step)
    problems = [*names.problems, *(Problem(run, what) for run, what in names.left_out.items())]
    stored = [run for run in stored if run.run not in names.left_out]
    table, found = run_columns(stored, names, seed_asked=options.seed is not None)
    problems += found
    usable = set(table["run"])
    stored = _with_metric([run for run in stored if run.run in usable], names.loss, problems)
    if names.step.metric is not None:
        stored = _with_metric(stored, names.step.metric, problems)

    losses = place_losses(reading.parts(stored, names.loss, names.step.metric), placing, stored, problems)
    _check_points(losses, stored, names)
    stored = [run for run in stored if run.run in losses.runs()]
    if names.foreign and options.loss is None and _is_no_curve(losses):
        problems.append(
            Problem(
                None,
                f"most runs have one point of {names.loss!r}, no curve: --loss-column takes another metric",
            )
        )
    stored = [
        replace(run, recorded=status) for run, status in zip(stored, _statuses(stored, losses), strict=True)
    ]
    dropped = repeated_trials(stored, problems)
    stored = [run for run in stored if run.run not in dropped]
    if names.examples is not None:
        counted = [run for run in stored if names.examples in run.metrics]
        parts = reading.parts(counted, names.examples, names.step.metric)
        add_examples(losses, parts, placing, counted, problems)
        if names.confirmed_by == names.examples and not _agree(losses, [run.run for run in counted], table):
            return None
    return curves_of_runs(
        _with_status(RunColumns(table, problems), stored),
        losses,
        problems=problems,
        project=origin.project,
        source=origin.source,
        loss_name=names.loss,
        batch_unit=cast(BatchUnit, options.batch_unit),
        read_as=names.read_as,
        route=reading.route(),
    )


def _with_metric(stored: Sequence[StoredRun], metric: str, problems: list[Problem]) -> list[StoredRun]:
    problems += [
        Problem(run.run, f"left out: the run ({run.status}) has logged no {metric!r}")
        for run in stored
        if metric not in run.metrics
    ]
    return [run for run in stored if metric in run.metrics]


def _check_points(losses: PointColumns, stored: Sequence[StoredRun], names: ReadNames) -> None:
    """Refuse a step axis that places no point at all.

    Raises:
        SurgeError: no run has a point at a whole step.
    """
    if (
        not _counts(losses)
        and any(run.status in RESULT_STATUSES for run in stored)
        and names.step != StepAxis()
    ):
        raise SurgeError(
            f"no point of {names.loss!r} falls on an optimizer step by {names.read_as.get('step', 'its axis')}.",
            "Give --step-column with a metric that is logged together with the loss, or --batch-column with the batch"
            " size of an optimizer step.",
        )


def _statuses(stored: Sequence[StoredRun], losses: PointColumns) -> list[Status]:
    """As recorded; else one that ended by itself has diverged if its last loss is not finite; an idle one is stale."""
    ends = {run: end for run, (start, end) in losses.runs().items() if end > start}
    broken = {run for run, end in ends.items() if not math.isfinite(float(losses.loss[end - 1]))}
    oldest_ms = (time.time() - STALE_AFTER_S) * 1000
    found: list[Status] = []
    for run in stored:
        status = run.status
        if run.recorded is None and (status == "finished" or run.failed) and run.run in broken:
            status = "diverged"
        if run.recorded is None and status == "running" and run.is_silent_since(oldest_ms):
            status = "stale"
        found.append(status)
    return found


def _agree(points: PointColumns, counted: Sequence[str], table: pd.DataFrame) -> bool:
    """Whether the examples counted are steps times batch size at every point."""
    batch = dict(zip(table["run"], table["batch_size"], strict=True))
    for run in counted:
        step, _, examples = points[run]
        known = ~np.isnan(examples)
        if not np.allclose((step * float(batch[run]))[known], examples[known], rtol=1e-9, atol=0.0):
            return False
    return True


def _counts(losses: PointColumns) -> list[int]:
    """How many points runs have that have any."""
    return [end - start for start, end in losses.runs().values() if end > start]


def _is_no_curve(losses: PointColumns) -> bool:
    """Whether most runs with points have but one."""
    counts = _counts(losses)
    return bool(counts) and float(np.median(counts)) < 2


def _with_status(columns: RunColumns, stored: Sequence[StoredRun]) -> pd.DataFrame:
    status = pd.Series({run.run: run.status for run in stored}, dtype="str")
    table = columns.table[columns.table["run"].isin(set(status.index))].reset_index(drop=True)
    table.insert(4, "status", table["run"].map(status))
    return table
