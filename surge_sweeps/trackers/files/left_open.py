"""Runs of a folder that have no status: which they are, and whether a task elsewhere seems to be at work on them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from surge_sweeps.trackers.busy import is_busy
from surge_sweeps.trackers.files.layout import RunFile, RunsFolder
from surge_sweeps.trackers.files.record import FileRun
from surge_sweeps.trackers.files.run_file import DamagedRunError, WholeRun, read_whole
from surge_sweeps.trackers.files.scratch import Scratch

_log = logging.getLogger(__name__)


def left_open(files: Iterable[RunFile], sweep_id: str) -> list[FileRun]:
    """The runs of a sweep without a status."""
    wholes = (read_if_whole(file.path) for file in files if file.status is None)
    runs = (whole.run for whole in wholes if whole is not None)
    return [run for run in runs if run.sweep_id == sweep_id and run.status is None]


def is_busy_run(folder: RunsFolder, run: FileRun, ended: Collection[str]) -> bool:
    """Whether a run without a status is to be taken for one that its task is at work on, or will go on with.

    Its file is written while points are logged; a program of the user's own logs to the run's scratch.

    Args:
        ended: see `busy`.
    """
    # One that was cut off says that it has ended, though without a result.
    if run.state == "ended":
        return False
    paths = (folder.open_file(run.run_id), *Scratch(folder, run.run_id).files())
    return is_busy(run.owner, _modified_ms(paths), ended)


def read_if_whole(path: Path) -> WholeRun | None:
    """The run of a file; None where it is gone, as when it got its result meanwhile, or damaged, which is said."""
    try:
        return read_whole(path)
    except FileNotFoundError:
        return None
    except DamagedRunError as error:
        _log.warning("%s It counts as no run.", error.what)
        return None


def _modified_ms(paths: Iterable[Path]) -> list[float]:
    found: list[float] = []
    for path in paths:
        with suppress(OSError):
            found.append(1000 * path.stat().st_mtime)
    return found
