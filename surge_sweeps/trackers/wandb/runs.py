"""The runs of a W&B project, whole, in one listing: no request for a single run.

A page of the listing holds the configuration, the summary and the history's keys of 500 runs, so that statuses, newest
values and numbers of points cost nothing more. What is heavy is let go page by page.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from sys import intern
from typing import Any

from surge_sweeps.counting import counted
from surge_sweeps.curves import Problem
from surge_sweeps.trackers.stored_runs import LatestPoint, StoredRun
from surge_sweeps.trackers.wandb.client import WandbProject, read_again
from surge_sweeps.trackers.wandb.endings import FAILED, GOING_ON, ended_status, recorded_status
from surge_sweeps.trackers.wandb.offline.run import as_text, flatten, number
from surge_sweeps.trackers.wandb.record import JOB_TYPE_REPORT, OWNER, STATUS, SUMMARY, WHOLE
from surge_sweeps.trackers.wandb.sweep_trials import SweepTrials

#: Runs a request; a server that does not manage so many in time is asked for fewer.
PER_PAGE = 500
_SMALLEST_PAGE = 20

#: A clock that differs by more is named.
_SKEW_S = 300.0
#: Configuration that W&B itself writes.
_INTERNAL = ("_wandb", "wandb_version")
#: Columns of the run table that stand in the summary.
_FROM_SUMMARY = ("start_checkpoint", "start_loss")
#: The summary of a metric with a `define_metric(summary=...)` is a mapping; only this part of it is the newest value.
_LAST = "last"


@dataclass(frozen=True)
class ListedRun:
    """What reading a run's history takes.

    Attributes:
        handle: W&B's own run object, its heavy parts emptied. counts: metric -> rows that hold it. last_step: of the
            history, -1 if it is empty. active: the run goes on, so its history may.
    """

    handle: Any
    counts: Mapping[str, int]
    last_step: int
    active: bool


@dataclass
class Listing:
    """The runs of a project, oldest first.

    Attributes:
        stored: the runs. runs: their ids -> what reading them takes. problems: what was found on the way.
        sweeps: what is known of their sweeps.
    """

    stored: list[StoredRun] = field(default_factory=list)
    runs: dict[str, ListedRun] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    sweeps: SweepTrials = field(default_factory=SweepTrials)


def stored_runs(
    api: Any, project: WandbProject, filters: Mapping[str, object] | None = None
) -> list[StoredRun]:
    """`list_runs` without what reading histories takes."""
    return list_runs(api, project, filters).stored


def list_runs(api: Any, project: WandbProject, filters: Mapping[str, object] | None = None) -> Listing:
    """Every run of a project, or of one sweep of it, that is no report; in one request for each 500 runs.

    Args:
        api: see `connect`. project: its entity named. filters: in W&B's query language.

    Raises:
        TrackerError: the server is away or refuses.
        ValueError: there is no such project.
    """
    wanted: list[Mapping[str, object]] = [filters] if filters else []
    if project.sweep is not None:
        wanted.append({"sweep": project.sweep})
    query = {"$and": wanted} if len(wanted) > 1 else dict(wanted[0]) if wanted else {}
    now_s, newest_s = time.time(), -math.inf
    listing = Listing()
    folders: tuple[Path, ...] = ()
    for run in _each_run(api, project, query):
        heartbeat_s = _seconds(getattr(run, "heartbeat_at", None) or run.created_at)
        newest_s = max(newest_s, heartbeat_s)
        if run.job_type != JOB_TYPE_REPORT and run.id not in listing.runs:
            stored, listing.runs[str(run.id)] = _convert(run, heartbeat_s, listing.sweeps)
            listing.stored.append(stored)
        folders = Path(run.dir), *Path(run.dir).parents[:2]
        _remove_folders(folders[0])
    _remove_folders(*folders[1:])
    ahead_s = newest_s - now_s
    if ahead_s > _SKEW_S:
        minutes = counted(round(ahead_s / 60), "minute")
        what = f"the clock of the W&B server is {minutes} ahead of this machine's, which is allowed for"
        listing.problems.append(Problem(None, what))
        listing.stored = [_set_back(run, round(ahead_s * 1000)) for run in listing.stored]
    listing.problems += listing.sweeps.problems()
    return listing


def _set_back(run: StoredRun, ahead_ms: int) -> StoredRun:
    """A run that goes on, its times by the local clock: whether it is silent for too long is told by that."""
    if run.status != "running":
        return run
    metrics = {
        name: point._replace(timestamp_ms=point.timestamp_ms - ahead_ms)
        for name, point in run.metrics.items()
    }
    start_ms = None if run.start_ms is None else run.start_ms - ahead_ms
    return replace(run, start_ms=start_ms, metrics=metrics)


def _each_run(api: Any, project: WandbProject, query: Mapping[str, object]) -> Iterator[Any]:
    # The API object answers the same question from memory otherwise.
    api.flush()
    runs = api.runs(
        project.path,
        filters=dict(query),
        order="+created_at",
        per_page=PER_PAGE,
        include_sweeps=False,
        lazy=False,
    )

    def smaller_pages() -> None:
        runs.per_page = max(_SMALLEST_PAGE, runs.per_page // 4)

    for place in count():
        run = read_again("read", partial(_run_at, runs, place), smaller_pages)
        if run is None:
            return
        yield run
        # Ten thousand runs with their configurations do not fit into memory twice.
        runs.objects[place] = None


def _run_at(runs: Any, place: int) -> Any:
    """The run at a place of the listing, whose page is fetched when needed; None behind the last."""
    try:
        return runs[place]
    except IndexError:
        return None


def _convert(run: Any, heartbeat_s: float, sweeps: SweepTrials) -> tuple[StoredRun, ListedRun]:
    config, summary = run.config, run.summary_metrics
    keys: dict[str, Any] = getattr(run, "history_keys", None) or {}
    last_step = int(keys.get("lastStep", -1))
    counts = _counts(keys.get("keys") or {}, summary)
    newest = {name: _newest(summary, name) for name in counts}
    heartbeat_ms = int(heartbeat_s * 1000)
    metrics = {
        name: LatestPoint(last_step, heartbeat_ms, math.nan if value is None else value, value is not None)
        for name, value in newest.items()
    }
    active = run.state in GOING_ON
    is_whole = not active and summary.get(SUMMARY + WHOLE) is True
    stored = StoredRun(
        run=str(run.id),
        recorded=recorded_status(_text(summary.get(STATUS)), str(run.state)),
        ended=ended_status(str(run.state), newest),
        start_ms=None if is_whole else int(_seconds(run.created_at) * 1000),
        end_ms=None if active else heartbeat_ms,
        params=_params(run, config, summary, sweeps),
        metrics=metrics,
        failed=run.state == FAILED,
        owner=_text(summary.get(OWNER)) or "",
        is_whole=summary.get(SUMMARY + WHOLE) is True,
    )
    for part in (config, summary, run.rawconfig, run.system_metrics, keys):
        part.clear()
    return stored, ListedRun(run, counts, last_step, active)


def _counts(keys: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, int]:
    """Metric -> number of rows, for every key that holds numbers; W&B's own and media are left out."""
    found: dict[str, int] = {}
    for name, entry in keys.items():
        newest = summary.get(name)
        if name.startswith("_") or (isinstance(newest, Mapping) and "_type" in newest):
            continue
        types = {str(each.get("type")): int(each.get("count", 0)) for each in entry.get("typeCounts") or []}
        # NaN and infinities are kept as text.
        if "number" in types or ("string" in types and _newest(summary, name) is not None):
            found[intern(name)] = sum(types.values())
    return found


def _newest(summary: Mapping[str, Any], name: str) -> float | None:
    """The newest value of a metric, or None where the summary does not hold it (but its minimum, say)."""
    value: Any = summary
    if name in summary:
        value = summary[name]
    else:
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    return number(value.get(_LAST) if isinstance(value, Mapping) else value)


def _params(
    run: Any, config: Mapping[str, Any], summary: Mapping[str, Any], sweeps: SweepTrials
) -> dict[str, str]:
    values: dict[str, object] = {}
    sweeps.count(run)
    if run.sweep_name:
        values["sweep_id"] = run.sweep_name
    values |= {name: summary[SUMMARY + name] for name in _FROM_SUMMARY if SUMMARY + name in summary}
    for name, value in config.items():
        if name not in _INTERNAL:
            values |= flatten(name, value)
    # Most values are the same in every run, and a configuration may have hundreds.
    params = {intern(name): intern(as_text(value)) for name, value in values.items() if value is not None}
    if "trial_id" not in params and run.sweep_name:
        trial = sweeps.trial_of(run, params)
        params |= {"trial_id": trial} if trial is not None else {}
    return params


def _remove_folders(*folders: Path) -> None:
    """W&B's run object makes a folder entity/project/run for itself, which nothing here needs; never a filled one."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _seconds(text: str) -> float:
    """Seconds since 1970 of a time as W&B writes it: in UTC, with or without saying so.

    >>> _seconds("1970-01-01T00:01:00Z"), _seconds("1970-01-01T00:01:00.5")
    (60.0, 60.5)
    """
    time_there = datetime.fromisoformat(text)
    return (time_there if time_there.tzinfo else time_there.replace(tzinfo=UTC)).timestamp()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
