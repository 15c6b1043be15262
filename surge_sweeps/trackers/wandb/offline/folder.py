"""A folder of W&B runs on disk as `LossCurves`, without a server: offline runs, and the local copies of online ones.

Files are read afresh each time and nothing is cached: what a run is called and how it ended is only known once its
file was read to the end, and the points come with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from surge_sweeps.counting import counted
from surge_sweeps.curves import LossCurves, Problem
from surge_sweeps.errors import TrackerError
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.trackers.assemble import Origin, assemble
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.wandb.offline.file import read_offline_file
from surge_sweeps.trackers.wandb.offline.find import find_files, is_offline_folder
from surge_sweeps.trackers.wandb.offline.run import OfflineFile
from surge_sweeps.trackers.wandb.offline.runs import OfflineRuns, merge
from surge_sweeps.trackers.wandb.record import JOB_TYPE_REPORT

__all__ = ["OfflineFolder", "is_offline_folder"]


class OfflineFolder:
    """W&B runs on disk; implements `Reader`.

    Args:
        progress: told of the files read so far.
    """

    def __init__(self, progress: ProgressCallback = no_progress) -> None:
        self._progress = progress

    def collect(self, project: str, options: ReadOptions) -> LossCurves:
        """Read every run at a path.

        A run is named by its id. Files of one run, as resuming makes them, are put together in the order in which
        they were begun. A file that ends torn is read as far as it goes; that, and every file that cannot be used, is
        named in `problems`.

        Args:
            project: a `.wandb` file, a run's folder, the `wandb` folder, or a folder some levels above.
            options: what to read; `cache_dir` is of no use here.

        Raises:
            TrackerError: no `.wandb` file there, or none that can be read.
            MissingExtraError: wandb, which brings the files' schema, is not installed.
            UnknownNameError: a parameter or metric name that no run has.
        """
        paths = find_files(Path(project))
        if not paths:
            raise TrackerError(
                f"there are no W&B runs in {project!r}.",
                "Give the folder 'wandb' of the runs, or one above it.",
            )
        problems: list[Problem] = []
        files = self._read_all(paths, problems)
        source = OfflineRuns(merge(files, problems))
        identity = ("wandb-offline", str(Path(project).resolve()))
        origin = Origin(project, f"W&B runs on disk in {project}", identity)
        curves = assemble(source.stored(), source, origin, replace(options, cache_dir=None))
        return replace(curves, problems=(*problems, *curves.problems))

    def _read_all(self, paths: Sequence[Path], problems: list[Problem]) -> list[OfflineFile]:
        files: list[OfflineFile] = []
        failures: list[TrackerError] = []
        text = f"reading {counted(len(paths), 'file')} of W&B runs"
        for index, path in enumerate(paths):
            self._progress(index, len(paths), text)
            try:
                file = read_offline_file(path)
            except TrackerError as error:
                failures.append(error)
                problems.append(Problem(None, f"left out: {error.what}"))
                continue
            if not file.run_id:
                reason = file.ending.reason or "nothing was written after the header"
                problems.append(Problem(None, f"left out: {str(path)!r} tells of no run: {reason}"))
            elif file.job_type != JOB_TYPE_REPORT:
                files.append(file)
        self._progress(len(paths), len(paths), text)
        if len(failures) == len(paths):
            raise failures[0]
        return files
