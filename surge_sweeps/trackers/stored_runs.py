"""Runs as a tracker holds them, and the run table made of them: names mapped to ours, text turned into typed columns.

Works for runs of any program. Whatever cannot be used is left out and named as a problem; only a name that no run has
is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import pandas as pd

from surge_sweeps.curves import MAX_BATCH_SIZE, RESULT_STATUSES, Problem, Status
from surge_sweeps.errors import UnknownNameError
from surge_sweeps.trackers.naming.columns import left_out
from surge_sweeps.trackers.naming.names import ReadNames, number

#: Columns that are identifiers or labels, however much their values look like numbers.
_TEXT_COLUMNS = frozenset({"trial_id", "sweep_id", "init_from", "start_checkpoint"})
#: The setting by which a study of Optuna says whether it minimizes; on MLflow a tag of the run above its trials.
STUDY_DIRECTION = "optuna.study_direction"
#: Columns the reader itself fills.
_OWN_COLUMNS = frozenset({"run", "status", "lr", "batch_size", "seed"})

_INT = re.compile(r"[+-]?(0|[1-9]\d{0,18})")
_BOOLS = {"true": True, "false": False}
_INT64_MAX = 2**63 - 1
#: Beyond this a float stands for several whole numbers.
_EXACT_FLOAT = 2.0**53
#: Milliseconds since 1970 are more than this since 1973, and seconds have been no more than this for long.
_EARLIEST_MS = 10**11
_STATUSES: dict[str, Status] = {status: status for status in get_args(Status)}


class LatestPoint(NamedTuple):
    """The newest point of one metric of one run; the time in milliseconds since 1970.

    `is_known`: the store tells the value; where it does not, `value` is NaN and says nothing.
    """

    step: float
    timestamp_ms: int
    value: float
    is_known: bool = True


@dataclass(frozen=True)
class StoredRun:
    """One run as it stands in the store.

    Attributes:
        run: the store's own unique id.
        recorded: the status this tool wrote, if any. ended: the status that follows from the store's own: `finished`
            where it says the run ended well, `crashed`, or `running`.
        failed: the program ended by an error of its own, as it may at its first NaN: the loss tells whether it did.
        parent: the run that this one is nested in, if any.
        owner: the task of an engine that has it, is_whole: it was begun when its trial had ended; as W&B tells them.
        start_ms, end_ms: milliseconds since 1970, None where unknown.
        params: configuration as text, `trial_id` and the like included. metrics: metric name -> its newest point.
    """

    run: str
    recorded: Status | None
    ended: Status
    start_ms: int | None
    end_ms: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, LatestPoint] = field(default_factory=dict)
    failed: bool = False
    parent: str | None = None
    owner: str = ""
    is_whole: bool = False

    @property
    def status(self) -> Status:
        """As recorded, else as the store has it."""
        return self.recorded or self.ended

    def is_silent_since(self, oldest_ms: float) -> bool:
        """Whether it began before a time, in milliseconds since 1970, and its points' times tell of nothing since."""
        newest = stamp_ms(max((point.timestamp_ms for point in self.metrics.values()), default=0))
        return newest is not None and max(self.start_ms or 0, newest) < oldest_ms

    def signature(self, metric: str, axis: str | None, rows: int | None) -> str:
        """Text that changes whenever the run's series of `metric` has, as far as this listing tells: see `reading`.

        Args:
            metric: a metric the run has. axis: the metric that gives its steps, if any.
            rows: how many points of it the store holds, None where that was not asked.
        """
        along = self.metrics.get(axis) if axis is not None else None
        newest = (self.metrics[metric], *(() if along is None else (along,)))
        return repr((self.recorded, self.ended, self.end_ms, rows, *map(tuple, newest)))


def stamp_ms(stamp: int) -> int | None:
    """The time of a run's newest point in milliseconds since 1970, 0 without points; None where it is no time.

    Some programs give seconds, or what they count: by that nobody can tell whether they are still at work.

    >>> stamp_ms(1_700_000_000_000), stamp_ms(1_700_000_000), stamp_ms(0), stamp_ms(500)
    (1700000000000, 1700000000000, 0, None)
    """
    if stamp >= _EARLIEST_MS or stamp <= 0:
        return stamp
    return stamp * 1000 if stamp * 1000 >= _EARLIEST_MS else None


def as_status(text: str | None) -> Status | None:
    """The status a text names, or None for any other text.

    >>> as_status("diverged"), as_status("done")
    ('diverged', None)
    """
    return _STATUSES.get(text or "")


class RunColumns(NamedTuple):
    """The run table without statuses, and the problems met on the way."""

    table: pd.DataFrame
    problems: list[Problem]


def run_columns(stored: Sequence[StoredRun], chosen: ReadNames, *, seed_asked: bool) -> RunColumns:
    """The runs that have a learning rate and a batch size, one row each, every other parameter a typed column.

    Args:
        stored: the runs. chosen: under which names. seed_asked: the seed's name was asked for.

    Raises:
        UnknownNameError: no run at all has the learning rate, the batch size, or a seed of a name that was asked for.
    """
    problems: list[Problem] = []
    names = {name for run in stored for name in run.params}
    required = [chosen.lr, *chosen.batch.keys] + ([chosen.seed] if seed_asked else [])
    for name in required:
        if stored and name not in names:
            raise UnknownNameError("parameter", name, names)

    rows = [row for run in stored if (row := _canonical(run, chosen, problems)) is not None]
    table = pd.DataFrame(rows, columns=["run", "lr", "batch_size", "seed"])
    table = table.astype({"run": "str", "lr": "float64", "batch_size": "int64", "seed": "Int64"})
    params = {run.run: run.params for run in stored}
    kept = [params[run] for run in table["run"]]
    columns: dict[str, pd.Series] = {}
    for name in sorted(names - {chosen.lr, chosen.seed, *chosen.batch.keys} - chosen.ignored):
        if name in _OWN_COLUMNS:
            problems.append(
                Problem(None, f"the parameter {name!r} is left out: the column of that name is taken")
            )
            continue
        values = [param.get(name) for param in kept]
        if any(value is not None for value in values):
            columns[name] = text_column(values) if name in _TEXT_COLUMNS else typed_column(values)
    dropped, told = left_out(columns, table[["lr", "batch_size"]], labels=chosen.foreign)
    problems += told
    columns = {name: column for name, column in columns.items() if name not in dropped}
    return RunColumns(pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1), problems)


def typed_column(values: Sequence[str | None]) -> pd.Series:
    """Text values as booleans, integers, floats or text: the first of these that every value given can be.

    >>> typed_column(["1", "2"]).tolist(), typed_column(["1", "2.5"]).tolist(), typed_column(["1", "adam"]).tolist()
    ([1, 2], [1.0, 2.5], ['1', 'adam'])
    >>> typed_column(["True", None]).dtype
    BooleanDtype
    """
    given = [value.strip() for value in values if value is not None]
    partial = len(given) < len(values)
    if all(value.lower() in _BOOLS for value in given):
        return _convert(values, lambda text: _BOOLS[text.lower()], "boolean" if partial else "bool")
    if all(_INT.fullmatch(value) and abs(int(value)) <= _INT64_MAX for value in given):
        return _convert(values, int, "Int64" if partial else "int64")
    if all(number(value) is not None for value in given):
        return _convert(values, float, "float64")
    return text_column(values)


def text_column(values: Sequence[str | None]) -> pd.Series:
    """Text as it stands, missing where there is none."""
    return pd.Series(list(values), dtype="str" if None not in values else None)


def _convert(values: Sequence[str | None], convert: Callable[[str], object], dtype: str) -> pd.Series:
    missing = math.nan if dtype == "float64" else pd.NA
    return pd.Series([missing if value is None else convert(value.strip()) for value in values], dtype=dtype)


def _canonical(run: StoredRun, chosen: ReadNames, problems: list[Problem]) -> dict[str, object] | None:
    for name in (chosen.lr, *chosen.batch.keys):
        value = number(run.params.get(name))
        if value is None or not (0 < value < math.inf):
            found = repr(run.params[name]) if name in run.params else "missing"
            problems.append(Problem(run.run, f"left out: {name!r} is {found}, not a number above 0"))
            return None
    batch_size = chosen.batch.of(run.params)
    if batch_size is None or not batch_size <= MAX_BATCH_SIZE or batch_size != int(batch_size):
        problems.append(
            Problem(run.run, f"left out: {str(chosen.batch)!r} is {batch_size}, not a whole number")
        )
        return None
    seed = run.params.get(chosen.seed)
    whole = None if seed is None else _whole(seed)
    if seed is not None and whole is None:
        problems.append(Problem(run.run, f"the seed {seed!r} is not a whole number and counts as missing"))
    return {
        "run": run.run,
        "lr": number(run.params.get(chosen.lr)),
        "batch_size": int(batch_size),
        "seed": pd.NA if whole is None else whole,
    }


def _whole(text: str) -> int | None:
    """The whole number a text is, `1.0` included; None beyond 64 bits, and for a float that is not exact.

    >>> _whole("7"), _whole("1.0"), _whole("1.5"), _whole("1e300")
    (7, 1, None, None)
    """
    if _INT.fullmatch(text.strip()):
        return int(text) if abs(int(text)) <= _INT64_MAX else None
    value = number(text)
    return int(value) if value is not None and abs(value) <= _EXACT_FLOAT and value == int(value) else None


def repeated_trials(stored: Sequence[StoredRun], problems: list[Problem]) -> set[str]:
    """The runs to leave out because an earlier run of the same trial ended with a result already."""
    first: dict[str, StoredRun] = {}
    repeated: set[str] = set()
    for run in sorted(stored, key=_ended_order):
        trial = run.params.get("trial_id")
        if trial is None or run.status not in RESULT_STATUSES:
            continue
        kept = first.setdefault(trial, run)
        if kept is not run:
            repeated.add(run.run)
            problems.append(
                Problem(run.run, f"left out: the trial {trial!r} ended before, in the run {kept.run}")
            )
    return repeated


def _ended_order(run: StoredRun) -> tuple[float, float, str]:
    unknown = math.inf
    return (
        unknown if run.end_ms is None else run.end_ms,
        unknown if run.start_ms is None else run.start_ms,
        run.run,
    )
