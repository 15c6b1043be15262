"""From a tracker's runs and series to `LossCurves`: which loss, which status, which points.

The same for every tracker; each brings its runs as `StoredRun` and its points as a `SeriesSource`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol, cast, get_args

import numpy as np
import pandas as pd

from surge_sweeps.counting import counted
from surge_sweeps.curve_cache import Series, SeriesCache, join_series
from surge_sweeps.curves import RESULT_STATUSES, LossCurves, Problem, Status, build_curves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.naming.choose import choose_names
from surge_sweeps.trackers.naming.names import ReadNames, StepAxis
from surge_sweeps.trackers.placing import Placing
from surge_sweeps.trackers.stored_runs import RunColumns, StoredRun, repeated_trials, run_columns

BatchUnit = Literal["examples", "sequences", "tokens"]

#: A run that is open but has logged nothing for this long is taken for dead.
STALE_AFTER_S = 3600.0


class SeriesSource(Protocol):
    """Where the series of a project's runs come from."""

    @property
    def route(self) -> str:
        """By what way points are read, in words for the user; what depends on the runs is known after `fetch`."""
        ...

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
    reading = _Reading(source, origin, options)
    found = _assemble(stored, reading, look=False)
    return found if found is not None else cast(LossCurves, _assemble(stored, reading, look=True))


def _assemble(stored: Sequence[StoredRun], reading: _Reading, *, look: bool) -> LossCurves | None:
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

    params = {run.run: run.params for run in stored}
    series = placing.steps_of(
        reading.fetch(stored, names.loss, names.step.metric), names.loss, params, problems
    )
    doubted = placing.doubted(series)
    problems += [Problem(run, f"left out: {why}") for run, why in doubted.items()]
    stored = [run for run in stored if run.run not in doubted]
    if doubted:
        series = join_series([part for run, part in series.split().items() if run not in doubted])
    losses = placing.place(series, names.loss, problems)
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
        series = placing.steps_of(
            reading.fetch(counted, names.examples, names.step.metric), names.examples, params, problems
        )
        seen = placing.place(series, names.examples, problems)
        points = points.merge(seen.rename(columns={"value": "examples"}), on=["run", "step"], how="left")
        if names.confirmed_by == names.examples and not _agree(points, table):
            return None
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
        route=reading.route(),
    )


def _with_metric(stored: Sequence[StoredRun], metric: str, problems: list[Problem]) -> list[StoredRun]:
    problems += [
        Problem(run.run, f"left out: the run ({run.status}) has logged no {metric!r}")
        for run in stored
        if metric not in run.metrics
    ]
    return [run for run in stored if metric in run.metrics]


@dataclass(frozen=True)
class _Reading:
    """Reads series, each once: from the cache, from what was looked at before, or from the store."""

    source: SeriesSource
    origin: Origin
    options: ReadOptions
    _seen: dict[tuple[str, str], Series] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)
    _fetched: set[str] = field(default_factory=set)

    def route(self) -> str:
        """By what way the points came, once they are read."""
        cached = len(self._asked - self._fetched)
        if not cached:
            return self.source.route if self._fetched else ""
        if not self._fetched:
            return "the cache"
        return f"the cache ({cached} of {counted(len(self._asked), 'run')}), else {self.source.route}"

    def count(self, stored: Sequence[StoredRun], metric: str) -> list[int | None]:
        """How many points of a metric each run has; None where the store cannot say."""
        return self.source.count([run.run for run in stored], metric)

    def look(self, stored: Sequence[StoredRun], metric: str) -> Series:
        """A metric by the store's own step, before it is known what is read."""
        # Kept apart in the cache, whose files hold the runs of the last read alone.
        series = self._cached(stored, metric, None, (*self.origin.identity, "sample"))
        self._seen.update({(metric, run): part for run, part in series.split().items()})
        return series

    def fetch(self, stored: Sequence[StoredRun], metric: str, axis: str | None) -> Series:
        """A metric by an axis, None: the store's own step."""
        return self._cached(stored, metric, axis, self.origin.identity)

    def _cached(
        self, stored: Sequence[StoredRun], metric: str, axis: str | None, identity: tuple[str, ...]
    ) -> Series:
        if not stored:
            return join_series([])
        runs = [run.run for run in stored]
        self._asked.update(runs)
        if self.options.cache_dir is None:
            return self._from_store(runs, metric, axis)
        rows = dict(zip(runs, self.source.count(runs, metric), strict=True))
        signatures = {run.run: run.signature(metric, rows[run.run]) for run in stored}
        # A series holds the axis as it was logged, so the cache is of the metric and its axis.
        key = (*identity, metric) if axis is None else (*identity, metric, axis)
        cache = SeriesCache(self.options.cache_dir, key)
        return cache.update(signatures, lambda changed: self._from_store(changed, metric, axis), rows)

    def _from_store(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        seen = {run: self._seen[metric, run] for run in runs if axis is None and (metric, run) in self._seen}
        others = [run for run in runs if run not in seen]
        if others:
            self._fetched.update(others)
            seen |= self.source.fetch(others, metric, axis).split()
        return join_series([seen[run] for run in runs])


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


def _statuses(stored: Sequence[StoredRun], losses: pd.DataFrame) -> list[Status]:
    """As recorded; else one that ended by itself has diverged if its last loss is not finite; an idle one is stale."""
    last = losses.drop_duplicates("run", keep="last").set_index("run")["value"]
    broken = set(last.index[~np.isfinite(last)])
    oldest_ms = (time.time() - STALE_AFTER_S) * 1000
    found: list[Status] = []
    for run in stored:
        status = run.status
        if run.recorded is None and (status == "finished" or run.failed) and run.run in broken:
            status = "diverged"
        if run.recorded is None and status == "running" and _newest_ms(run) < oldest_ms:
            status = "stale"
        found.append(status)
    return found


def _agree(points: pd.DataFrame, table: pd.DataFrame) -> bool:
    """Whether the examples counted are steps times batch size at every point."""
    batch = points["run"].map(table.set_index("run")["batch_size"])
    known = points["examples"].notna()
    return np.allclose((points["step"] * batch)[known], points["examples"][known], rtol=1e-9, atol=0.0)


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
