"""A table's rows typed and checked: what cannot be used is left out, and counted by kind with the first few rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from surge_sweeps.curves import CONTROL_COLUMNS, LR_RANGE, MAX_BATCH_SIZE, RUN_COLUMNS, Observable, Problem
from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers.tables.file import RawTable
from surge_sweeps.trackers.tables.groups import likely_hyper_parameters
from surge_sweeps.trackers.tables.roles import Roles
from surge_sweeps.trackers.tables.values import (
    BoolArray,
    Numbers,
    blank,
    examples_text,
    hyper_parameter,
    numbers,
    rows_text,
    seeds,
    statuses,
)

#: Where a learning rate may be missing, rows are kept without.
_LR_OPTIONAL: tuple[Observable, ...] = ("steps",)
#: Where this share of the losses is positive, the others are slips or place-holders; else zero is a value like others.
_POSITIVE_SHARE = 0.8
_OWN_NAMES = (*RUN_COLUMNS, *CONTROL_COLUMNS)


@dataclass(eq=False)
class Rows:
    """The rows in work.

    Attributes:
        table: `lr`, `batch_size`, `seed`, `status` (empty where none is recorded), where there is one `response`,
            `empty` (nothing stands in its place), `step` and `run`, and `group 0`, `group 1`, ...; indexed by the row's
            position in the file.
        groups: each of the latter -> the name it is to have in `LossCurves.runs`. problems: what was found on the way.
    """

    table: pd.DataFrame
    groups: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, mask: BoolArray) -> str:
        """The rows of a mask in words."""
        return rows_text(mask, lambda position: int(self.table.index[position]))

    def say(self, mask: BoolArray, what: str) -> None:
        """Count rows as a problem, if there are any."""
        count = int(mask.sum())
        if count:
            self.problems.append(Problem(None, f"{count} row{'s' * (count > 1)} {what}: {self.where(mask)}"))

    def drop(self, mask: BoolArray, why: str) -> None:
        """Leave rows out and say so."""
        self.say(mask, f"left out, {why}")
        self.table = self.table[~mask]


def read_rows(raw: RawTable, roles: Roles) -> Rows:
    """The usable rows of a table.

    Raises:
        SurgeError: there is none, or every row is a group of its own.
    """
    rows = Rows(pd.DataFrame(index=raw.columns.index))
    _read_axes(rows, raw, roles)
    if roles.response is not None:
        _read_response(rows, raw, roles)
    if roles.step is not None:
        _read_steps(rows, raw, roles.step)
    if roles.run is not None:
        _read_run_names(rows, raw, roles.run)
    _check_some_left(rows)
    _read_seeds(rows, raw, roles.seed)
    _read_statuses(rows, raw, roles.status)
    _check_signs(rows, raw, roles)
    _read_groups(rows, raw, roles)
    return rows


def _raw_column(rows: Rows, raw: RawTable, column: int) -> pd.Series:
    return raw.columns[column].loc[rows.table.index]


def _drop_by_kind(
    rows: Rows, raw: RawTable, column: int, kinds: Sequence[tuple[BoolArray, str]], *, show: bool = True
) -> None:
    """Leave out the rows of each kind; a row that is of several counts for the first."""
    name = raw.names[column]
    values = _raw_column(rows, raw, column)
    positions = rows.table.index
    for mask, what in kinds:
        left = positions[mask].intersection(rows.table.index)
        now = np.asarray(rows.table.index.isin(left))
        shown = f" ({examples_text(values.loc[left])})" if show and "not" in what else ""
        rows.drop(now, f"{name!r} {what}{shown}")


def _not_positive(read: Numbers) -> list[tuple[BoolArray, str]]:
    return [
        (read.wrong, "is not a number"),
        (np.isnan(read.values), "is missing or NaN"),
        (np.isinf(read.values), "is infinite"),
        (read.values == 0, "is zero"),
        (read.values < 0, "is negative"),
    ]


def _read_axes(rows: Rows, raw: RawTable, roles: Roles) -> None:
    batch = numbers(_raw_column(rows, raw, roles.batch_size))
    rows.table = rows.table.assign(batch_size=batch.values, lr=np.nan)
    finite = np.isfinite(batch.values)
    fraction = finite & (batch.values != np.floor(np.where(finite, batch.values, 0)))
    kinds = [
        *_not_positive(batch),
        (fraction, "is not a whole number"),
        (batch.values > MAX_BATCH_SIZE, "is not a believable batch size"),
    ]
    _drop_by_kind(rows, raw, roles.batch_size, kinds)
    if roles.lr is None:
        return
    rates = numbers(_raw_column(rows, raw, roles.lr))
    rows.table = rows.table.assign(lr=rates.values)
    if roles.observable not in _LR_OPTIONAL:
        beyond = (rates.values < LR_RANGE[0]) | (rates.values > LR_RANGE[1])
        kinds = [*_not_positive(rates), (beyond, "is not a believable learning rate")]
        _drop_by_kind(rows, raw, roles.lr, kinds)
        return
    unusable = ~((rates.values >= LR_RANGE[0]) & (rates.values <= LR_RANGE[1]))
    rows.say(unusable, f"with no usable learning rate in {raw.names[roles.lr]!r}, kept without")
    rows.table = rows.table.assign(lr=rates.values).assign(lr=lambda table: table["lr"].mask(unusable))


def _read_response(rows: Rows, raw: RawTable, roles: Roles) -> None:
    column = roles.response
    if column is None:
        return
    read = numbers(_raw_column(rows, raw, column))
    rows.table = rows.table.assign(response=read.values, empty=read.empty)
    kinds = [(read.wrong, "is not a number")]
    if roles.observable == "steps":
        kinds += [(read.values == 0, "is zero"), (read.values < 0, "is negative")]
    _drop_by_kind(rows, raw, column, kinds)


def _read_steps(rows: Rows, raw: RawTable, column: int) -> None:
    read = numbers(_raw_column(rows, raw, column))
    rows.table = rows.table.assign(step=read.values)
    finite = np.isfinite(read.values)
    fraction = finite & (read.values != np.floor(np.where(finite, read.values, 0)))
    kinds = [
        (read.wrong, "is not a number"),
        (np.isnan(read.values), "is missing or NaN"),
        (fraction | np.isinf(read.values) | (read.values > MAX_BATCH_SIZE), "is not a whole number"),
        (read.values < 0, "is negative"),
    ]
    _drop_by_kind(rows, raw, column, kinds)
    rows.table = rows.table.astype({"step": "int64"})


def _read_run_names(rows: Rows, raw: RawTable, column: int) -> None:
    names = _raw_column(rows, raw, column)
    texts = names.map(lambda name: str(name).strip(), na_action="ignore")
    texts = texts.mask(texts == "")
    rows.table = rows.table.assign(run=texts)
    _drop_by_kind(rows, raw, column, [(texts.isna().to_numpy(), "is missing")])


def _check_some_left(rows: Rows) -> None:
    if rows.table.empty:
        found = "; ".join(problem.what for problem in rows.problems[:3])
        raise SurgeError(f"no row of the table can be used: {found}.", "Check which columns were named.")
    rows.table = rows.table.astype({"batch_size": "int64"})


def _read_seeds(rows: Rows, raw: RawTable, column: int | None) -> None:
    if column is None:
        rows.table = rows.table.assign(seed=pd.array([pd.NA] * len(rows.table), dtype="Int64"))
        return
    read = seeds(_raw_column(rows, raw, column))
    if read.numbered:
        what = f"the seeds in {raw.names[column]!r} are no whole numbers: they were numbered from 0 on"
        rows.problems.append(Problem(None, what))
    rows.table = rows.table.assign(seed=read.values.to_numpy())
    missing = rows.table["seed"].isna().to_numpy(bool)
    rows.say(missing, f"without a seed in {raw.names[column]!r}, taken as further replicates")


def _read_statuses(rows: Rows, raw: RawTable, column: int | None) -> None:
    if column is None:
        rows.table = rows.table.assign(status="")
        return
    values = _raw_column(rows, raw, column)
    read = np.array([status or "" for status in statuses(values)], dtype=object)
    rows.table = rows.table.assign(status=read)
    unknown = np.asarray(read == "", dtype=bool) & ~blank(values)
    shown = f" ({examples_text(values[unknown])})" if unknown.any() else ""
    rows.say(unknown, f"with an unknown status{shown}, taken by what was measured")


def _check_signs(rows: Rows, raw: RawTable, roles: Roles) -> None:
    """Losses below or at zero among positive ones, which would be the best of all, and gains that all lose."""
    if roles.response is None or roles.observable == "steps":
        return
    values = rows.table["response"].to_numpy(float)
    finite, positive = np.isfinite(values), values > 0
    if roles.observable == "gain":
        if finite.any() and not (finite & positive).any():
            what = "no gain is positive: is larger better in this column?"
            rows.problems.append(Problem(None, what))
        return
    # A run noted as diverged may well stand with a zero, and is used without its number.
    noted = (rows.table["status"] == "diverged").to_numpy() & (roles.observable == "final")
    measured = finite & ~noted
    if positive[measured].sum() >= _POSITIVE_SHARE * measured.sum():
        what = "is not positive, unlike most others"
        _drop_by_kind(rows, raw, roles.response, [(measured & ~positive, what)])


def _read_groups(rows: Rows, raw: RawTable, roles: Roles) -> None:
    columns = roles.groups if roles.groups is not None else _guess_groups(rows, raw, roles)
    for column in columns:
        name = raw.names[column].strip()
        # A fit takes columns of these names for its own.
        name = f"{name} (table)" if name in _OWN_NAMES else name
        name = f"{name} ({column + 1})" if name in rows.groups.values() else name
        label = f"group {len(rows.groups)}"
        rows.groups[label] = name
        values = hyper_parameter(_raw_column(rows, raw, column)).set_axis(rows.table.index)
        rows.table = rows.table.assign(**{label: values})
        rows.say(values.isna().to_numpy(bool), f"with nothing in {name!r}, a group of their own")
    labels = list(rows.groups)
    if labels and len(rows.table) > 1 and not rows.table.duplicated(labels).any():
        raise SurgeError(
            f"every row is a group of its own when grouped by {', '.join(map(repr, rows.groups.values()))}.",
            "Group by hyper-parameters that many rows share, such as the optimizer or the model size.",
        )


def _guess_groups(rows: Rows, raw: RawTable, roles: Roles) -> tuple[int, ...]:
    used = roles.used()
    names = {column: name for column, name in enumerate(raw.names) if column not in used}
    axes = {"the batch size": rows.table["batch_size"]}
    if roles.observable in ("final", "gain", "loss_curve"):
        axes["the learning rate"] = rows.table["lr"]
    if "step" in rows.table:
        axes["the step"] = rows.table["step"]
    choice = likely_hyper_parameters(names, raw.columns.loc[rows.table.index], axes)
    if choice.taken or choice.ignored:
        taken = ", ".join(repr(names[column]) for column in choice.taken)
        how = f"grouped by {taken}" if taken else "taken as one group"
        ignored = ", ".join(f"{names[column]!r} ({why})" for column, why in choice.ignored.items())
        rest = f"; columns left aside: {ignored}" if ignored else ""
        what = f"rows are {how}{rest}. This is a guess: --group-by says it outright"
        rows.problems.append(Problem(None, what))
    return choice.taken
