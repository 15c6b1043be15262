"""Reading a W&B project into `LossCurves`: one listing, then the histories of the runs that are new or have changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

from surge_sweeps.curves import LossCurves, Problem
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.extras import require
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.trackers.assemble import Origin, assemble
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.wandb.client import (
    WandbProject,
    connect,
    parse_project,
    read_again,
    server_address,
    with_entity,
)
from surge_sweeps.trackers.wandb.history import RunHistories
from surge_sweeps.trackers.wandb.runs import Listing, list_runs

_LISTED_PROJECTS = 20


class WandbReader:
    """The configured W&B server, open for reading; implements `Reader`.

    Args:
        progress: told of the runs read so far, metric by metric.
    """

    def __init__(self, progress: ProgressCallback = no_progress) -> None:
        self._progress = progress

    def collect(self, project: str, options: ReadOptions) -> LossCurves:
        """Read a project or one sweep of it, written by this tool or by any program that logs to W&B.

        Configuration becomes typed columns. Runs that cannot be used are named in `problems`; reports of this tool are
        no runs. A project without runs gives an empty table and a problem that says so.

        Args:
            project: `entity/project`, `entity/project/SWEEP_ID`, the address of either, or a project of the user's
                default entity. options: what to read.

        Raises:
            TrackerError: no key or a wrong one, the server is away or refuses, or the sweep does not exist.
            UnknownNameError: no such project, or a parameter or metric name that no run has.
        """
        asked = parse_project(project)
        api = connect()
        wanted = with_entity(api, asked)
        self._progress(0, 1, "listing runs")
        try:
            listing = list_runs(api, wanted, options.filters)
        except ValueError:
            raise _unknown_project(api, wanted) from None
        if not listing.stored:
            _check_sweep(api, wanted)
            listing.problems.append(Problem(None, _no_runs(wanted, options.filters)))
        listing.problems += listing.sweeps.early_stopping()
        return self._assemble(listing, _origin(api, project, wanted, options.filters), options)

    def _assemble(self, listing: Listing, origin: Origin, options: ReadOptions) -> LossCurves:
        with RunHistories(listing.runs, self._progress) as histories:
            curves = assemble(listing.stored, histories, origin, options)
            return replace(curves, problems=(*listing.problems, *histories.problems, *curves.problems))


def _origin(api: Any, text: str, wanted: WandbProject, filters: Mapping[str, object] | None) -> Origin:
    server = server_address(api)
    # What is selected is part of the identity: a cache holds the runs of its last read.
    selected = json.dumps(filters, sort_keys=True, default=str) if filters else ""
    identity = ("wandb", server, wanted.path, wanted.sweep or "", selected)
    shown = "/".join(filter(None, (wanted.path, wanted.sweep)))
    return Origin(text, f"wandb {server} {shown}", identity)


def _no_runs(wanted: WandbProject, filters: Mapping[str, object] | None) -> str:
    what = f"the sweep {wanted.sweep}" if wanted.sweep else f"the W&B project {wanted.path!r}"
    if filters:
        return f"no run of {what} passes the filters: see that they use W&B's names, as in config.lr"
    return f"{what} has no runs yet: start agents on it, or name another"


def _unknown_project(api: Any, wanted: WandbProject) -> SurgeError:
    """The error for a project that is not there; names the nearest of those that are."""
    try:
        listed = read_again("read", lambda: [str(found.name) for found in api.projects(wanted.entity)])
    except (TrackerError, ValueError):
        listed = []
    if not listed:
        return TrackerError(
            f"W&B has no project {wanted.path!r} that your key may read, and shows none of {wanted.entity!r}.",
            "Check the entity's name, and that you are logged in to the right server (WANDB_BASE_URL).",
        )
    nearest = sorted(listed, key=lambda name: -SequenceMatcher(None, wanted.project, name).ratio())
    return UnknownNameError("W&B project", wanted.project, nearest[:_LISTED_PROJECTS])


def _check_sweep(api: Any, wanted: WandbProject) -> None:
    """Refuse a sweep that is not there, or was deleted; raises `TrackerError`."""
    if wanted.sweep is None:
        return
    path = f"{wanted.path}/{wanted.sweep}"
    if not read_again("read", lambda: _has_sweep(api, path)):
        raise TrackerError(
            f"the W&B project {wanted.path!r} has no sweep {wanted.sweep!r}: it was deleted, or never was.",
            "Name one of the sweeps on the project's page, or the project alone to read all its runs.",
        )


def _has_sweep(api: Any, path: str) -> bool:
    wandb = require("wandb", "wandb")
    try:
        api.sweep(path)
    except wandb.errors.CommError as error:
        if isinstance(error.exc, ValueError):
            return False
        raise
    return True
