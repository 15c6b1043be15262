"""Runs on disk put together from their files: one run a name, its history as columns, its state as `StoredRun`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from surge_sweeps.counting import counted
from surge_sweeps.curve_cache import Series, join_series
from surge_sweeps.curves import Problem, Status
from surge_sweeps.trackers.stored_runs import LatestPoint, StoredRun, as_status
from surge_sweeps.trackers.trial_runs import script_status
from surge_sweeps.trackers.wandb.offline.run import STEP, TIMESTAMP, Column, OfflineFile, as_text
from surge_sweeps.trackers.wandb.record import STATUS, SUMMARY

#: Columns of the run table that stand in the summary.
_FROM_SUMMARY = ("start_checkpoint", "start_loss")
#: W&B's own part of every configuration.
_OWN = "_wandb"


@dataclass(frozen=True, eq=False)
class OfflineRun:
    """One run: its files in the order they were begun, and what they tell together.

    Attributes:
        files: at least one. config, summary: the last file that says something of a name wins.
        columns: metric -> what was logged, rows counted through all files.
    """

    files: Sequence[OfflineFile]
    config: Mapping[str, object]
    summary: Mapping[str, object]
    columns: Mapping[str, Column]


class OfflineRuns:
    """Runs on disk, read; implements `SeriesSource`.

    Args:
        runs: name -> the run.
    """

    route = "the .wandb files themselves"

    def __init__(self, runs: Mapping[str, OfflineRun]) -> None:
        self._runs = runs

    def stored(self) -> list[StoredRun]:
        """The runs without their points."""
        return [_stored(name, run) for name, run in self._runs.items()]

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """How many points of a metric each run has."""
        return [len(self._runs[run].columns[metric].row) for run in runs]

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """Every point of a metric; see `SeriesSource`. `timestamp` is the row, since clocks of machines differ."""
        return join_series([_series(name, self._runs[name].columns, metric, axis or STEP) for name in runs])


def merge(files: Sequence[OfflineFile], problems: list[Problem]) -> dict[str, OfflineRun]:
    """The runs of some files by name: the run's id, with the project in front where two projects share an id.

    What is wrong with a file, and that it is a copy of another one, is added to `problems`.
    """
    grouped: dict[tuple[str, str, str], list[OfflineFile]] = {}
    for file in sorted(files, key=lambda file: (file.start_ms or 0, str(file.path))):
        grouped.setdefault((file.run_id, file.entity, file.project), []).append(file)
    ids = [run_id for run_id, _, _ in grouped]
    runs: dict[str, OfflineRun] = {}
    for (run_id, entity, project), parts in sorted(grouped.items()):
        name = run_id if ids.count(run_id) == 1 else "/".join((entity, project, run_id))
        parts = _without_copies(name, parts, problems)
        for part in parts:
            problems += [Problem(name, what) for what in part.problems]
            if part.exit_code is None or part.ending.kind != "complete":
                problems.append(Problem(name, _unfinished(part)))
        runs[name] = _join(parts)
    projects = sorted({"/".join(filter(None, key[1:])) for key in grouped})
    if len(projects) > 1:
        problems.append(
            Problem(None, f"runs of {len(projects)} projects are read as one: {', '.join(projects)}")
        )
    return runs


def _without_copies(name: str, parts: Sequence[OfflineFile], problems: list[Problem]) -> list[OfflineFile]:
    """Files begun at the same instant are copies of one file: the longest is kept."""
    kept: dict[object, OfflineFile] = {}
    for part in parts:
        begun = part.path if part.start_ms is None else part.start_ms
        other = kept.setdefault(begun, part)
        if other is not part:
            longer, shorter = (part, other) if part.rows > other.rows else (other, part)
            kept[begun] = longer
            problems.append(
                Problem(name, f"left out: {str(shorter.path)!r} is a copy of {str(longer.path)!r}")
            )
    return list(kept.values())


def _unfinished(file: OfflineFile) -> str:
    kind, byte, reason = file.ending
    how = f"is {'torn' if kind == 'torn' else 'damaged'} at byte {byte} ({reason})"
    if kind == "complete":
        how = "tells of no end of the run (it is still running, or was killed)"
    return f"{str(file.path)!r} {how}: {counted(file.rows, 'row')} could be read"


def _join(parts: Sequence[OfflineFile]) -> OfflineRun:
    config: dict[str, object] = {}
    summary: dict[str, object] = {}
    columns: dict[str, list[Column]] = {}
    start = 0
    for part in parts:
        config |= part.config
        summary |= part.summary
        for name, column in part.columns.items():
            columns.setdefault(name, []).append(Column(column.row + start, column.value))
        start += part.rows
    # How an earlier part ended says nothing of a run that went on.
    if STATUS not in parts[-1].summary:
        summary.pop(STATUS, None)
    joined = {
        name: Column(*map(np.concatenate, zip(*pieces, strict=True))) for name, pieces in columns.items()
    }
    return OfflineRun(parts, config, summary, joined)


def _stored(name: str, run: OfflineRun) -> StoredRun:
    first, last = run.files[0], run.files[-1]
    metrics = {metric: _latest(run.columns, metric) for metric in run.columns if not metric.startswith("_")}
    end_ms = None
    if last.exit_code is not None:
        end_ms = max([last.start_ms or 0, *(point.timestamp_ms for point in metrics.values())])
    recorded = as_status(str(run.summary.get(STATUS)))
    ended = _ended(last.exit_code, metrics)
    failed = last.exit_code not in (None, 0)
    return StoredRun(name, recorded, ended, first.start_ms, end_ms, _params(run), metrics, failed)


def _ended(exit_code: int | None, metrics: Mapping[str, LatestPoint]) -> Status:
    """How a run ended, as far as the loss of training batches tells; see `StoredRun.failed` for any other."""
    if exit_code is None:
        return "running"
    newest = {name: point.value for name, point in metrics.items()}
    return script_status(exit_code, newest, loss="") if exit_code else "finished"


def _params(run: OfflineRun) -> dict[str, str]:
    values: dict[str, object] = {}
    if run.files[-1].sweep_id:
        values["sweep_id"] = run.files[-1].sweep_id
    values |= {key: run.summary[SUMMARY + key] for key in _FROM_SUMMARY if SUMMARY + key in run.summary}
    values |= {key: value for key, value in run.config.items() if key.split(".")[0] != _OWN}
    return {key: as_text(value) for key, value in values.items() if value is not None}


def _latest(columns: Mapping[str, Column], metric: str) -> LatestPoint:
    row, value = (part[-1:] for part in columns[metric])
    timestamp = _at(columns, TIMESTAMP, row)[0]
    timestamp_ms = int(timestamp * 1000) if math.isfinite(timestamp) else 0
    return LatestPoint(float(_at(columns, STEP, row)[0]), timestamp_ms, float(value[0]))


def _series(name: str, columns: Mapping[str, Column], metric: str, axis: str) -> Series:
    row, value = columns[metric]
    rows = np.array([len(row)], dtype=np.int64)
    return Series((name,), rows, _at(columns, axis, row), value, row)


def _at(columns: Mapping[str, Column], metric: str, row: np.ndarray) -> np.ndarray:
    """The values of a metric in some rows of the history, NaN where a row has none."""
    found = np.full(len(row), np.nan)
    if metric in columns:
        known = columns[metric]
        index = np.minimum(np.searchsorted(known.row, row), len(known.row) - 1)
        there = known.row[index] == row
        found[there] = known.value[index[there]]
    return found
