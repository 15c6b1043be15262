"""What one `.wandb` file tells of a run, whichever way the file was read: `RunLog` collects it record by record.

Names below one another are joined by dots, in the configuration and among the metrics, as W&B's own tools do.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.trackers.wandb.offline.transaction_log import Ending
from surge_sweeps.trackers.wandb.record import SUMMARY

STEP, TIMESTAMP = "_step", "_timestamp"
#: How W&B writes these floats where its JSON is strict.
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class Column(NamedTuple):
    """One metric: (n,) the rows of the history it was logged in, ascending, and (n,) its values there."""

    row: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OfflineFile:
    """One file, read.

    Attributes:
        path: the file. run_id, entity, project, sweep_id, group, job_type: as W&B knows the run; empty where the
            file tells nothing. start_ms: milliseconds since 1970. exit_code: None while the run is open.
        config: its last state, dotted name -> plain value. summary: only what begins with `surge/`.
        rows: rows of the history. columns: metric -> what was logged; values that are no numbers are not there.
        ending: how the file ended. problems: what else went wrong, in the order found.
    """

    path: Path
    run_id: str
    entity: str
    project: str
    sweep_id: str
    group: str
    job_type: str
    start_ms: int | None
    exit_code: int | None
    config: Mapping[str, object]
    summary: Mapping[str, object]
    rows: int
    columns: Mapping[str, Column]
    ending: Ending
    problems: tuple[str, ...] = ()


@dataclass
class RunLog:
    """The state of a run while its file is read.

    `names` holds the text fields of `OfflineFile`; a later record of the run overwrites what an earlier one said.
    `series` is metric -> its rows and values so far.
    """

    names: dict[str, str] = field(default_factory=dict)
    start_ms: int | None = None
    exit_code: int | None = None
    config: dict[str, object] = field(default_factory=dict)
    summary: dict[str, object] = field(default_factory=dict)
    rows: int = 0
    series: dict[str, tuple[array[int], array[float]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def begin(self, names: Mapping[str, str], start_ms: int | None) -> None:
        """Take in a record of the run itself."""
        self.names.update({name: text for name, text in names.items() if text})
        self.start_ms = start_ms if self.start_ms is None else self.start_ms

    def configure(self, update: Iterable[tuple[str, object]], remove: Iterable[str]) -> None:
        """Take in a record of the configuration: the values set, then the names taken away."""
        _change(self.config, update, remove)

    def summarize(self, update: Iterable[tuple[str, object]], remove: Iterable[str]) -> None:
        """Take in a record of the summary."""
        _change(self.summary, [item for item in update if item[0].startswith(SUMMARY)], remove)

    def column(self, name: str) -> tuple[array[int], array[float]]:
        """Where the rows and the values of a metric go."""
        known = self.series.get(name)
        if known is None:
            known = self.series[name] = (array("q"), array("d"))
        return known

    def end_row(self, step: int | None) -> None:
        """Close a row of the history; `step`: the step it was logged at, which the row itself may hold already."""
        if step is not None:
            row, value = self.column(STEP)
            if not row or row[-1] != self.rows:
                row.append(self.rows)
                value.append(step)
        self.rows += 1

    def close(self, path: Path, ending: Ending) -> OfflineFile:
        """What the file told."""
        columns = {
            name: Column(np.array(row, dtype=np.int64), np.array(value, dtype=np.float64))
            for name, (row, value) in self.series.items()
            if row
        }
        names = {
            name: self.names.get(name, "")
            for name in ("run_id", "entity", "project", "sweep_id", "group", "job_type")
        }
        return OfflineFile(
            path,
            **names,
            start_ms=self.start_ms,
            exit_code=self.exit_code,
            config=self.config,
            summary=self.summary,
            rows=self.rows,
            columns=columns,
            ending=ending,
            problems=tuple(self.problems),
        )


def number(value: object) -> float | None:
    """A logged value as a float, or None where it is no number; W&B's words for NaN and infinities count as such.

    >>> number(3), number("NaN"), number("-Infinity"), number("3"), number(True)
    (3.0, nan, -inf, None, None)
    """
    if isinstance(value, str):
        return _NOT_FINITE.get(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def as_text(value: object) -> str:
    """A plain value as the text that `StoredRun.params` holds.

    >>> as_text(0.001), as_text(True), as_text([1, 2]), as_text("NaN"), as_text("adamw")
    ('0.001', 'True', '[1, 2]', 'nan', 'adamw')
    """
    return str(_NOT_FINITE.get(value, value) if isinstance(value, str) else value)


def _change(state: dict[str, object], update: Iterable[tuple[str, object]], remove: Iterable[str]) -> None:
    for name, value in update:
        _drop(state, name)
        state.update(flatten(name, value))
    for name in remove:
        _drop(state, name)


def _drop(state: dict[str, object], name: str) -> None:
    for known in [known for known in state if known == name or known.startswith(f"{name}.")]:
        del state[known]


def flatten(name: str, value: object) -> dict[str, object]:
    """A value under its dotted names; a mapping becomes one for each of its leaves.

    >>> flatten("optim", {"name": "adamw", "betas": [0.9, 0.95]})
    {'optim.name': 'adamw', 'optim.betas': [0.9, 0.95]}
    """
    if not isinstance(value, Mapping):
        return {name: value}
    leaves: dict[str, object] = {}
    for key, part in value.items():
        leaves.update(flatten(f"{name}.{key}", part))
    return leaves
