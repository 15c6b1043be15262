"""`surge-report --publish`: the result written back to W&B, where the runs are or where the user says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from surge_sweeps.cli.console import out, say
from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.fitting import SurgeFit
from surge_sweeps.report.publication import publication_of
from surge_sweeps.trackers import Place
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.publication import RunNames


@dataclass(frozen=True)
class PublishOptions:
    """Where a result is published.

    Attributes:
        to: a W&B project, as `entity/project`; None: the one that the runs are read from.
        page: also write a W&B report.
    """

    to: str | None = None
    page: bool = False


@dataclass(frozen=True)
class PublishTarget:
    """A W&B project to publish in, and whether the runs lie there too."""

    project: str
    page: bool
    holds_runs: bool


def publish_target(options: PublishOptions, project: str, place: Place) -> PublishTarget:
    """Where to publish; asked before anything is read, so that a slip costs no time.

    Raises:
        SurgeError: the runs are not on W&B and no project is named, or the name is none.
        MissingExtraError: wandb is not installed.
    """
    target = options.to if options.to is not None else project
    if options.to is None and place.kind != "wandb":
        raise SurgeError(
            f"results are published on W&B, and {project!r} is read from elsewhere.",
            "Name the W&B project: --publish-to entity/project.",
        )
    require("wandb", "wandb")
    from surge_sweeps.trackers.wandb.client import connect, parse_project

    parse_project(target)
    connect()
    return PublishTarget(target, options.page, place.kind == "wandb" and target == project)


def publish_result(
    target: PublishTarget,
    fit: SurgeFit,
    cells: pd.DataFrame,
    paths: Sequence[Path],
    curves: LossCurves,
    read: ReadOptions,
    *,
    quiet: bool,
) -> None:
    """Publish, and say where; `cells` and `paths` as of `write_report`."""
    from surge_sweeps.trackers.wandb.client import parse_project
    from surge_sweeps.trackers.wandb.publish import publish

    scope = curves.project
    if target.holds_runs:
        scope = json.dumps(dict(read.filters), sort_keys=True) if read.filters else ""
    names = _run_names(curves) if target.holds_runs else None
    publication = publication_of(fit, cells, paths, scope=scope, runs=names)
    say(f"Publishing in {target.project} ...", quiet=quiet)
    done = publish(parse_project(target.project), publication, with_page=target.page)
    state = "Published" if done.changed else "Published before, nothing has changed"
    out.print(f"{state}: {done.url}", markup=False, highlight=False, soft_wrap=True)
    if done.page_url is not None:
        state = "W&B report" if done.page_changed else "W&B report, unchanged"
        out.print(f"{state}: {done.page_url}", markup=False, highlight=False, soft_wrap=True)


def _run_names(curves: LossCurves) -> RunNames:
    """The keys that live panels can plot: a batch size that is a product of several is none."""
    lr, batch_size = curves.read_as.get("learning rate"), curves.read_as.get("batch size")
    examples = curves.read_as.get("examples")
    return RunNames(
        curves.loss_name,
        lr,
        None if batch_size is None or "*" in batch_size else batch_size,
        None if examples is None or "*" in examples else examples,
    )
