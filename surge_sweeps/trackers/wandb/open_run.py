"""One run through W&B's client: opened without taking over the process, closed so that nothing is lost in silence.

The client sends in the background and keeps every record in the run's folder. It goes on logging when the server
refuses the data for good, and `finish` then returns as if all were well: whether a run arrived is asked of the server.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tenacity

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.wandb import session
from surge_sweeps.trackers.wandb.client import WandbProject, read_again, wandb_errors

#: Seconds that the end of a run waits for the server; WANDB_FINISH_TIMEOUT overrides it.
FINISH_TIMEOUT_S = 300.0
#: Seconds that a server may take to show what it has accepted.
SHOW_TIMEOUT_S = 20.0

_ACTIVE = ("pending", "running", "preempting")
_PAGE = 100
_ID_LENGTH = 8


class RunLabels(NamedTuple):
    """How W&B's pages name and sort a run; a group and a name from the environment come before these."""

    name: str
    group: str | None
    job_type: str
    tags: Sequence[str]


def is_offline() -> bool:
    """Whether runs go to a folder instead of a server.

    Raises:
        TrackerError: W&B is switched off.
    """
    mode = str(session.settings().mode)
    if mode in ("offline", "dryrun"):
        return True
    if mode in ("online", "run"):
        return False
    raise TrackerError(
        f"W&B is set to {mode!r}, which records nothing that can be read back.",
        "Unset WANDB_MODE, or set it to online or offline.",
    )


def is_given_run() -> bool:
    """Whether this process was started to fill one certain run: by an agent, or with WANDB_RUN_ID."""
    settings = session.settings()
    return bool(settings.sweep_id or settings.run_id)


def new_run_id() -> str:
    """An id as W&B's client makes them.

    >>> len(new_run_id())
    8
    """
    letters = string.ascii_lowercase + string.digits
    return "".join(secrets.choice(letters) for _ in range(_ID_LENGTH))


def owned_run_id(owner: str, trial_id: str) -> str:
    """The id of the run that a task of an engine has for a trial, the same whenever the task is started again.

    >>> owned_run_id("20261122-181500-1a2b/7", "0123456789ab")
    '57e50f51d0eb8084'
    """
    return hashlib.sha256(f"{owner} {trial_id}".encode()).hexdigest()[:16]


@contextmanager
def process_left_alone() -> Iterator[None]:
    """Run W&B's client quietly, and put back what each of its runs wraps: the exit and the hook for exceptions.

    They would be wrapped once more with every run, until leaving the process exceeds Python's recursion limit.
    """
    hooks = sys.exit, sys.excepthook
    try:
        with session.quiet():
            yield
    finally:
        sys.exit, sys.excepthook = hooks


def open_run(
    project: WandbProject,
    labels: RunLabels,
    config: Mapping[str, Scalar],
    *,
    run_id: str | None,
    resume: bool = False,
) -> Any:
    """Open a run of W&B's client.

    Args:
        project: where; of no meaning under an agent, which has its own. labels, config: what is known of the run.
        run_id: id of a new run; None opens the run that this process was given, whether it is new or not.
        resume: the run of that id may be there, and is then gone on with.

    Raises:
        TrackerError: no key, or the server is away or refuses.
    """
    wandb = require("wandb", "wandb")
    given = session.settings()
    by_agent = run_id is None and bool(given.sweep_id)
    with wandb_errors("written"):
        try:
            return wandb.init(
                entity=None if by_agent else project.entity or None,
                project=None if by_agent else project.project,
                id=run_id,
                resume="allow" if resume or run_id is None else None,
                reinit="create_new",
                name=None if given.run_name else labels.name,
                group=None if given.run_group else labels.group,
                job_type=labels.job_type,
                tags=list(labels.tags),
                config=dict(config),
                settings=_settings(wandb),
            )
        except ValueError as error:
            raise TrackerError(
                f"W&B refuses the run: {' '.join(str(error).split())}.", "Mend what it names."
            ) from error


def close_run(run: Any, exit_code: int) -> None:
    """Send what is left, then end the run.

    Raises:
        TrackerError: the server did not take it in time; the message says where it is kept.
    """
    with wandb_errors("written"):
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError as error:
            raise not_taken([run_folder(run)]) from error


def check_config(run: Any, values: Mapping[str, Scalar]) -> None:
    """See that a run that was begun elsewhere has no other values than these; else it is closed.

    Raises:
        TrackerError: it has.
    """
    differing = [name for name, value in values.items() if run.config.get(name, value) != value]
    if differing:
        name = differing[0]
        close_run(run, 1)
        raise TrackerError(
            f"the W&B run {run.id!r} has {name}={run.config[name]!r}, and this trial has {values[name]!r}.",
            "Let the sweep alone set it; a WANDB_RUN_ID goes with one trial.",
        )


def run_folder(run: Any) -> Path:
    """The folder in which the client keeps every record of a run."""
    return Path(run.dir).parent


def not_taken(folders: Sequence[Path]) -> TrackerError:
    """The error of runs that are whole on disk only."""
    shown = " ".join(str(folder) for folder in folders)
    count = "a run" if len(folders) == 1 else f"{len(folders)} runs"
    return TrackerError(
        f"the W&B server did not take all of {count}.",
        f"All of it is kept; once the server can be reached, call `wandb sync --include-online {shown}`.",
    )


def confirm(api: Any, path: str, runs: Mapping[str, Path]) -> None:
    """See that the server holds the end of some runs; it may take some seconds to show it.

    Args:
        api: W&B's public API. path: entity/project of the runs. runs: their ids -> their folders.

    Raises:
        TrackerError: a run that did not end there.
    """
    waiting = set(runs)

    def missing() -> set[str]:
        ids = sorted(waiting)
        for start in range(0, len(ids), _PAGE):
            states = _states(api, path, ids[start : start + _PAGE])
            waiting.difference_update(run for run, state in states if state not in _ACTIVE)
        return waiting

    retry = tenacity.Retrying(
        retry=tenacity.retry_if_result(bool),
        wait=tenacity.wait_exponential(0.1, max=5),
        stop=tenacity.stop_after_delay(SHOW_TIMEOUT_S),
    )
    try:
        retry(missing)
    except tenacity.RetryError as error:
        raise not_taken([runs[run] for run in sorted(waiting)]) from error


def _states(api: Any, path: str, ids: Sequence[str]) -> list[tuple[str, str]]:
    def read() -> list[tuple[str, str]]:
        api.flush()
        found = api.runs(path, filters={"name": {"$in": list(ids)}}, per_page=_PAGE)
        return [(run.id, run.state) for run in found]

    return read_again("read", read)


def _settings(wandb: Any) -> Any:
    """Settings that keep the client to the record: no capture of the terminal, no system metrics, no files of code."""
    wanted = dict(session.RECORD_ONLY)
    if "WANDB_FINISH_TIMEOUT" not in os.environ:
        wanted["finish_timeout"] = FINISH_TIMEOUT_S
    # Older clients wait at the end for as long as it takes.
    return wandb.Settings(**{k: v for k, v in wanted.items() if k in wandb.Settings.model_fields})
