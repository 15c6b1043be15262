"""A table's raw values as numbers, seeds, statuses and hyper-parameters; what cannot be read is marked, never guessed.

Values that repeat are read once, so a long table of few learning rates and batch sizes costs little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.curves import Status
from surge_sweeps.trackers.stored_runs import typed_column

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: What programs write where there is no number. A run noted as diverged has none either.
NO_NUMBER = frozenset({"", "na", "n/a", "<na>", "null", "none", "nan", "-", "diverged"})

#: How other trackers call the statuses.
_STATUS_NAMES: dict[str, Status] = {
    **{status: status for status in get_args(Status)},
    "failed": "crashed",
    "killed": "crashed",
}
_LONGEST_SHOWN = 30
_ROWS_SHOWN = 5


class Numbers(NamedTuple):
    """A column as numbers.

    Attributes:
        values: (n,) NaN where there is no number. empty: (n,) nothing stands there. wrong: (n,) text that is no number.
    """

    values: FloatArray
    empty: BoolArray
    wrong: BoolArray


def numbers(column: pd.Series) -> Numbers:
    """Read numbers, exactly as Python reads their text.

    >>> values, empty, wrong = numbers(pd.Series(["1e-3", "", "nan", "1,000"]))
    >>> values.tolist(), empty.tolist(), wrong.tolist()
    ([0.001, nan, nan, nan], [False, True, False, False], [False, False, False, True])
    """
    if pd.api.types.is_numeric_dtype(column) and column.dtype not in (np.float32, np.float16):
        values = column.to_numpy(float, na_value=np.nan)
        return Numbers(values, np.isnan(values), np.zeros(len(values), dtype=bool))
    codes, index = pd.factorize(column)
    # A short float is read through its text: the 0.001 that was written as float32 is 0.001 again.
    distinct = np.asarray(index)
    read = [_number(value) for value in distinct]
    values = np.array([np.nan if number is None else number for number in read] + [np.nan])
    empty = np.array([_is_blank(value) for value in distinct] + [True], dtype=bool)
    wrong = np.array([number is None for number in read] + [False], dtype=bool)
    return Numbers(values[codes], empty[codes], wrong[codes])


def _number(value: object) -> float | None:
    """The number, NaN for a mark that there is none, None for anything else."""
    if isinstance(value, bool | np.bool_):
        return None
    text = str(value).strip()
    if text.lower() in NO_NUMBER:
        return np.nan
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def blank(column: pd.Series) -> BoolArray:
    """(n,) where nothing stands."""
    return np.asarray(column.isna() | column.map(_is_blank, na_action="ignore").eq(True), dtype=bool)


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def hyper_parameter(column: pd.Series) -> pd.Series:
    """A column as booleans, integers, floats or text, missing where nothing stands.

    >>> hyper_parameter(pd.Series(["1", " 2 ", ""])).tolist(), hyper_parameter(pd.Series(["adam", "1"])).tolist()
    ([1, 2, <NA>], ['adam', '1'])
    """
    if pd.api.types.is_numeric_dtype(column):
        return column
    codes, distinct = pd.factorize(column)
    texts: list[str | None] = [None if _is_blank(value) else str(value).strip() for value in distinct]
    texts += [None] if (codes < 0).any() else []
    return typed_column(texts).take(codes).reset_index(drop=True)


class Seeds(NamedTuple):
    """Seeds as nullable integers, and whether they are numbers given to texts."""

    values: pd.Series
    numbered: bool


def seeds(column: pd.Series) -> Seeds:
    """Whole numbers as they are; where any is something else, all of them numbered in the order of their text.

    >>> seeds(pd.Series(["7", "1.0", ""])).values.tolist(), seeds(pd.Series(["b", "a", "b"])).values.tolist()
    ([7, 1, <NA>], [1, 0, 1])
    """
    typed = hyper_parameter(column)
    if pd.api.types.is_integer_dtype(typed):
        return Seeds(typed.astype("Int64"), numbered=False)
    if pd.api.types.is_float_dtype(typed):
        values = typed.to_numpy(float)
        given = values[~np.isnan(values)]
        if (np.isfinite(given) & (given == np.floor(given)) & (np.abs(given) < 2.0**53)).all():
            return Seeds(typed.astype("Int64"), numbered=False)
    codes, _ = pd.factorize(typed.astype("string"), sort=True)
    return Seeds(pd.Series(codes, dtype="Int64").mask(codes < 0), numbered=True)


def statuses(column: pd.Series) -> list[Status | None]:
    """The statuses that a column names, by our names or MLflow's or W&B's; None for any other text.

    >>> statuses(pd.Series(["FINISHED", "failed", "ok"]))
    ['finished', 'crashed', None]
    """
    codes, distinct = pd.factorize(column)
    known: list[Status | None] = [_STATUS_NAMES.get(str(value).strip().lower()) for value in distinct]
    return [known[code] if code >= 0 else None for code in codes]


def rows_text(mask: BoolArray, row: Callable[[int], int] = lambda index: index) -> str:
    """Which rows, counted from 1 below the header; the first few of many.

    Args:
        mask: (n,) the rows meant. row: from a position in `mask` to the row's position in the file.

    >>> rows_text(np.array([True, False, True])), rows_text(np.arange(9) > 2)
    ('data rows 1 and 3', 'data rows 4, 5, 6, 7, 8 and 1 more')
    """
    found = [row(int(index)) + 1 for index in np.flatnonzero(mask)]
    shown = [str(number) for number in found[:_ROWS_SHOWN]]
    more = len(found) - len(shown)
    last = f"{more} more" if more else shown.pop()
    return f"data row{'s' if len(found) > 1 else ''} {' and '.join([*([', '.join(shown)] if shown else []), last])}"


def examples_text(column: pd.Series) -> str:
    """The first few distinct values of a column, as they stand.

    >>> examples_text(pd.Series(["abc", "abc", "1,000"]))
    "'abc', '1,000'"
    """
    distinct = list(dict.fromkeys(str(value) for value in column))
    shown = [
        repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "...") for value in distinct
    ]
    return ", ".join(shown[:3]) + (", ..." if len(distinct) > 3 else "")
