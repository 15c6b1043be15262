"""From a tracker's runs and series to `LossCurves`: which loss, which status, which points.

The same for every tracker; each brings its runs as `StoredRun` and its points as a `SeriesSource`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.curve_cache import Series, SeriesCache, join_series
from surge_sweeps.curves import RESULT_STATUSES, LossCurves, Problem, Status, build_curves
from surge_sweeps.errors import UnknownNameError
from surge_sweeps.trackers.base import EVAL_LOSS, EXAMPLES, TOKENS, TRAIN_LOSS, ReadOptions
from surge_sweeps.trackers.stored_runs import RunColumns, StoredRun, repeated_trials, run_columns

BatchUnit = Literal["examples", "sequences", "tokens"]

#: A run that is open but has logged nothing for this long is taken for dead.
STALE_AFTER_S = 3600.0


class SeriesSource(Protocol):
    """Where the series of a project's runs come from."""

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """How many points of a metric each run has; None where the store cannot say."""
        ...

    def fetch(self, runs: Sequence[str], metric: str) -> Series:
        """Every point of a metric, run after run in the order given; infinities and NaN as they were logged."""
        ...


class Origin(NamedTuple):
    """What is read: the project as the user calls it, the store without secrets, and the store's own exact identity."""

    project: str
    source: str
    identity: tuple[str, ...]


def assemble(
    stored: Sequence[StoredRun], source: SeriesSource, origin: Origin, options: ReadOptions
) -> LossCurves:
    """Read the loss of every usable run.

    Raises:
        UnknownNameError: a parameter, metric or batch unit that is not there.
    """
    if options.batch_unit not in get_args(BatchUnit):
        raise UnknownNameError("batch unit", options.batch_unit, get_args(BatchUnit))
    table, problems = run_columns(stored, options)
    usable = set(table["run"])
    stored = [run for run in stored if run.run in usable]
    loss = _choose_loss(stored, options.loss, problems)
    stored = _with_metric(stored, loss, problems)

    losses = _tidy(_read(stored, source, loss, origin, options), loss, problems)
    stored = [
        replace(run, recorded=status) for run, status in zip(stored, _statuses(stored, losses), strict=True)
    ]
    dropped = repeated_trials(stored, problems)
    stored = [run for run in stored if run.run not in dropped]

    unit = TOKENS if options.batch_unit == "tokens" else EXAMPLES
    counted = [run for run in stored if unit in run.metrics]
    seen = _tidy(_read(counted, source, unit, origin, options), unit, problems)
    points = losses.rename(columns={"value": "loss"})
    points = points.merge(seen.rename(columns={"value": "examples"}), on=["run", "step"], how="left")
    _name_gaps(points, {run.run for run in counted}, unit, problems)
    return build_curves(
        _with_status(RunColumns(table, problems), stored),
        points,
        problems=problems,
        project=origin.project,
        source=origin.source,
        loss_name=loss,
        batch_unit=cast(BatchUnit, options.batch_unit),
    )


def _choose_loss(stored: Sequence[StoredRun], asked: str | None, problems: list[Problem]) -> str:
    names = {name for run in stored for name in run.metrics}
    if asked is not None:
        if stored and asked not in names:
            raise UnknownNameError("metric", asked, names)
        return asked
    logged = [run for run in stored if run.metrics]
    # A run that was cut off before its first evaluation does not decide for those that ended.
    decisive = [run for run in logged if run.status in RESULT_STATUSES] or logged
    evaluated = sum(EVAL_LOSS in run.metrics for run in decisive)
    if evaluated == len(decisive) or (evaluated and TRAIN_LOSS not in names):
        return EVAL_LOSS
    if TRAIN_LOSS not in names:
        raise UnknownNameError("metric", EVAL_LOSS, names)
    if evaluated:
        lacking = len(decisive) - evaluated
        problems.append(
            Problem(None, f"{lacking} of {len(decisive)} runs lack {EVAL_LOSS}: {TRAIN_LOSS} is read instead")
        )
    return TRAIN_LOSS


def _with_metric(stored: Sequence[StoredRun], metric: str, problems: list[Problem]) -> list[StoredRun]:
    problems += [
        Problem(run.run, f"left out: the run ({run.status}) has logged no {metric!r}")
        for run in stored
        if metric not in run.metrics
    ]
    return [run for run in stored if metric in run.metrics]


def _read(
    stored: Sequence[StoredRun], source: SeriesSource, metric: str, origin: Origin, options: ReadOptions
) -> Series:
    runs = [run.run for run in stored]
    if not runs:
        return join_series([])
    if options.cache_dir is None:
        return source.fetch(runs, metric)
    rows = source.count(runs, metric)
    signatures = {run.run: run.signature(metric, count) for run, count in zip(stored, rows, strict=True)}
    cache = SeriesCache(options.cache_dir, (*origin.identity, metric))
    return cache.update(signatures, lambda changed: source.fetch(changed, metric))


def _tidy(series: Series, metric: str, problems: list[Problem]) -> pd.DataFrame:
    """One row per run and step, the newest of several; columns `run`, `step` and `value`, sorted."""
    run = series.run_index()
    whole = (series.step >= 0) & (series.step == np.floor(series.step)) & (series.step < 2.0**53)
    _count(
        run[~whole], series.runs, problems, f"of {metric!r} left out: the step is no whole number from 0 on"
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
