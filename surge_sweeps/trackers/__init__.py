"""Everything known about experiment trackers and tables of runs, behind one contract (`base`).

A tracker's own package is imported only when it is needed: a local MLflow store is read without mlflow installed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.trackers.base import Reader, ReadOptions, TableColumns, Tracker
from surge_sweeps.trackers.places import TRACKERS, Place, locate, short_name

__all__ = ["TRACKERS", "Place", "collect", "locate", "open_tracker", "read_project", "short_name"]


def open_tracker(name: str, project: str, uri: str | None = None) -> Tracker:
    """Open a project for writing; nothing is created before the first write.

    Args:
        name: one of `TRACKERS`. project: on MLflow the experiment's name, on W&B `entity/project`, for `files` a
            folder. uri: the MLflow store; default as configured in the environment (MLFLOW_TRACKING_URI), else
            `sqlite:///mlflow.db` in the working folder.

    Raises:
        UnknownNameError: no tracker of that name. SurgeError: a W&B project or a folder with a `uri`.

    >>> open_tracker("mlfow", "digits")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.UnknownNameError: unknown tracker 'mlfow'. Valid: files, mlflow, wandb. Did you mean 'mlflow'?
    """
    if name not in TRACKERS:
        raise UnknownNameError("tracker", name, TRACKERS)
    kind = locate(project, name, uri).kind
    if kind == "files":
        from surge_sweeps.trackers.files.writer import FilesTracker

        return FilesTracker(project)
    if kind == "wandb":
        from surge_sweeps.trackers.wandb.writer import WandbTracker

        return WandbTracker(project)
    from surge_sweeps.trackers.mlflow.writer import MlflowTracker

    return MlflowTracker(project, uri)


def collect(
    project: str | os.PathLike[str],
    *,
    tracker: str | None = None,
    uri: str | None = None,
    loss: str | None = None,
    lr: str | None = None,
    batch_size: str | None = None,
    seed: str | None = None,
    step: str | None = None,
    examples: str | None = None,
    filters: Mapping[str, object] | None = None,
    batch_unit: str = "examples",
    cache_dir: Path | None = None,
    group_by: Sequence[str] | None = None,
    run: str | None = None,
    steps_to_goal: str | None = None,
    gain: str | None = None,
    optimal_lr: str | None = None,
) -> LossCurves:
    """Read a project's runs and losses, or a table of them.

    Args:
        project: on W&B `entity/project`, `entity/project/SWEEP_ID` or an address; on MLflow the experiment's name; or
            the path of a CSV or Parquet table, of a folder that `files` wrote, or of a folder of offline W&B runs.
        tracker: one of `TRACKERS`; default: the one that is configured. uri: as in `open_tracker`. Neither goes with a
            path.
        loss: metric or column to read; default `eval/loss` if every run has it, else `train/loss`. Of a table: the
            one of `loss`, `eval/loss` and `train/loss` that is there.
        lr, batch_size, seed: the parameters or columns that hold them; a table may lack the seed.
        step, examples: the metric (of a table the column) that counts optimizer steps or examples, see `ReadOptions`.
        filters: which runs of a W&B project, in W&B's query language, as in `{"state": "finished"}`.
        batch_unit: what the batch size counts: `examples`, `sequences` or `tokens`.
        cache_dir: folder for a cache, so that a second call fetches only new or changed runs; None keeps nothing.
        group_by, run, steps_to_goal, gain, optimal_lr: columns of a table, see `TableColumns`.

    Raises:
        UnknownNameError: an unknown tracker, experiment, parameter, metric, column or batch unit.
        TrackerError: the store is away or cannot be read. SurgeError: the table cannot be read, or names that fit
            more than one thing.

    >>> collect("digits", uri="sqlite:////no/such/mlflow.db")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrackerError: there is no MLflow store at /no/such/mlflow.db. Launch a sweep first, ...
    """
    if isinstance(group_by, str):
        group_by = [group_by]
    groups = None if group_by is None else tuple(group_by)
    options = ReadOptions(
        loss=loss,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        step=step,
        examples=examples,
        filters=filters,
        batch_unit=batch_unit,
        cache_dir=cache_dir,
        table=TableColumns(groups, run, steps_to_goal, gain, optimal_lr),
    )
    return read_project(project, options, tracker=tracker, uri=uri)


def read_project(
    project: str | os.PathLike[str],
    options: ReadOptions,
    *,
    tracker: str | None = None,
    uri: str | None = None,
    progress: ProgressCallback = no_progress,
) -> LossCurves:
    """`collect` with its options as one value; `locate` says where the project is looked for."""
    project = os.fspath(project)
    place = locate(project, tracker, uri)
    _check_options(project, place, options)
    if place.kind == "table":
        from surge_sweeps.trackers.tables.reader import read_table

        return read_table(project, options)
    return _reader(place, uri, progress).collect(project, options)


def _reader(place: Place, uri: str | None, progress: ProgressCallback) -> Reader:
    if place.kind == "offline":
        from surge_sweeps.trackers.wandb.offline.folder import OfflineFolder

        return OfflineFolder(progress)
    if place.kind == "files":
        from surge_sweeps.trackers.files.reader import FilesReader

        return FilesReader(progress)
    if place.kind == "wandb":
        from surge_sweeps.trackers.wandb.reader import WandbReader

        return WandbReader(progress)
    from surge_sweeps.trackers.mlflow.reader import MlflowReader

    return MlflowReader(uri, progress)


def _check_options(project: str, place: Place, options: ReadOptions) -> None:
    """Refuse what does not go with the place, rather than leave it unheard."""
    if options.filters is not None and place.kind != "wandb":
        raise SurgeError(f"filters are W&B's, and {project!r} is no W&B project.", "Leave --filters away.")
    given = options.table.given()
    if place.kind != "table" and given:
        names = ", ".join(sorted(given))
        raise SurgeError(
            f"{project!r} is no table, and {names} only go with one.",
            "Leave them away, or give the path of a CSV or Parquet file.",
        )
    if place.kind == "table" and options.examples is not None:
        raise SurgeError("--examples-column goes with a tracker, not with a table.", "Leave it away.")
