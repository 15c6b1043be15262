"""Which columns of a table look like hyper-parameters, for tables whose user did not say.

A guess, and told as one: a column that varies is taken unless its name or its values say that it is an output, an
identifier, or something that changes along with the batch size or learning rate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.trackers.tables.values import numbers

#: A sweep gives a hyper-parameter a few values; a column with more than this is something measured.
MAX_VALUES = 30

_OUTPUT = re.compile(
    r"loss(es)?|acc|accuracy|err|errors?|ppl|perplexity|bpb|bpc|scores?|f1|auc|metrics?|time|runtime|timestamp"
    r"|seconds?|hours?|duration|date|created|updated|throughput|flops|epoch|diverged|converged|success"
)
_IDENTIFIER = re.compile(
    r"ids?|uuid|guid|hash|path|file|url|uri|link|run|runs|index|idx|notes?|tags?|host|hostname|user|status|state|job"
)
_WORDS = re.compile(r"[a-z0-9]+")

Codes = NDArray[np.int64]


class GroupChoice(NamedTuple):
    """The columns taken, and for each varying one that was not: why."""

    taken: tuple[int, ...]
    ignored: dict[int, str]


def likely_hyper_parameters(
    names: Mapping[int, str], columns: pd.DataFrame, axes: Mapping[str, pd.Series]
) -> GroupChoice:
    """Choose the columns to group by.

    Args:
        names: the candidates, column label -> name. columns: their values.
        axes: what is swept, in words, and its values: a column with a single one of them at each of its own values
            would tear the sweep apart.

    >>> columns = pd.DataFrame({0: ["a", "a", "b", "b"], 1: [1, 2, 3, 4], 2: [5, 6, 5, 6], 3: [.1, .1, .2, .2]})
    >>> names = {0: "optimizer", 1: "note", 2: "warmup", 3: "loss"}
    >>> likely_hyper_parameters(names, columns, {"the batch size": pd.Series([8, 16, 8, 16])})
    GroupChoice(taken=(0,), ignored={1: 'an identifier', 2: 'changes with the batch size', 3: 'an output'})
    """
    axis_codes = {axis: np.asarray(pd.factorize(values)[0]) for axis, values in axes.items()}
    taken: list[int] = []
    ignored: dict[int, str] = {}
    for label, name in names.items():
        codes = np.asarray(pd.factorize(columns[label], use_na_sentinel=False)[0])
        if not (codes != codes[:1]).any():
            continue
        is_text = bool(numbers(columns[label]).wrong.any())
        why = _why_not(name, codes, axis_codes, is_text=is_text)
        if why:
            ignored[label] = why
        else:
            taken.append(label)
    return GroupChoice(tuple(taken), ignored)


def _why_not(name: str, codes: Codes, axes: Mapping[str, Codes], *, is_text: bool) -> str:
    words = _WORDS.findall(name.lower())
    count = int(codes.max()) + 1
    if not is_text and any(_OUTPUT.fullmatch(word) for word in words):
        return "an output"
    if any(_IDENTIFIER.fullmatch(word) for word in words) or words == ["name"] or not words:
        return "an identifier"
    if 2 * count > codes.size or count > MAX_VALUES:
        return f"{count} different values"
    for axis, swept in axes.items():
        if (swept != swept[:1]).any() and _values_at_each(codes, swept) == 1:
            return f"changes with {axis}"
    return ""


def _values_at_each(codes: Codes, swept: Codes) -> float:
    """The median over a column's values of the number of values that something swept takes there."""
    pairs = pd.DataFrame({"own": codes, "swept": swept}).drop_duplicates()
    return float(pairs.groupby("own").size().median())
