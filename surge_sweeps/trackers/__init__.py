"""Everything known about experiment trackers, writing and reading, behind one contract (`base`).

A tracker's own package is imported only when it is needed: a local MLflow store is read without mlflow installed.
"""

from __future__ import annotations

from pathlib import Path

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import UnknownNameError
from surge_sweeps.trackers.base import ReadOptions, Tracker

#: The trackers there are.
TRACKERS: tuple[str, ...] = ("mlflow",)

__all__ = ["TRACKERS", "collect", "open_tracker"]


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
    from surge_sweeps.trackers.mlflow_writer import MlflowTracker

    return MlflowTracker(project, uri)


def collect(
    project: str,
    *,
    tracker: str | None = None,
    uri: str | None = None,
    loss: str | None = None,
    lr: str = "lr",
    batch_size: str = "batch_size",
    seed: str = "seed",
    batch_unit: str = "examples",
    cache_dir: Path | None = None,
) -> LossCurves:
    """Read a project's runs and losses.

    Args:
        project: on MLflow the experiment's name. tracker: one of `TRACKERS`; default `mlflow`. uri: as in
            `open_tracker`.
        loss: metric to read; default `eval/loss` if every run has it, else `train/loss`.
        lr, batch_size, seed: the parameters that hold them. batch_unit: what the batch size counts: `examples`,
            `sequences` or `tokens`.
        cache_dir: folder for a cache, so that a second call fetches only new or changed runs; None keeps nothing.

    Raises:
        UnknownNameError: an unknown tracker, experiment, parameter, metric or batch unit.
        TrackerError: the store is away or cannot be read.

    >>> collect("digits", uri="sqlite:////no/such/mlflow.db")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrackerError: there is no MLflow store at /no/such/mlflow.db. Launch a sweep first, ...
    """
    _check(tracker or "mlflow")
    from surge_sweeps.trackers.mlflow_reader import MlflowReader

    options = ReadOptions(loss, lr, batch_size, seed, batch_unit, cache_dir)
    return MlflowReader(uri).collect(project, options)


def _check(name: str) -> None:
    if name not in TRACKERS:
        raise UnknownNameError("tracker", name, TRACKERS)
