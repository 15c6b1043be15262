"""The loss-at-step table: what every tracker is read into and every fit starts from.

`runs` has one row a run, `points` one row a logged loss. Everything that was dropped or repaired on the way is in
`problems`, which reaches the report: nothing vanishes in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.errors import SurgeError
from surge_sweeps.point_columns import PointColumns

Status = Literal["finished", "diverged", "capped", "crashed", "running", "stale"]

#: What was recorded of every run: its loss curve, or one number from a table: the final loss at a budget, the loss
#: decrease over a horizon, the steps to a goal (learning rate already tuned), or nothing but a tuned learning rate.
Observable = Literal["loss_curve", "final", "gain", "steps", "given"]

#: What a batch size counts.
BatchUnit = Literal["examples", "sequences", "tokens"]

#: A run in one of these states is a result; the others are unfinished work.
RESULT_STATUSES: tuple[Status, ...] = ("finished", "diverged", "capped")

#: Columns of `runs` that say how a run was named, started or stopped. They are never hyper-parameters, so a fit
#: never groups by them.
CONTROL_COLUMNS: tuple[str, ...] = (
    "run", "trial_id", "sweep_id", "status",
    "init_from", "start_checkpoint", "start_loss",
    "max_steps", "max_examples", "target_loss", "log_points", "compile", "response",
)  # fmt: skip

#: Beyond this a float no longer holds every whole number.
MAX_BATCH_SIZE = 2**53
#: A learning rate outside is a slip of the pen; squares of ratios of those inside are still numbers.
LR_RANGE = (1e-30, 1e30)

RUN_COLUMNS: tuple[str, ...] = ("run", "lr", "batch_size", "seed", "status")
POINT_COLUMNS: tuple[str, ...] = ("run", "step", "examples", "loss")

_Number = TypeVar("_Number", np.int64, np.float64)


#: How a problem begins that puts the whole result in doubt, whatever the fit: it is shown beside the answer.
DOUBT = "nothing confirms"


class Problem(NamedTuple):
    """Something found wrong in the data: the run it concerns (None: all of them) and what was done about it."""

    run: str | None
    what: str


@dataclass(frozen=True, eq=False)
class LossCurves:
    """Runs and their losses.

    Attributes:
        runs: one row a run. Columns `run` (str, unique), `lr` (float > 0), `batch_size` (int > 0, in `batch_unit`),
            `seed` (nullable int), `status` (see `Status`); any of `CONTROL_COLUMNS`; every other column is a
            recorded hyper-parameter. `start_checkpoint` names the common checkpoint a run branched from, and
            `start_loss` the loss there; both are missing for a run from scratch. Where `observable` is `final`, `gain`
            or `steps`, `response` (float) holds it, NaN for a run that gave none; `lr` may be NaN for `steps`.
        points: one row a logged loss. Columns `run` (categorical, since there may be 1e8 rows), `step` (int, optimizer
            steps done since the run's start), `examples` (float, in `batch_unit`, seen since the run's start), `loss`
            (float; NaN and infinities kept). Sorted by run and step, one row per run and step.
        problems: what was dropped or repaired, in the order found.
        project: what the user called it. source: where it was read, without secrets. loss_name: the metric read.
        batch_unit: what `batch_size` and `examples` count.
        observable: what was recorded of every run; `points` is empty unless it is `loss_curve`.
        read_as: what the tracker's names were taken for, in words: "learning rate" -> "optim.lr" and the like.
        route: by what way the points were read, in words; empty where there is but one.
    """

    runs: pd.DataFrame
    points: pd.DataFrame
    problems: tuple[Problem, ...] = ()
    project: str = ""
    source: str = ""
    loss_name: str = "loss"
    batch_unit: BatchUnit = "examples"
    observable: Observable = "loss_curve"
    read_as: Mapping[str, str] = field(default_factory=dict)
    route: str = ""

    def results(self) -> LossCurves:
        """Only the runs that ended with a result: finished, diverged or capped."""
        return self.select(self.runs["status"].isin(RESULT_STATUSES))

    def select(self, mask: pd.Series[bool]) -> LossCurves:
        """Only the runs where `mask`, aligned with `runs`, is true."""
        found = self.restrict(mask)
        if found is self:
            return self
        names = set(found.runs["run"])
        points = self.points[self.points["run"].isin(names)].reset_index(drop=True)
        if isinstance(points["run"].dtype, pd.CategoricalDtype):
            points["run"] = points["run"].cat.remove_unused_categories()
        return replace(found, points=points)

    def restrict(self, mask: pd.Series[bool]) -> LossCurves:
        """Only the runs where `mask` is true, with the points of all, which are many and so are not copied.

        `stretches` finds the points of the runs that are left.
        """
        if mask.all():
            return self
        return replace(self, runs=self.runs[mask].reset_index(drop=True))

    def stretches(self) -> Stretches:
        """Where the points of each run lie in `points`.

        >>> runs = pd.DataFrame({"run": ["a", "b"], "lr": 0.1, "batch_size": 8, "seed": 0, "status": "finished"})
        >>> points = pd.DataFrame({"run": ["b", "b"], "step": [0, 1], "loss": [3.0, 2.0]})
        >>> [part.tolist() for part in build_curves(runs, points).stretches()]
        [[0, 0], [0, 2]]
        """
        column = self.points["run"]
        if not isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype("category")
        codes, names = column.cat.codes.to_numpy(), column.cat.categories
        bounds = np.flatnonzero(codes[1:] != codes[:-1]) + 1 if len(codes) else np.empty(0, np.int64)
        begins = np.concatenate([[0], bounds]).astype(np.int64)[: len(codes)]
        starts = np.zeros(len(names) + 1, dtype=np.int64)
        ends = np.zeros(len(names) + 1, dtype=np.int64)
        starts[codes[begins]] = begins
        ends[codes[begins]] = np.append(begins[1:], len(codes))[: len(begins)]
        # The last entry, which -1 finds, is that of a run without points.
        where = names.get_indexer(pd.Index(self.runs["run"])) if len(names) else -np.ones(len(self.runs), int)
        return Stretches(starts[where], ends[where])


class Stretches(NamedTuple):
    """(n_runs,) where each run's points begin in a table of points, and end; the same where it has none."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def build_curves(
    runs: pd.DataFrame,
    points: pd.DataFrame,
    *,
    problems: Sequence[Problem] = (),
    project: str = "",
    source: str = "",
    loss_name: str = "loss",
    batch_unit: BatchUnit = "examples",
    observable: Observable = "loss_curve",
    read_as: Mapping[str, str] | None = None,
    route: str = "",
) -> LossCurves:
    """Check, sort and repair raw tables into `LossCurves`.

    Args:
        runs: at least the columns `RUN_COLUMNS`.
        points: at least `run`, `step` and `loss`; a missing `examples` is filled with step times batch size. Of
            several rows with the same run and step the last one wins, and the number dropped is a problem.
        problems: those met before, which stay in front. project, source, loss_name, batch_unit, observable, read_as,
            route: see `LossCurves`.

    Raises:
        SurgeError: a required column is missing, or a run name stands twice.

    >>> runs = pd.DataFrame({"run": ["a"], "lr": [0.1], "batch_size": [8], "seed": [0], "status": ["finished"]})
    >>> points = pd.DataFrame({"run": ["a", "a", "a"], "step": [1, 0, 1], "loss": [2.0, 3.0, 1.0]})
    >>> curves = build_curves(runs, points)
    >>> curves.points[["step", "examples", "loss"]].values.tolist()
    [[0.0, 0.0, 3.0], [1.0, 8.0, 1.0]]
    >>> curves.problems
    (Problem(run='a', what='1 repeated step dropped, the last value of each kept'),)
    """
    _require_columns(points, ("run", "step", "loss"), "points")
    found = list(problems)
    runs = _usable_runs(runs, found, lr_needed=observable != "steps")
    points = _ordered_points(points[points["run"].isin(set(runs["run"]))], found)
    if "examples" not in points:
        points["examples"] = np.nan
    unknown = points["examples"].isna()
    if unknown.any():
        batch = points["run"].map(runs.set_index("run")["batch_size"])
        # As floats: whole numbers of 64 bits would overflow where a step is absurd.
        points.loc[unknown, "examples"] = (points["step"].astype(float) * batch)[unknown]
    points["examples"] = points["examples"].astype(float)
    points["run"] = points["run"].astype("category")
    points = points[list(POINT_COLUMNS)]
    return LossCurves(
        runs, points, tuple(found), project, source, loss_name, batch_unit, observable, read_as or {}, route
    )


def curves_of_runs(
    runs: pd.DataFrame,
    points: PointColumns,
    *,
    problems: Sequence[Problem],
    project: str,
    source: str,
    loss_name: str,
    batch_unit: BatchUnit,
    read_as: Mapping[str, str],
    route: str,
) -> LossCurves:
    """`build_curves` for loss curves that are in order already, without a copy of them all.

    Args:
        runs: as there. points: of these runs and others; its columns are taken, so that what is read is held once.
        problems: those met before. The others: see `LossCurves`.
    """
    found = list(problems)
    runs = _usable_runs(runs, found, lr_needed=True)
    table = _point_table(runs, points)
    return LossCurves(
        runs, table, tuple(found), project, source, loss_name, batch_unit, "loss_curve", read_as, route
    )


def _point_table(runs: pd.DataFrame, points: PointColumns) -> pd.DataFrame:
    """The points of `runs` in their order, made column by column."""
    places = [points.runs().get(run, (0, 0)) for run in runs["run"]]
    rows = np.array([end - start for start, end in places], dtype=np.int64)
    points.step = step = _rearranged(points.step, places)
    points.loss = loss = _rearranged(points.loss, places)
    if points.examples.size:
        points.examples = examples = _rearranged(points.examples, places)
    else:
        examples = np.full(len(step), np.nan)
    ends = np.cumsum(rows)
    for batch_size, start, end in zip(runs["batch_size"].tolist(), ends - rows, ends, strict=True):
        own = examples[start:end]
        np.copyto(own, step[start:end] * float(batch_size), where=np.isnan(own))
    there = np.flatnonzero(rows)
    width = np.int16 if len(there) < 2**15 else np.int32
    codes: NDArray[np.integer[Any]] = np.repeat(np.arange(len(there), dtype=width), rows[there])
    names = pd.Index(runs["run"].to_numpy()[there], dtype="str")
    run = pd.Categorical.from_codes(codes, categories=names)
    return pd.DataFrame({"run": run, "step": step, "examples": examples, "loss": loss}, copy=False)


def _rearranged(column: NDArray[_Number], places: Sequence[tuple[int, int]]) -> NDArray[_Number]:
    """Some stretches of a column one after the other."""
    found = np.empty(sum(end - start for start, end in places), dtype=column.dtype)
    done = 0
    for start, end in places:
        found[done : done + end - start] = column[start:end]
        done += end - start
    return found


def _usable_runs(runs: pd.DataFrame, found: list[Problem], *, lr_needed: bool) -> pd.DataFrame:
    """The runs with a learning rate and a batch size, typed and sorted; the others are named in `found`."""
    _require_columns(runs, RUN_COLUMNS, "runs")
    if runs["run"].duplicated().any():
        twice = runs.loc[runs["run"].duplicated(), "run"].iloc[0]
        raise SurgeError(f"the run {twice!r} stands twice in the table.")
    lr = pd.to_numeric(runs["lr"], errors="coerce").astype("float64")
    batch_size = pd.to_numeric(runs["batch_size"], errors="coerce").astype("float64")
    lr_usable = lr.between(*LR_RANGE) if lr_needed else lr.between(*LR_RANGE) | lr.isna()
    usable = lr_usable & (batch_size > 0) & np.isfinite(batch_size)
    for name in runs.loc[~usable, "run"]:
        found.append(
            Problem(
                str(name), "left out: learning rate or batch size is missing, not positive or out of range"
            )
        )
    whole = (batch_size == np.floor(batch_size)) & (batch_size <= MAX_BATCH_SIZE)
    for name in runs.loc[usable & ~whole, "run"]:
        found.append(Problem(str(name), "left out: the batch size is not a whole number"))
    usable &= whole
    runs = runs[usable].copy()
    runs["run"] = runs["run"].astype(str)
    runs["lr"] = lr[usable]
    runs["batch_size"] = batch_size[usable].astype("int64")
    runs["seed"] = runs["seed"].astype("Int64")
    return runs.sort_values("run", ignore_index=True)


def _ordered_points(points: pd.DataFrame, found: list[Problem]) -> pd.DataFrame:
    """The points typed and sorted, one a run and step; the number of repeated ones dropped is named in `found`."""
    points = points.copy()
    points["run"] = points["run"].astype(str)
    points["step"] = points["step"].astype("int64")
    points["loss"] = points["loss"].astype(float)
    points = points.sort_values(["run", "step"], kind="stable", ignore_index=True)
    repeated = points.duplicated(["run", "step"], keep="last")
    if not repeated.any():
        return points
    for name, count in points.loc[repeated, "run"].value_counts().sort_index().items():
        steps = "step" if count == 1 else "steps"
        found.append(Problem(str(name), f"{count} repeated {steps} dropped, the last value of each kept"))
    return points[~repeated].reset_index(drop=True)


def _require_columns(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise SurgeError(
            f"the table of {name} has no column {', '.join(map(repr, missing))}.",
            f"It has: {', '.join(map(str, table.columns))}.",
        )
