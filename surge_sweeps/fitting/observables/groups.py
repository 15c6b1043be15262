"""Which runs belong together: everything recorded that varies over the runs, except what is being swept.

A column that only repeats another one (the optimizer decides its betas) is left out of the group's name, and so is one
that stands for the batch size, the learning rate or the seed, one to one: grouping by it would tear the grid apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from surge_sweeps.curves import CONTROL_COLUMNS, LossCurves

GroupValue = str | int | float | bool | None

_SWEPT = ("lr", "batch_size", "seed")
#: Columns that name a group best, so others that follow from them are dropped rather than these, and what they say
#: is no other word for a learning rate, though each may have been run at one alone.
_FIRST = ("optimizer", "model", "workload", "opt", "optim", "arch", "dataset")


@dataclass(frozen=True, eq=False)
class Group:
    """The runs with the same hyper-parameters; `key` holds those that tell the groups apart."""

    key: dict[str, GroupValue]
    curves: LossCurves


def group_columns(runs: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The columns that tell groups apart, and those that stand one to one for something swept.

    >>> runs = pd.DataFrame({
    ...     "lr": 0.1, "batch_size": [4, 8, 4, 8], "seed": 0, "beta1": [0.0, 0.0, 0.9, 0.9],
    ...     "optimizer": ["sign", "sign", "adamw", "adamw"], "steps_a_pass": [9, 5, 9, 5]})
    >>> group_columns(runs)
    (['optimizer'], ['steps_a_pass'])
    """
    recorded = [name for name in runs.columns if name not in CONTROL_COLUMNS and name not in _SWEPT]
    codes = {name: pd.factorize(runs[name].map(_plain), use_na_sentinel=False)[0] for name in recorded}
    varying = [name for name in recorded if np.any(codes[name] != codes[name][:1])]
    ordered = [name for name in _FIRST if name in varying] + [name for name in varying if name not in _FIRST]
    swept = [pd.factorize(runs[name], use_na_sentinel=False)[0] for name in _SWEPT]
    swept = [column for column in swept if np.any(column != column[:1])]
    kept: list[str] = []
    repeats_sweep: list[str] = []
    for name in ordered:
        own = codes[name]
        if not _says_what_was_trained(name) and any(
            _follows(own, [column]) and _follows(column, [own]) for column in swept
        ):
            repeats_sweep.append(name)
        elif not _follows(codes[name], [codes[other] for other in kept]):
            kept.append(name)
    return kept, repeats_sweep


def split_groups(curves: LossCurves) -> tuple[list[Group], list[str]]:
    """The groups in order of their keys, and what the user should know about how they were made."""
    if curves.runs.empty:
        return [], []
    columns, repeats_sweep = group_columns(curves.runs)
    notes = [
        f"{name!r} changes one to one with the batch size, learning rate or seed: runs were not grouped by it"
        for name in repeats_sweep
    ]
    if not columns:
        return [Group({}, curves)], notes
    keys = pd.Series(
        [tuple(map(_plain, values)) for values in curves.runs[columns].itertuples(index=False)], dtype=object
    )
    found = sorted(set(keys), key=lambda key: tuple(map(_sort_key, key)))
    return [
        Group(
            dict(zip(columns, key, strict=True)),
            curves.restrict(keys.map(lambda value, key=key: value == key)),
        )
        for key in found
    ], notes


def _says_what_was_trained(name: str) -> bool:
    """Whether a column, or the setting of a configuration in levels, is one of those that name a group best.

    >>> _says_what_was_trained("optimizer"), _says_what_was_trained("cfg.model.name"), _says_what_was_trained("name")
    (True, True, False)
    """
    return name.removesuffix(".name").rpartition(".")[2] in _FIRST


def _follows(codes: np.ndarray, others: list[np.ndarray]) -> bool:
    """Whether the values of the others decide this one."""
    table = pd.DataFrame({f"other_{i}": column for i, column in enumerate(others)} | {"own": codes})
    own = table["own"]
    if not others:
        return bool((own == own.iloc[0]).all())
    return bool((table.groupby(list(table.columns[:-1]))["own"].nunique() == 1).all())


def _sort_key(value: GroupValue) -> tuple[int, float, str]:
    """Missing values first, then flags, numbers by size (those recorded as text too), and text.

    >>> sorted([16, "adam", 8, "128", None, 2.5], key=_sort_key)
    [None, 2.5, 8, 16, '128', 'adam']
    """
    if value is None or isinstance(value, bool):
        return (0 if value is None else 1, 0.0, str(value))
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    return (2, number, str(value)) if math.isfinite(number) else (3, 0.0, str(value))


def _plain(value: object) -> GroupValue:
    """A recorded value as a plain JSON scalar; NaN and missing become None, anything else its text."""
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | int | float | bool) else str(value)
