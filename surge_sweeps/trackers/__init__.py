"""Everything known about experiment trackers and tables of runs, behind one contract (`base`).

A tracker's own package is imported only when it is needed: a local MLflow store is read without mlflow installed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.base import ReadOptions, TableColumns, Tracker
from surge_sweeps.trackers.tables.file import SUFFIXES, is_table, project_name

#: The trackers there are.
TRACKERS: tuple[str, ...] = ("mlflow",)

__all__ = ["TRACKERS", "collect", "open_tracker", "project_name", "read_project"]


def open_tracker(name: str, project: str, uri: str | None = None) -> Tracker:
    """Open a project for writing; nothing is created before the first write.

    Args:
        name: one of `TRACKERS`. project: on MLflow the experiment's name. uri: the store; default as configured in
            the environment (MLFLOW_TRACKING_URI), else `sqlite:///mlflow.db` in the working folder.

    Raises:
        UnknownNameError: no tracker of that name.

    >>> open_tracker("mlfow", "digits")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.UnknownNameError: unknown tracker 'mlfow'. Valid: mlflow. Did you mean 'mlflow'?
    """
    _check(name)
    from surge_sweeps.trackers.mlflow.writer import MlflowTracker

    return MlflowTracker(project, uri)


def collect(
    project: str | os.PathLike[str],
    *,
    tracker: str | None = None,
    uri: str | None = None,
    loss: str | None = None,
    lr: str = "lr",
    batch_size: str = "batch_size",
    seed: str = "seed",
    batch_unit: str = "examples",
    cache_dir: Path | None = None,
    group_by: Sequence[str] | None = None,
    run: str | None = None,
    step: str | None = None,
    steps_to_goal: str | None = None,
    gain: str | None = None,
    optimal_lr: str | None = None,
) -> LossCurves:
    """Read a project's runs and losses, or a table of them.

    Args:
        project: on MLflow the experiment's name; or the path of a CSV or Parquet table.
        tracker: one of `TRACKERS`; default `mlflow`. uri: as in `open_tracker`. Neither goes with a table.
        loss: metric or column to read; default `eval/loss` if every run has it, else `train/loss`. Of a table: the
            one of `loss`, `eval/loss` and `train/loss` that is there.
        lr, batch_size, seed: the parameters or columns that hold them; a table may lack the seed.
        batch_unit: what the batch size counts: `examples`, `sequences` or `tokens`.
        cache_dir: folder for a cache, so that a second call fetches only new or changed runs; None keeps nothing.
        group_by, run, step, steps_to_goal, gain, optimal_lr: columns of a table, see `TableColumns`.

    Raises:
        UnknownNameError: an unknown tracker, experiment, parameter, metric, column or batch unit.
        TrackerError: the store is away or cannot be read. SurgeError: the table cannot be read.

    >>> collect("digits", uri="sqlite:////no/such/mlflow.db")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrackerError: there is no MLflow store at /no/such/mlflow.db. Launch a sweep first, ...
    """
    if isinstance(group_by, str):
        group_by = [group_by]
    groups = None if group_by is None else tuple(group_by)
    table = TableColumns(groups, run, step, steps_to_goal, gain, optimal_lr)
    options = ReadOptions(loss, lr, batch_size, seed, batch_unit, cache_dir, table)
    return read_project(project, options, tracker=tracker, uri=uri)


def read_project(
    project: str | os.PathLike[str],
    options: ReadOptions,
    *,
    tracker: str | None = None,
    uri: str | None = None,
) -> LossCurves:
    """`collect` with its options as one value.

    A project is a table when its name ends like one, or a file of that name is there and neither `tracker` nor `uri`
    is given.
    """
    project = os.fspath(project)
    if project.lower().endswith(SUFFIXES) or (tracker is None and uri is None and is_table(project)):
        if tracker is not None or uri is not None:
            raise SurgeError(
                f"{project!r} is a table, and --tracker or --uri say where an experiment is.",
                "Leave them away, or name an experiment.",
            )
        from surge_sweeps.trackers.tables.reader import read_table

        return read_table(project, options)
    _check(tracker or "mlflow")
    if options.table.given():
        names = ", ".join(options.table.given())
        raise SurgeError(
            f"{project!r} is no table, and {names} only go with one.",
            "Leave them away, or give the path of a CSV or Parquet file.",
        )
    from surge_sweeps.trackers.mlflow.reader import MlflowReader

    return MlflowReader(uri).collect(project, options)


def _check(name: str) -> None:
    if name not in TRACKERS:
        raise UnknownNameError("tracker", name, TRACKERS)
