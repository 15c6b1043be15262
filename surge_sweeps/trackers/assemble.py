"""From a tracker's runs and series to `LossCurves`: which loss, which status, which points.

The same for every tracker; each brings its runs as `StoredRun` and its points as a `SeriesSource`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.curve_cache import Series, SeriesCache, join_series
from surge_sweeps.curves import RESULT_STATUSES, LossCurves, Problem, Status, build_curves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.naming.choose import choose_names
from surge_sweeps.trackers.naming.names import ReadNames, StepAxis
from surge_sweeps.trackers.stored_runs import RunColumns, StoredRun, repeated_trials, run_columns

BatchUnit = Literal["examples", "sequences", "tokens"]

#: A run that is open but has logged nothing for this long is taken for dead.
STALE_AFTER_S = 3600.0


class SeriesSource(Protocol):
    """Where the series of a project's runs come from."""

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """How many points of a metric each run has; None where the store cannot say."""
        ...

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """Every point of a metric, run after run in the order given; infinities and NaN as they were logged.

        Args:
            runs: the runs' names. metric: the metric.
            axis: the metric logged in the same row that gives `Series.step`, NaN where a row has none; None: the
                store's own step.
        """
        ...


class Origin(NamedTuple):
    """What is read.

    Attributes:
        project: as the user calls it. source: the store, without secrets. identity: the store's own, exact.
        own_step: the store's own step is the optimizer step whoever logged it; on W&B it may count log calls.
    """

    project: str
    source: str
    identity: tuple[str, ...]
    own_step: bool = False


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
    # Kept apart in the cache, whose files hold the runs of the last read alone.
    sample = origin._replace(identity=(*origin.identity, "sample"))
    names = choose_names(
        stored,
        options,
        own_step=origin.own_step,
        read=lambda some, metric: _fetch(some, source, metric, None, sample, options),
    )
    problems = [*names.problems, *(Problem(run, what) for run, what in names.left_out.items())]
    stored = [run for run in stored if run.run not in names.left_out]
    table, found = run_columns(stored, names, seed_asked=options.seed is not None)
    problems += found
    usable = set(table["run"])
    stored = _with_metric([run for run in stored if run.run in usable], names.loss, problems)
    if names.step.metric is not None:
        stored = _with_metric(stored, names.step.metric, problems)

    losses = _read(stored, source, names.loss, names, origin, options, problems)
    _check_points(losses, stored, names)
    if (
        names.foreign
        and options.loss is None
        and not losses.empty
        and losses["run"].value_counts().median() < 2
    ):
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

    points = losses.rename(columns={"value": "loss"})
    if names.examples is not None:
        counted = [run for run in stored if names.examples in run.metrics]
        seen = _read(counted, source, names.examples, names, origin, options, problems)
        points = points.merge(seen.rename(columns={"value": "examples"}), on=["run", "step"], how="left")
        _name_gaps(points, {run.run for run in counted}, names.examples, problems)
    return build_curves(
        _with_status(RunColumns(table, problems), stored),
        points,
        problems=problems,
        project=origin.project,
        source=origin.source,
        loss_name=names.loss,
        batch_unit=cast(BatchUnit, options.batch_unit),
        read_as=names.read_as,
    )


def _with_metric(stored: Sequence[StoredRun], metric: str, problems: list[Problem]) -> list[StoredRun]:
    problems += [
        Problem(run.run, f"left out: the run ({run.status}) has logged no {metric!r}")
        for run in stored
        if metric not in run.metrics
    ]
    return [run for run in stored if metric in run.metrics]


def _read(
    stored: Sequence[StoredRun],
    source: SeriesSource,
    metric: str,
    names: ReadNames,
    origin: Origin,
    options: ReadOptions,
    problems: list[Problem],
) -> pd.DataFrame:
    """The points of a metric by optimizer step: columns `run`, `step` and `value`, sorted."""
    series = _fetch(stored, source, metric, names.step.metric, origin, options)
    if names.step.counts != "steps":
        params = {run.run: run.params for run in stored}
        counts = [names.steps_per_count(params[run]) for run in series.runs]
        a_step = np.array([math.nan if count is None else count for count in counts])
        series = replace(series, step=series.step / a_step[series.run_index()])
    return _tidy(series, metric, names.step.metric, problems)


def _fetch(
    stored: Sequence[StoredRun],
    source: SeriesSource,
    metric: str,
    axis: str | None,
    origin: Origin,
    options: ReadOptions,
) -> Series:
    runs = [run.run for run in stored]
    if not runs:
        return join_series([])
    if options.cache_dir is None:
        return source.fetch(runs, metric, axis)
    rows = source.count(runs, metric)
    signatures = {run.run: run.signature(metric, count) for run, count in zip(stored, rows, strict=True)}
    # A series holds the axis as it was logged, so the cache is of the metric and its axis.
    key = (*origin.identity, metric) if axis is None else (*origin.identity, metric, axis)
    cache = SeriesCache(options.cache_dir, key)
    return cache.update(signatures, lambda changed: source.fetch(changed, metric, axis))


def _tidy(series: Series, metric: str, axis: str | None, problems: list[Problem]) -> pd.DataFrame:
    """One row per run and step, the newest of several; columns `run`, `step` and `value`, sorted."""
    run = series.run_index()
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
    order = index[np.lexsort((index, series.timestamp[index], series.step[index], run[index]))]
    run, step, value = run[order], series.step[order], series.value[order]
    repeated = np.zeros(len(order), dtype=bool)
    repeated[:-1] = (run[1:] == run[:-1]) & (step[1:] == step[:-1])
    _count(
        run[repeated], series.runs, problems, f"of {metric!r} left out: a newer one stands at the same step"
    )
    kept = ~repeated
    names = np.array(series.runs, dtype=object)[run[kept]]
    return pd.DataFrame(
        {"run": pd.Series(names, dtype="str"), "step": step[kept].astype(np.int64), "value": value[kept]}
    )


def _check_points(losses: pd.DataFrame, stored: Sequence[StoredRun], names: ReadNames) -> None:
    """Refuse a step axis that places no point at all.

    Raises:
        SurgeError: no run has a point at a whole step.
    """
    if losses.empty and any(run.status in RESULT_STATUSES for run in stored) and names.step != StepAxis():
        raise SurgeError(
            f"no point of {names.loss!r} falls on an optimizer step by {names.read_as.get('step', 'its axis')}.",
            "Give --step-column with a metric that is logged together with the loss, or --batch-column with the batch"
            " size of an optimizer step.",
        )


def _count(run: NDArray[np.int64], runs: Sequence[str], problems: list[Problem], what: str) -> None:
    for index, count in zip(*np.unique(run, return_counts=True), strict=True):
        problems.append(Problem(runs[index], f"{count} point{'s' if count > 1 else ''} {what}"))


def _statuses(stored: Sequence[StoredRun], losses: pd.DataFrame) -> list[Status]:
    """As recorded; else a run that ended well has diverged if its last loss is not finite, and an idle one is stale."""
    last = losses.drop_duplicates("run", keep="last").set_index("run")["value"]
    broken = set(last.index[~np.isfinite(last)])
    oldest_ms = (time.time() - STALE_AFTER_S) * 1000
    found: list[Status] = []
    for run in stored:
        status = run.status
        if run.recorded is None and status == "finished" and run.run in broken:
            status = "diverged"
        if run.recorded is None and status == "running" and _newest_ms(run) < oldest_ms:
            status = "stale"
        found.append(status)
    return found


def _newest_ms(run: StoredRun) -> int:
    return max([run.start_ms or 0, *(point.timestamp_ms for point in run.metrics.values())])


def _name_gaps(points: pd.DataFrame, counted: set[str], unit: str, problems: list[Problem]) -> None:
    gaps = points["examples"].isna() & points["run"].isin(counted)
    for run, count in points.loc[gaps, "run"].value_counts(sort=False).items():
        problems.append(
            Problem(str(run), f"{unit!r} is missing at {count} points: step times batch size is used there")
        )


def _with_status(columns: RunColumns, stored: Sequence[StoredRun]) -> pd.DataFrame:
    status = pd.Series({run.run: run.status for run in stored}, dtype="str")
    table = columns.table[columns.table["run"].isin(set(status.index))].reset_index(drop=True)
    table.insert(4, "status", table["run"].map(status))
    return table
