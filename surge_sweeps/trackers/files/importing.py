"""Bringing the results of a folder of runs into a tracker: once each, however often it is asked for.

A trial that the tracker has a result of is left alone, so that an import that was cut off goes on where it was, and one
of a folder in which runs still go on brings the rest later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from surge_sweeps.counting import counted
from surge_sweeps.curves import Problem, Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.trackers.base import RunRecord, Tracker
from surge_sweeps.trackers.files.layout import RunsFolder
from surge_sweeps.trackers.files.reader import ListedRun, list_folder
from surge_sweeps.trackers.files.run_file import DamagedRunError, Points, read_whole
from surge_sweeps.trackers.rewinds import left_behind_by_time

#: Runs of no sweep go into one of this id and name.
_NO_SWEEP = "imported"
#: Runs, and about how many points, that are handed over at a time: what a kill can lose, and what is held in memory.
_CHUNK_RUNS = 64
_CHUNK_POINTS = 500_000


@dataclass
class ImportResult:
    """What became of a folder's runs.

    Attributes:
        imported: by status. there: trials that the tracker had already. repeated: more results of a trial that has one.
        left: runs without a result, by why: `running`, `preempted`, `crashed`. problems: files that cannot be read.
    """

    imported: Counter[Status] = field(default_factory=Counter)
    there: int = 0
    repeated: int = 0
    left: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def describe(self) -> str:
        """In one line.

        >>> ImportResult(Counter(finished=2, diverged=1), there=4, left=Counter(running=1)).describe()
        'imported 3 runs (1 diverged, 2 finished); 4 were there already; 1 without a result left out (1 running)'
        """
        count = sum(self.imported.values())
        parts = [f"imported {count} run{'' if count == 1 else 's'}{_listed(self.imported)}"]
        if self.there:
            parts.append(f"{self.there} {'was' if self.there == 1 else 'were'} there already")
        if self.repeated:
            parts.append(f"{self.repeated} left out, of trials that ended before")
        if self.left:
            parts.append(f"{sum(self.left.values())} without a result left out{_listed(self.left)}")
        if self.problems:
            parts.append(f"{len(self.problems)} could not be read")
        return "; ".join(parts)


class SweepDefinition(NamedTuple):
    """What a folder tells of a sweep."""

    name: str
    definition: Mapping[str, object]


def import_runs(
    folder: Path, target: Tracker, result: ImportResult, progress: ProgressCallback = no_progress
) -> None:
    """Write every result of a folder that the target lacks.

    Args:
        folder: a folder of runs. target: where to; it is left open. result: is told what became of the runs, also where
            this is cut off. progress: told of the runs written so far.

    Raises:
        TrackerError: this is no folder of runs; the target cannot be written: what was written stays there.
    """
    listed, problems = list_folder(folder)
    result.problems += problems
    ended = sorted(
        (one for one in listed if one.file.status is not None),
        key=lambda one: (one.run.end_ms or 0, one.run.run_id),
    )
    result.left.update(_why_left(one) for one in listed if one.file.status is None)
    first = {one.run.trial_id: one for one in reversed(ended)}
    result.repeated = len(ended) - len(first)
    done = target.done_trials()
    result.there = sum(trial in done for trial in first)
    pending: dict[str, list[ListedRun]] = {}
    for one in ended:
        # Of a sweep with nothing left to write, what an import that was killed had begun is ended.
        runs = pending.setdefault(one.run.sweep_id or _NO_SWEEP, [])
        if first[one.run.trial_id] is one and one.run.trial_id not in done:
            runs.append(one)
    total = sum(map(len, pending.values()))
    for sweep_id, runs in pending.items():
        sweep = read_sweep(RunsFolder(folder), sweep_id, result.problems)
        target.open_sweep(sweep_id, sweep.name, sweep.definition)
        # Who is at work on other runs there is not known here.
        target.close_stale(sweep_id, only_whole=True)
        for records in _chunks(runs, result.problems):
            progress(sum(result.imported.values()), total, sweep.name)
            target.write_runs(sweep_id, records)
            result.imported.update(record.status for record in records)
    progress(total, total, counted(total, "run"))


def read_sweep(folder: RunsFolder, sweep_id: str, problems: list[Problem]) -> SweepDefinition:
    """A sweep's name and definition; its id and nothing where they cannot be read, which is added to the problems."""
    path = folder.sweep_file(sweep_id)
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return SweepDefinition(str(content["name"]), dict(content["definition"]))
    except FileNotFoundError:
        return SweepDefinition(f"{_NO_SWEEP} runs" if sweep_id == _NO_SWEEP else sweep_id, {})
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        problems.append(Problem(None, f"{str(path)!r} tells of no sweep: {why}; its runs are kept"))
        return SweepDefinition(sweep_id, {})


def _chunks(runs: Sequence[ListedRun], problems: list[Problem]) -> Iterator[list[RunRecord]]:
    chunk: list[RunRecord] = []
    points = 0
    for one in runs:
        try:
            record = _record(one)
        except DamagedRunError as error:
            problems.append(Problem(one.run.run_id, f"left out: {error.what}"))
            continue
        except FileNotFoundError as error:
            raise TrackerError(f"{str(one.file.path)!r} was removed meanwhile.", "Import again.") from error
        chunk.append(record)
        points += sum(len(series) for series in record.metrics.values())
        if len(chunk) == _CHUNK_RUNS or points >= _CHUNK_POINTS:
            yield chunk
            chunk, points = [], 0
    if chunk:
        yield chunk


def _record(one: ListedRun) -> RunRecord:
    whole = read_whole(one.file.path)
    run = whole.run
    if run.status is None:
        raise DamagedRunError(f"{str(one.file.path)!r} is named as a result and holds none.")
    metrics = {name: _rising(points) for name, points in whole.points.items()}
    return RunRecord(run.config, run.trial_id, run.status, metrics, run.summary)


def _rising(points: Points) -> list[tuple[int, float]]:
    """A metric's points by rising steps: of a step the newest, and none that a resumed program left behind."""
    step, value, time_ms = points
    if len(step) > 1 and not (np.diff(step) > 0).all():
        order = np.lexsort((step, time_ms))
        kept = order[~left_behind_by_time(step[order].astype(np.float64)).abandoned]
        # The last of each step: `unique` gives the first, so the order is turned.
        steps, newest = np.unique(step[kept][::-1], return_index=True)
        return list(zip(steps.tolist(), value[kept][::-1][newest].tolist(), strict=True))
    return list(zip(step.tolist(), value.tolist(), strict=True))


def _why_left(one: ListedRun) -> str:
    return "crashed" if one.run.state == "ended" else one.run.state


def _listed(counts: Mapping[Any, int]) -> str:
    parts = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return f" ({parts})" if parts else ""
