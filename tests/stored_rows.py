"""Runs as rows in memory, read as those of any tracker are: for tests of what names and steps are made of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surge_sweeps.curve_cache import Series, join_series
from surge_sweeps.curves import LossCurves
from surge_sweeps.trackers.assemble import Origin, assemble
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.stored_runs import LatestPoint, StoredRun

Row = Mapping[str, float]


@dataclass
class Store:
    """Runs as rows of metrics, as W&B has them; `_step` counts the rows unless a row says otherwise."""

    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    runs: list[StoredRun] = field(default_factory=list)
    fetched: list[tuple[str, str | None]] = field(default_factory=list)
    route: str = "rows in memory"

    def log(self, params: Mapping[str, object], rows: Iterable[Row], status: str = "finished") -> str:
        name = f"run{len(self.runs)}"
        numbered: list[dict[str, float]] = [{"_step": index, **row} for index, row in enumerate(rows)]
        metrics: dict[str, LatestPoint] = {}
        for row in numbered:
            metrics |= {key: LatestPoint(row["_step"], 0, row[key]) for key in row if key != "_step"}
        texts = {key: str(value) for key, value in params.items()}
        self.rows[name] = numbered
        self.runs.append(StoredRun(name, None, status, 0, 1, texts, metrics))  # type: ignore[arg-type]
        return name

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        return [sum(metric in row for row in self.rows[run]) for run in runs]

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        self.fetched.append((metric, axis))
        parts = []
        for run in runs:
            rows = [row for row in self.rows[run] if metric in row]
            step = [row.get(axis or "_step", math.nan) for row in rows]
            value = [row[metric] for row in rows]
            parts.append(
                Series((run,), np.array([len(rows)]), np.array(step), np.array(value), np.arange(len(rows)))
            )
        return join_series(parts)

    def read(self, *, own_step: bool = False, **options: Any) -> LossCurves:
        origin = Origin("project", "memory", ("memory",), own_step)
        return assemble(self.runs, self, origin, ReadOptions(**options))


def steps_of(curves: LossCurves, run: str = "run0") -> list[int]:
    """The steps of a run's points."""
    return curves.points.loc[curves.points["run"] == run, "step"].tolist()


def what(curves: LossCurves, run: str | None = None) -> str:
    """What the problems of a run, or of the whole project, say."""
    return "; ".join(problem.what for problem in curves.problems if problem.run == run)
