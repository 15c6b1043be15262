"""A CSV or Parquet table as `LossCurves`: one number a run and row, or the points of loss curves.

What each column is follows from the options (`roles`), rows are checked one by one (`rows`), and then put
together here: repeated rows, replicates, runs and their statuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import numpy as np
import pandas as pd

from surge_sweeps.counting import counted
from surge_sweeps.curves import POINT_COLUMNS, LossCurves, Observable, Problem, build_curves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.assemble import BatchUnit
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.tables.curves import curve_tables
from surge_sweeps.trackers.tables.file import project_name, read_file
from surge_sweeps.trackers.tables.roles import find_roles
from surge_sweeps.trackers.tables.rows import Rows, read_rows
from surge_sweeps.trackers.tables.values import BoolArray

#: This many learning rates of one batch size and seed, or of one batch size that lie further apart than tuning twice
#: would put them, are a sweep.
_SWEPT_RATES = 3
_TUNED_SPREAD = 10.0

#: What a row without a number tells, by what the table records.
_WITHOUT: dict[Observable, str] = {
    "final": "without a finite loss, counted as diverged",
    "gain": "without a finite gain, counted as diverged",
    "steps": "without steps to the goal, counted as never having reached it",
}


def read_table(project: str, options: ReadOptions) -> LossCurves:
    """Read a table.

    Args:
        project: the file's path, as the user gave it.
        options: the columns; what `cache_dir` says is of no use here.

    Returns:
        One run a row, named by its row (`row 7` is the seventh below the header), or with a step column one run for
        each name, or else each group, learning rate, batch size and seed.

    Raises:
        UnknownNameError: a column or batch unit that is not there.
        SurgeError: no such file, no table, columns that contradict each other, or no row that can be used.
    """
    if options.batch_unit not in get_args(BatchUnit):
        raise UnknownNameError("batch unit", options.batch_unit, get_args(BatchUnit))
    raw = read_file(Path(project))
    roles = find_roles(raw, options)
    rows = read_rows(raw, roles)
    if roles.observable == "loss_curve":
        runs, points = curve_tables(rows)
    else:
        repeated = raw.columns.duplicated() if roles.seed is None else None
        runs, points = _run_table(rows, roles.observable, repeated), pd.DataFrame(columns=list(POINT_COLUMNS))
    if roles.seed is None and roles.run is None:
        _say_replicates(rows, runs)
    runs = runs.rename(columns=rows.groups)
    measured = roles.lr if roles.response is None else roles.response
    return build_curves(
        runs,
        points,
        problems=rows.problems,
        project=project_name(project),
        source=project,
        loss_name="" if measured is None else raw.names[measured].strip(),
        batch_unit=cast(BatchUnit, options.batch_unit),
        observable=roles.observable,
        route="the table itself",
    )


def _run_table(rows: Rows, observable: Observable, repeated: pd.Series[bool] | None) -> pd.DataFrame:
    """The runs of a table with one number a row.

    Args:
        rows: the rows. observable: what the number is.
        repeated: the rows of the file that repeat another one in every column; None where seeds tell runs apart.
    """
    if observable == "given":
        _check_tuned(rows)
        rows.table = rows.table.assign(response=np.nan)
    _set_status(rows, observable)
    _drop_repeated(rows, observable, repeated)
    width = len(str(int(rows.table.index.max()) + 1))
    names = [f"row {position + 1:0{width}d}" for position in rows.table.index]
    columns = ["lr", "batch_size", "seed", "status", "response", *rows.groups]
    table = rows.table[columns].reset_index(drop=True)
    table.insert(0, "run", pd.Series(names, dtype="str"))
    return table


def _check_tuned(rows: Rows) -> None:
    """Refuse a grid of learning rates as tuned ones: the middle of a grid would pass for an optimum."""
    cells = rows.table.groupby([*rows.groups, "batch_size", "seed"], dropna=False, sort=True)["lr"]
    count, spread = cells.nunique(), cells.max() / cells.min()
    seeded = np.asarray(count.index.get_level_values("seed").notna(), dtype=bool)
    swept = count[(count >= _SWEPT_RATES) & (seeded | (spread > _TUNED_SPREAD))]
    if len(swept):
        batch_size = swept.index.get_level_values("batch_size")[0]
        raise SurgeError(
            f"batch size {batch_size} has {swept.iloc[0]} learning rates; --optimal-lr-column takes one tuned rate a"
            " batch size.",
            "Use --loss-column, --gain-column or --steps-to-goal-column for a sweep.",
        )


def _set_status(rows: Rows, observable: Observable) -> None:
    table = rows.table
    recorded = table["status"].astype("str")
    if observable == "given":
        rows.table = table.assign(status=recorded.where(recorded != "", "finished"))
        return
    noted = (recorded == "diverged").to_numpy()
    without = ~np.isfinite(table["response"].to_numpy(float))
    rows.say(without & ~noted, _WITHOUT[observable])
    rows.say(noted & ~without, "with a number, but recorded as diverged: the number is not used")
    measured = np.where(without, "capped" if observable == "steps" else "diverged", "finished")
    own = recorded.isin(["", "finished", "capped"])
    status = recorded.mask(own, pd.Series(measured, index=table.index, dtype="str"))
    rows.table = table.assign(status=status, response=table["response"].mask(without | noted))


def _drop_repeated(rows: Rows, observable: Observable, repeated: pd.Series[bool] | None) -> None:
    """Rows that stand there twice are one run; rows that differ in what was measured are several."""
    key = [*rows.groups, "batch_size", "lr", "seed"]
    if observable == "given":
        rows.drop(_duplicated(rows, key), "repeating an earlier row")
        return
    if repeated is None:
        rows.drop(_duplicated(rows, [*key, "response", "status"]), "repeating an earlier row")
        seeded = rows.table["seed"].notna().to_numpy(bool)
        again = _duplicated(rows, key) & seeded
        rows.say(
            again,
            "with the group, learning rate, batch size and seed of an earlier row and another result, taken as"
            " further replicates (a hyper-parameter that tells them apart belongs into --group-by)",
        )
        return
    # Several diverged runs without a seed look alike and are no copies.
    same = repeated.loc[rows.table.index].to_numpy(bool) & rows.table["response"].notna().to_numpy()
    rows.drop(same, "repeating an earlier row in every column")


def _duplicated(rows: Rows, columns: list[str]) -> BoolArray:
    return np.asarray(rows.table.duplicated(columns), dtype=bool)


def _say_replicates(rows: Rows, runs: pd.DataFrame) -> None:
    cells = runs.groupby([*rows.groups, "batch_size", "lr"], dropna=False).size()
    shared = cells[cells > 1]
    if len(shared):
        what = (
            f"the table has no seeds: {counted(int(shared.sum()), 'run')} that share learning rate and batch size"
            " with others were taken as replicates"
        )
        rows.problems.append(Problem(None, what))
