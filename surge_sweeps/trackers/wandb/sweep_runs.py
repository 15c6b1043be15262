"""The runs of registered sweeps, as lightly as a listing can show them: states, metrics, and what was handed out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from surge_sweeps.trackers.wandb.client import WandbProject, read_again
from surge_sweeps.trackers.wandb.sweeps import RegisteredSweep

#: A run in one of these states has not ended, or will be started again by the server.
ACTIVE = ("pending", "running", "preempting")
REQUEUED = ("preempted",)

_PAGE = 500


class RunState(NamedTuple):
    """A run of a sweep as a listing shows it.

    Attributes:
        run: W&B's id. sweep: W&B's id of its sweep. state: W&B's word (`running`, `finished`, `failed`, `crashed`,
            `killed`, `preempted`, ...).
    """

    run: str
    sweep: str
    state: str


def run_states(api: Any, project: WandbProject, sweeps: Iterable[str]) -> list[RunState]:
    """The runs of some sweeps (W&B's ids), oldest first; light: neither configurations nor metrics are fetched.

    Raises:
        TrackerError: the server is away or refuses.
    """
    return [
        RunState(str(run.id), str(run.sweep_name), str(run.state)) for run in _runs(api, project, _of(sweeps))
    ]


def logged_metrics(api: Any, project: WandbProject, sweeps: Iterable[str]) -> dict[str, frozenset[str]]:
    """W&B's run id -> names of the metrics it has logged so far, for every run of some sweeps.

    Raises:
        TrackerError: the server is away or refuses.
    """
    found = {}
    for run in _runs(api, project, _of(sweeps), lazy=False):
        # A metric may be kept out of the summary, and a summary may be ahead of the history's keys.
        names = {*run.summary_metrics, *((getattr(run, "history_keys", None) or {}).get("keys") or {})}
        found[str(run.id)] = frozenset(name for name in map(str, names) if not name.startswith("_"))
    return found


def handed_out(
    api: Any, project: WandbProject, sweeps: Iterable[RegisteredSweep]
) -> dict[str, frozenset[str]]:
    """W&B's id of each sweep -> ids of the trials that have a run in it and will not be handed out again.

    Preempted runs do not count: the server gives those to the next agent.

    Raises:
        TrackerError: the server is away or refuses.
    """
    wanted = {sweep.id: sweep for sweep in sweeps}
    found: dict[str, set[str]] = {sweep: set() for sweep in wanted}
    for run in _runs(api, project, _of(wanted), lazy=False):
        trial = wanted[str(run.sweep_name)].trial_of(run.config)
        if trial is not None and str(run.state) not in REQUEUED:
            found[str(run.sweep_name)].add(trial)
    return {sweep: frozenset(trials) for sweep, trials in found.items()}


def _of(sweeps: Iterable[str]) -> dict[str, object]:
    # An empty "or" would match every run.
    return {"$or": [{"sweep": sweep} for sweep in sweeps] or [{"sweep": ""}]}


def _runs(api: Any, project: WandbProject, filters: Mapping[str, object], *, lazy: bool = True) -> list[Any]:
    """The runs that pass; none where there is no such project."""

    def listed() -> list[Any]:
        # The API object answers the same question from memory otherwise.
        api.flush()
        return list(
            api.runs(project.path, filters=dict(filters), order="+created_at", per_page=_PAGE, lazy=lazy)
        )

    try:
        return read_again("read", listed)
    except ValueError:
        return []
