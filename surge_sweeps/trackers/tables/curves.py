"""A table with a step column as runs and points: which rows make a run, and what a row without a loss means."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers.tables.rows import Rows

Codes = NDArray[np.int64]


def curve_tables(rows: Rows) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs and points of a table of loss curves.

    A run is what `run` names, else each group, learning rate, batch size and seed; without seeds, rows that hold every
    step of these equally often are as many replicates, told apart by the order of their rows.

    Raises:
        SurgeError: the rows of a run differ in learning rate, batch size, seed or group, every row is a run, or all
            rows have the same step.
    """
    key = [*rows.groups, "lr", "batch_size", "seed"]
    named = "run" in rows.table
    code = _codes(rows.table, ["run"] if named else key)
    if named:
        _check_constant(rows, code, key)
    rows.table = rows.table.assign(code=code)
    _drop_unmeasured(rows)
    _check_steps(rows)
    if not named and rows.table["seed"].isna().all():
        _tell_replicates(rows)
    _drop_repeated_steps(rows)
    _check_curves(rows)
    table = rows.table if named else rows.table.assign(run=_names(rows.table["code"]))
    table = table.assign(status=_status(table)).rename(columns={"response": "loss"})
    runs = table.drop_duplicates("code")[["run", "lr", "batch_size", "seed", "status", *rows.groups]]
    return runs.reset_index(drop=True), table[["run", "step", "loss"]].reset_index(drop=True)


def _check_steps(rows: Rows) -> None:
    """Refuse a step column that never changes: what stands in one place is no curve."""
    steps, repeated = rows.table["step"], rows.table["code"].duplicated()
    if len(steps) and repeated.any() and (steps == steps.iloc[0]).all():
        raise SurgeError(
            f"all {len(steps):,} losses of the table stand at step {int(steps.iloc[0])}: the step never changes.",
            "Give --step-column with the column that counts optimizer steps, or leave it away where each row is the"
            " final loss of a run.",
        )


def _codes(table: pd.DataFrame, columns: list[str]) -> Codes:
    return np.asarray(table.groupby(columns, dropna=False, sort=False).ngroup(), dtype=np.int64)


def _names(code: pd.Series[int]) -> pd.Series[str]:
    width = len(str(int(code.max()) + 1))
    return code.map({number: f"run {number + 1:0{width}d}" for number in code.unique()})


def _check_constant(rows: Rows, code: Codes, key: list[str]) -> None:
    for name in key:
        own = _codes(rows.table, [name])
        first = pd.Series(own).groupby(code).transform("first").to_numpy()
        if (own != first).any():
            run = rows.table["run"].iloc[int(np.flatnonzero(own != first)[0])]
            raise SurgeError(
                f"{rows.groups.get(name, name)!r} changes within the run {run!r}.",
                "Name a column that holds one value a run, such as the peak learning rate, or name the runs apart.",
            )


def _drop_unmeasured(rows: Rows) -> None:
    """Rows with nothing in the loss column.

    Where some lie before a loss of their run, the loss was not measured at every row of the table, and they say
    nothing; where they are all at the ends of runs, they are losses that were no numbers any more.
    """
    table = rows.table
    empty = table["empty"].to_numpy(bool)
    if not empty.any():
        return
    measured = table["step"].where(~empty, -1).groupby(table["code"]).transform("max")
    if (empty & (table["step"] < measured).to_numpy()).any() or (measured < 0).all():
        rows.drop(empty, "no loss was measured there")
    else:
        rows.say(empty, "with no loss at the end of their runs, counted as diverged")


def _tell_replicates(rows: Rows) -> None:
    """Give replicates, which have the same key and no seed, codes of their own; copies of one another are dropped."""
    table = rows.table
    turn = table.groupby(["code", "step"]).cumcount()
    times = table.groupby(["code", "step"])["lr"].transform("size")
    runs_of = times.groupby(table["code"])
    whole = (runs_of.transform("min") == runs_of.transform("max")).to_numpy()
    replicate = np.where(whole, turn, 0)
    rows.table = table.assign(code=_codes(table.assign(turn=replicate), ["code", "turn"]), key=table["code"])
    digest = pd.util.hash_pandas_object(rows.table[["step", "response"]], index=False)
    series = digest.groupby(rows.table["code"]).sum()
    keys = rows.table.drop_duplicates("code").set_index("code")["key"]
    copies = pd.DataFrame({"key": keys, "series": series}).duplicated()
    copied = rows.table["code"].isin(copies.index[copies]).to_numpy(bool)
    rows.drop(copied, "repeating an earlier run")
    rows.table = rows.table.assign(code=_codes(rows.table, ["code"]))


def _drop_repeated_steps(rows: Rows) -> None:
    again = np.asarray(rows.table.duplicated(["code", "step", "response"], keep="last"), dtype=bool)
    rows.drop(again, "repeating another row of the same run and step")
    older = np.asarray(rows.table.duplicated(["code", "step"], keep="last"), dtype=bool)
    rows.drop(
        older,
        "a later row has the same run and step (if these are several runs, tell them apart with --run-column or"
        " --seed-column)",
    )


def _check_curves(rows: Rows) -> None:
    if rows.table.empty:
        raise SurgeError("the table holds no loss at any step.", "Check what --loss-column names.")
    if len(rows.table) > 1 and not rows.table["code"].duplicated().any():
        two = rows.where(np.arange(len(rows.table)) < 2)
        raise SurgeError(
            f"every row would be a run of its own: {two} differ in learning rate, batch size, seed, run or group.",
            "Name columns that hold one value a run, such as the peak learning rate, and the groups with --group-by.",
        )


def _status(table: pd.DataFrame) -> pd.Series:
    """As recorded in the last row of a run, but a run whose last loss is not finite has diverged."""
    ordered = table.sort_values(["code", "step"], kind="stable")
    last = ordered.drop_duplicates("code", keep="last").set_index("code")
    recorded = last["status"].replace("", "finished")
    broken = ~np.isfinite(last["response"].to_numpy(float)) & recorded.isin(["finished", "capped"]).to_numpy()
    return table["code"].map(recorded.mask(broken, "diverged"))
