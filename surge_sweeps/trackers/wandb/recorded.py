"""Which runs a project has already: those of the server, or those in the folder of offline runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import tenacity

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.busy import is_busy
from surge_sweeps.trackers.stored_runs import StoredRun
from surge_sweeps.trackers.wandb.client import WandbProject, wandb_errors
from surge_sweeps.trackers.wandb.offline.file import read_offline_file
from surge_sweeps.trackers.wandb.offline.find import find_files
from surge_sweeps.trackers.wandb.offline.run import OfflineFile
from surge_sweeps.trackers.wandb.offline.runs import OfflineRuns, merge
from surge_sweeps.trackers.wandb.record import STATUS
from surge_sweeps.trackers.wandb.runs import stored_runs

#: Seconds that the client may take to finish the file of a run that was closed.
FILE_TIMEOUT_S = 30.0


def recorded_online(api: Any, project: WandbProject) -> list[StoredRun]:
    """The runs of a project; none where the project is not there yet."""
    try:
        return stored_runs(api, project)
    except ValueError:  # made with its first run
        return []


def recorded_offline(folder: Path, project: WandbProject) -> list[StoredRun]:
    """The runs of a project that W&B's client wrote to a folder; a file that cannot be read tells of no run.

    An offline run knows its entity only if it was told one, so a run without one counts too.
    """
    files = [file for path in find_files(folder) if (file := _read(path)) is not None]
    ours = [
        file
        for file in files
        if file.project == project.project and file.entity in ("", project.entity) and file.run_id
    ]
    return OfflineRuns(merge(ours, [])).stored()


def left_open(runs: Iterable[StoredRun], sweep_id: str) -> list[StoredRun]:
    """The runs of a sweep without a status of this tool's."""
    return [run for run in runs if run.params.get("sweep_id") == sweep_id and run.recorded is None]


def is_busy_run(run: StoredRun, ended: Collection[str]) -> bool:
    """Whether a run without a status is to be taken for one that its task is at work on, or will go on with.

    Args:
        run: with its last heartbeat as the time of its points. ended: see `busy`.
    """
    stamps = [run.start_ms or 0, *(point.timestamp_ms for point in run.metrics.values())]
    return run.ended == "running" and is_busy(run.owner, stamps, ended)


def mark_crashed(api: Any, path: str) -> None:
    """Write that the process of a run (entity/project/run) was killed.

    Raises:
        TrackerError: the server is away or refuses.
    """
    with wandb_errors("written"):
        run = api.run(path)
        run.summary[STATUS] = "crashed"
        run.summary.update()


def confirm_offline(folders: Iterable[Path]) -> None:
    """Wait until the files of runs that were closed are whole: the client writes them in the background.

    Raises:
        TrackerError: a run has no end on disk.
    """
    for folder in folders:
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda whole: not whole),
            wait=tenacity.wait_exponential(0.02, max=1),
            stop=tenacity.stop_after_delay(FILE_TIMEOUT_S),
        )
        try:
            retry(_is_whole, folder)
        except tenacity.RetryError as error:
            raise TrackerError(
                f"the run in {str(folder)!r} was not written to its end.",
                "Check the room on that disk, then run the trial again.",
            ) from error


def _is_whole(folder: Path) -> bool:
    files = [_read(path) for path in find_files(folder)]
    return any(file is not None and file.exit_code is not None for file in files)


def _read(path: Path) -> OfflineFile | None:
    try:
        return read_offline_file(path)
    except TrackerError:
        return None
