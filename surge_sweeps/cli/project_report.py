"""The work of `surge-report`: collect, fit, schedule, write the report, and publish it where that is asked for."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pandas as pd

from surge_sweeps.cli.cache_notes import cache_notes
from surge_sweeps.cli.console import out, progress_bar, say
from surge_sweeps.cli.publish import PublishOptions, publish_result, publish_target
from surge_sweeps.cli.summary import print_summary
from surge_sweeps.counting import counted
from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting import SurgeFit, fit, measured_cells
from surge_sweeps.report import safe_name, write_report
from surge_sweeps.schedule import EXAMPLE_OVERHEAD, attach_schedules, check_schedule_options
from surge_sweeps.trackers import TRACKERS, Place, locate, read_project, short_name
from surge_sweeps.trackers.base import ReadOptions

_PLACES = {
    "table": "the table",
    "offline": "offline runs of W&B in",
    "files": "run files in",
    "wandb": "W&B project",
    "mlflow": "MLflow experiment",
}


class _Targets(TypedDict):
    """The options that `fit` and `measured_cells` share."""

    protocol: str | None
    target_losses: tuple[float, ...] | None
    horizon_steps: int | None


@dataclass(frozen=True)
class FitOptions:
    """What is asked of the runs: the options of `fit` and of the schedule, under their names there."""

    protocol: str | None = None
    target_losses: tuple[float, ...] | None = None
    horizon_steps: int | None = None
    n_draws: int = 2000
    seed: int = 0
    budget_examples: float | None = None
    example_overhead: float = EXAMPLE_OVERHEAD


def write_project_report(
    project: str,
    read: ReadOptions | None = None,
    asked: FitOptions | None = None,
    *,
    output: Path | None = None,
    tracker: str | None = None,
    uri: str | None = None,
    publish: PublishOptions | None = None,
    quiet: bool = False,
) -> Path:
    """Do the work of `surge-report` and return the page's path.

    Args:
        project: a project, an experiment or a path. read: how to read it; default with the cache. asked: what to fit.
        output: the folder; default reports/PROJECT. tracker, uri: where the project is.
        publish: where to write the result back to; None: nowhere.
    """
    asked = asked or FitOptions()
    read = read or ReadOptions(cache_dir=cache_folder())
    check_schedule_options(asked.budget_examples, asked.example_overhead)
    place = locate(project, tracker, uri)
    folder = output if output is not None else Path("reports") / _folder_name(project, place, read)
    if folder.exists() and not folder.is_dir():
        raise SurgeError(f"{folder} is a file.", "Name a folder with --output.")
    target = None if publish is None else publish_target(publish, project, place, uri)
    curves = _collect(project, place, read, uri, quiet=quiet)
    result, cells = _fit(curves, asked, quiet=quiet)
    paths = write_report(result, cells, folder, curves.read_as)
    if not quiet:
        print_summary(result, out)
    page = next(path for path in paths if path.suffix == ".html")
    out.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)
    if target is not None:
        publish_result(target, result, cells, paths, curves, read, quiet=quiet)
    return page


def _folder_name(project: str, place: Place, read: ReadOptions) -> str:
    """A part of a project's runs has a report of its own, so that it never takes the place of the whole one's."""
    name = safe_name(short_name(project, place.kind))
    if not read.filters:
        return name
    mark = hashlib.sha256(json.dumps(dict(read.filters), sort_keys=True).encode()).hexdigest()[:6]
    return f"{name}-filtered-{mark}"


def cache_folder() -> Path:
    """Where the cache of what was read lies."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "surge-sweeps"


def _collect(project: str, place: Place, read: ReadOptions, uri: str | None, *, quiet: bool) -> LossCurves:
    """Read the project, saying where it is read from, and under which names."""
    part = f", filters {json.dumps(dict(read.filters))}" if read.filters else ""
    say(f"Collecting {_PLACES[place.kind]} {project}{part} ...", quiet=quiet)
    tracker = place.kind if place.kind in TRACKERS and uri is None else None
    with cache_notes(), progress_bar("collecting", quiet=quiet) as progress:
        curves = read_project(project, read, tracker=tracker, uri=uri, progress=progress)
    if read.filters and curves.runs.empty:
        raise SurgeError(
            f"no run of {project!r} that can be used matches {json.dumps(dict(read.filters))}.",
            "Mend --filters, or leave it away: without it the report lists what is there.",
        )
    if curves.runs.empty and not curves.problems:
        raise _no_runs(project, place)
    say(f"  {_size(curves)}", quiet=quiet)
    for part, name in curves.read_as.items():
        say(f"  {part}: {name}", quiet=quiet)
    if curves.route:
        say(f"  read by: {curves.route}", quiet=quiet)
    return curves


def _no_runs(project: str, place: Place) -> SurgeError:
    """The error for a place that is there and holds no runs."""
    where = f"{_PLACES[place.kind]} {project!r}"
    command = ["surge-sweep", "launch", "FILE", "--project", project]
    command += ["--tracker", place.kind] if place.kind in ("wandb", "files") else []
    return SurgeError(
        f"there are no runs in {where}.",
        f"Launch a sweep into it: {shlex.join(command)}, or name another project."
        if place.kind in TRACKERS
        else "Name a table or a folder with runs.",
    )


def _fit(curves: LossCurves, asked: FitOptions, *, quiet: bool) -> tuple[SurgeFit, pd.DataFrame]:
    targets: _Targets = {
        "protocol": asked.protocol,
        "target_losses": asked.target_losses,
        "horizon_steps": asked.horizon_steps,
    }
    with progress_bar("fitting", quiet=quiet):
        result = attach_schedules(
            fit(curves, **targets, n_draws=asked.n_draws, seed=asked.seed),
            budget_examples=asked.budget_examples,
            example_overhead=asked.example_overhead,
        )
        return result, measured_cells(curves, **targets)


def _size(curves: LossCurves) -> str:
    runs = counted(len(curves.runs), "run")
    if curves.observable == "loss_curve":
        return f"{runs}, {len(curves.points):,} points of {curves.loss_name}"
    return f"{runs} with one value of {curves.loss_name} each"
