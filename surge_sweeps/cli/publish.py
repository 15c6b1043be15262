"""`surge-report --publish`: the result written back to W&B or MLflow, where the runs are or where the user says."""

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
from surge_sweeps.trackers.publication import Publication, RunNames


@dataclass(frozen=True)
class PublishOptions:
    """Where a result is published.

    Attributes:
        to: a W&B project, as `entity/project`; None: where the runs are read from.
        page: also write a W&B report.
    """

    to: str | None = None
    page: bool = False


@dataclass(frozen=True)
class WandbTarget:
    """A W&B project to publish in, and whether the runs lie there too."""

    project: str
    page: bool
    holds_runs: bool


@dataclass(frozen=True)
class MlflowTarget:
    """The MLflow experiment that holds the runs, to publish in; `uri` as the user gave it."""

    experiment: str
    uri: str | None


PublishTarget = WandbTarget | MlflowTarget


def publish_target(
    options: PublishOptions, project: str, place: Place, uri: str | None = None
) -> PublishTarget:
    """Where to publish; asked before anything is read, so that a slip costs no time.

    Args:
        options: what the user asked for. project, place, uri: where the runs are.

    Raises:
        SurgeError: the runs are in a table or a folder and no W&B project is named, or the name is none; a W&B report
            is asked for and nothing goes to W&B; the place cannot be published in.
        MissingExtraError: what publishing there needs is not installed.
    """
    if options.to is None and place.kind == "mlflow":
        if options.page:
            raise SurgeError(
                f"--wandb-page writes a W&B report, and the result of {project!r} goes to MLflow.",
                "Leave it away, or name a W&B project: --publish-to entity/project.",
            )
        from surge_sweeps.trackers.mlflow.publish import check_publishing

        check_publishing(project, uri)
        return MlflowTarget(project, uri)
    if place.kind == "mlflow" and options.to is not None and "/" not in options.to:
        raise SurgeError(
            f"--publish-to names a W&B project, entity/project, and {options.to!r} has no entity.",
            f"To publish in the MLflow experiment {project!r} leave it away: --publish alone does that.",
        )
    target = options.to if options.to is not None else project
    if options.to is None and place.kind != "wandb":
        raise SurgeError(
            f"results are published on a tracker, and {project!r} is read from files.",
            "Name a W&B project: --publish-to entity/project.",
        )
    require("wandb", "wandb")
    from surge_sweeps.trackers.wandb.client import connect, parse_project

    parse_project(target)
    connect()
    return WandbTarget(target, options.page, place.kind == "wandb" and target == project)


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
    """Publish, and say where; `cells` and `paths` as of `write_report`.

    Raises:
        SurgeError: there is no result, or it cannot be published.
    """
    if not fit.groups:
        raise SurgeError(
            "nothing was published: the runs gave no result.",
            "The report lists the problems found. What was published before, if anything, stays as it is.",
        )
    if isinstance(target, MlflowTarget):
        say(f"Publishing in {target.experiment} ...", quiet=quiet)
        made = publication_of(fit, cells, paths, runs=_run_names(curves, fit), draw=True)
        _publish_in_mlflow(target, made, quiet=quiet)
        return
    scope = curves.project
    if target.holds_runs:
        scope = json.dumps(dict(read.filters), sort_keys=True) if read.filters else ""
    names = _run_names(curves, fit) if target.holds_runs else None
    say(f"Publishing in {target.project} ...", quiet=quiet)
    _publish_in_wandb(target, publication_of(fit, cells, paths, scope=scope, runs=names))


def _publish_in_wandb(target: WandbTarget, publication: Publication) -> None:
    from surge_sweeps.trackers.wandb.client import parse_project
    from surge_sweeps.trackers.wandb.publish import publish

    done = publish(parse_project(target.project), publication, with_page=target.page)
    _tell(_state(done.changed), done.url)
    if done.page_url is not None:
        _tell("W&B report" if done.page_changed else "W&B report, unchanged", done.page_url)


def _publish_in_mlflow(target: MlflowTarget, publication: Publication, *, quiet: bool) -> None:
    from surge_sweeps.trackers.mlflow.publish import publish
    from surge_sweeps.trackers.mlflow.uri import display_uri, resolve_uri

    done = publish(target.experiment, publication, target.uri)
    store = display_uri(resolve_uri(target.uri))
    is_server = store.startswith(("http://", "https://"))
    if is_server:
        front = f"{store.rstrip('/')}/"
    else:
        front = ""
        say(
            f"The pages below open in MLflow's UI, behind the address that `surge-sweep ui` prints for {store}.",
            quiet=quiet,
        )
    # Of the run's own page MLflow fills the first screen with tags; the report begins with the answer.
    _tell(_state(done.changed), f"{front}{done.report}")
    if not quiet:
        _tell("  run", f"{front}{done.run}")
        for name, fragment in done.views:
            _tell(f"  {name}", f"{front}{fragment}")
    if done.no_views:
        say(f"  {done.no_views}")
    if done.folder:
        say(
            f"  The report and the pictures lie in {done.folder!r} on this machine: MLflow's pages show them only where"
            " that folder can be reached. For colleagues, launch through a server with --artifacts-destination."
        )
    if done.left:
        say(f"  Files of an earlier publication that could not be removed: {', '.join(done.left)}.")


def _state(changed: bool) -> str:
    return "Published" if changed else "Published before, nothing has changed"


def _tell(what: str, address: str) -> None:
    out.print(f"{what}: {address}", markup=False, highlight=False, soft_wrap=True)


def _run_names(curves: LossCurves, fit: SurgeFit) -> RunNames:
    """The keys that charts can plot: a batch size that is a product of several is none."""

    def plottable(part: str) -> str | None:
        name = curves.read_as.get(part)
        return None if name is None or "*" in name else name

    seed = curves.read_as.get("seed")
    return RunNames(
        curves.loss_name,
        curves.read_as.get("learning rate"),
        plottable("batch size"),
        plottable("examples"),
        None if seed == "not recorded" else seed,
        tuple(sorted({name for group in fit.groups for name in group.group})),
    )
