"""The loss surface of one target, from the table of cells.

The table has one row per learning rate and batch size of a target, with the columns `group` and `target` (places in
the fit), `batch_size`, `lr`, `response` (steps to the loss or the goal, loss decrease, or final loss; missing
where too few runs gave one), `runs` and `censored` (how many of them did not get there).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting.result import TargetFit
from surge_sweeps.report.build_infos import Edge, optimum_points, stability_edge
from surge_sweeps.report.families import Family, family_of, target_label
from surge_sweeps.report.infos import Cell, Missing, SurfaceInfo
from surge_sweeps.report.numbers import batch_text, count_text, lr_text, significant

CELL_COLUMNS = ("group", "target", "batch_size", "lr", "response", "runs", "censored")


class _Scale(NamedTuple):
    """Where the colours end, and what their ends mean."""

    worst_score: float
    worst: str
    best: str


_SCALES = {
    "gain": _Scale(0.0, "no decrease", "largest decrease at that batch size"),
    "final": _Scale(0.0, "twice the median distance above it, or more", "lowest loss at that batch size"),
}
_STEPS_SCALE = _Scale(0.25, "4 times as many or more", "fewest steps at that batch size")


def check_cells(cells: pd.DataFrame) -> None:
    """Refuse a table that lacks a column.

    Raises:
        SurgeError: with the columns that are missing and those there are.
    """
    missing = [name for name in CELL_COLUMNS if name not in cells.columns]
    if missing:
        raise SurgeError(
            f"the table of cells has no column {', '.join(map(repr, missing))}.",
            f"It has: {', '.join(map(str, cells.columns))}.",
        )


def surface_info(target: TargetFit, cells: pd.DataFrame, batch_unit: str) -> SurfaceInfo | Missing:
    """The surface of one target; `cells` holds its rows alone."""
    label, family = target_label(target), family_of(target)
    if cells["response"].notna().sum() == 0:
        return Missing(f"No learning rate at any batch size gave a value here ({_what(family, label)}).")
    ordered = cells.sort_values(["batch_size", "lr"])
    scores = ordered.groupby("batch_size")["response"].transform(
        lambda column: _scores(column, family.protocol)
    )
    table = ordered[list(CELL_COLUMNS[2:])].assign(score=scores)
    scale = _SCALES.get(family.protocol, _STEPS_SCALE)
    return SurfaceInfo(
        label=label,
        batch_unit=batch_unit,
        response=family.response(),
        worst_score=scale.worst_score,
        worst=scale.worst,
        best=scale.best,
        cells=tuple(_cell(row, family) for row in table.itertuples(index=False, name=None)),
        optima=optimum_points(target),
        stability_edge=tried_edge(target, cells),
        counts_steps=family.counts_steps(),
    )


def _what(family: Family, label: str) -> str:
    return family.response() if label == family.response() else f"{family.response()}, {label}"


def tried_edge(target: TargetFit, cells: pd.DataFrame) -> Edge:
    """The stability edge where a larger learning rate was tried: elsewhere it is the end of the grid and no edge."""
    largest = cells.groupby("batch_size")["lr"].max().to_dict()
    return tuple(
        (size, rate) for size, rate in stability_edge(target) if rate < largest.get(round(size), rate) * 0.999
    )


def _scores(responses: pd.Series[float], protocol: str) -> pd.Series[float]:
    """How good each cell of one batch size is, 1 for the best, 0 for useless.

    >>> _scores(pd.Series([10.0, 20.0]), "reach").tolist(), _scores(pd.Series([0.5, -0.1, 1.0]), "gain").tolist()
    ([1.0, 0.5], [0.5, 0.0, 1.0])
    """
    if protocol == "gain":
        best = responses.max()
        return (responses / best).clip(lower=0.0) if best > 0 else responses * 0.0
    if protocol == "final":
        excess = responses - responses.min()
        # A few diverged losses must not flatten the rest, hence the median.
        span = max(2 * float(np.nanmedian(excess)), 1e-12)
        return 1 - (excess / span).clip(upper=1.0)
    return responses.min() / responses


def _cell(row: tuple[float, ...], family: Family) -> Cell:
    batch_size, lr, raw, runs, censored, score = row
    response = None if math.isnan(raw) else significant(float(raw), 4)
    if response is None:
        found = f"no {family.response()}"
    elif family.counts_steps():
        found = f"{count_text(response)} steps"
    else:
        found = f"{family.response()} {response:.3g}"
    text = (
        f"batch size {batch_text(batch_size)}, LR {lr_text(float(lr))}: {found}, {counted(int(runs), 'run')}"
    )
    text += _censored_text(int(censored), int(runs), family)
    return Cell(
        int(batch_size), float(lr), response, None if math.isnan(score) else significant(float(score)), text
    )


def _censored_text(censored: int, runs: int, family: Family) -> str:
    if not censored:
        return ""
    if family.counts_steps():
        return ", none got there" if censored >= runs else f", {censored} of them did not get there"
    return ", none has one" if censored >= runs else f", {censored} of them have none"
