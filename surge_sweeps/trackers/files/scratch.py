"""Where a program of the user's own logs while it runs: a store of the trial's own, through the tracker's own client.

A program that logs to MLflow gets a SQLite store that holds one run; one that logs to W&B writes offline files. Both
are set up for every program, which takes what it knows. When it ends, or is asked to make room, the points are read
from there and become the run's file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.files.layout import RunsFolder, unwritable
from surge_sweeps.trackers.files.run_file import Points

#: In the template; each copy's run gets an id of its own.
_TEMPLATE_RUN = "surge"
_EXPERIMENT = "surge"
_MAKING = threading.Lock()


@dataclass(frozen=True)
class Logged:
    """What a program has logged: its parameters as text, and metric -> points."""

    params: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, Points] = field(default_factory=dict)


class Scratch:
    """The scratch of one run.

    Args:
        folder: the folder of runs. run_id: the run.
    """

    def __init__(self, folder: RunsFolder, run_id: str) -> None:
        self._folder = folder
        self._run_id = run_id
        self._store = folder.scratch / f"{run_id}.db"
        self._wandb = folder.scratch / f"{run_id}.wandb"

    def prepare(self) -> dict[str, str]:
        """Make it, or find it as an earlier process of the same run left it; the environment for the program.

        Raises:
            TrackerError: it cannot be made. MissingExtraError: mlflow is not installed.
        """
        if any(mark in str(self._store.absolute()) for mark in "?#"):
            raise TrackerError(
                f"programs cannot log to {str(self._folder.path)!r}: the address of a store ends at '?' and '#'.",
                "Rename the folder.",
            )
        experiment_id = self._make_store()
        try:
            self._wandb.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self._wandb, error) from error
        return {
            "MLFLOW_TRACKING_URI": f"sqlite:///{self._store.absolute()}",
            "MLFLOW_EXPERIMENT_ID": experiment_id,
            "MLFLOW_RUN_ID": self._mlflow_run,
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(self._wandb.absolute()),
            "WANDB_RUN_ID": self._mlflow_run[:16],
            # Else the program would log through this process's client, and lose it with this process.
            "WANDB_SERVICE": "",
        }

    @property
    def is_there(self) -> bool:
        """Whether an earlier process of the run has left it."""
        return self._store.exists() or self._wandb.exists()

    def mend(self) -> None:
        """Undo what a killed program had only half written; its process is gone.

        Raises:
            TrackerError: the store cannot be mended.
        """
        if not self._store.exists():
            return
        try:
            with closing(sqlite3.connect(self._store)) as connection:
                connection.execute("SELECT count(*) FROM runs").fetchone()
        except sqlite3.Error as error:
            raise TrackerError(
                f"the store {str(self._store)!r} of a program cannot be read: {error}.",
                "See that the disk has room, then call again; remove the file to do without what the program logged.",
            ) from error

    def read(self) -> Logged:
        """What was logged so far, by MLflow and, of what is not there, by W&B; nothing where there is no scratch.

        Raises:
            TrackerError: it cannot be read.
        """
        ours = _read_mlflow(self._store, self._mlflow_run) if self._store.is_file() else Logged()
        others = _read_wandb(self._wandb) if self._wandb.is_dir() else Logged()
        return Logged({**others.params, **ours.params}, {**others.points, **ours.points})

    def files(self) -> list[Path]:
        """Those that a program writes to while it logs; they may be gone."""
        return [*self._store_files(), *self._wandb.glob("wandb/*/*.wandb")]

    def remove(self) -> None:
        """Remove it."""
        for path in self._store_files():
            path.unlink(missing_ok=True)
        shutil.rmtree(self._wandb, ignore_errors=True)

    def _store_files(self) -> list[Path]:
        return [
            self._store.with_name(self._store.name + suffix) for suffix in ("", "-journal", "-wal", "-shm")
        ]

    @property
    def _mlflow_run(self) -> str:
        return hashlib.sha256(self._run_id.encode()).hexdigest()[:32]

    def _make_store(self) -> str:
        try:
            self._folder.scratch.mkdir(parents=True, exist_ok=True)
            template = self._template()
            if not self._store.exists():
                temporary = self._store.with_name(f".{self._store.name}.{os.getpid()}")
                shutil.copyfile(template, temporary)
                self._give_id(temporary)
                temporary.replace(self._store)
            with closing(sqlite3.connect(self._store)) as connection:
                row = connection.execute(
                    "SELECT experiment_id FROM runs WHERE run_uuid = ?", (self._mlflow_run,)
                )
                return str(row.fetchone()[0])
        except (OSError, sqlite3.Error, TypeError) as error:
            raise TrackerError(
                f"the store {str(self._store)!r}, to which the program would log, cannot be made: {error}.",
                "See that there is room and that the file system knows file locks, then call the same command again.",
            ) from error

    def _give_id(self, store: Path) -> None:
        place = self._folder.artifacts(self._run_id).absolute().as_uri()
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute("UPDATE runs SET run_uuid = ?, artifact_uri = ?", (self._mlflow_run, place))
            connection.execute("UPDATE tags SET run_uuid = ?", (self._mlflow_run,))

    def _template(self) -> Path:
        """A store with one open run, to copy: MLflow takes seconds to make one, and knows its schema."""
        from surge_sweeps.trackers.mlflow.client import connect, store_errors

        path = self._folder.scratch / f"template-{require('mlflow', 'mlflow').__version__}.db"
        with _MAKING:
            if path.exists():
                return path
            making = path.with_name(f".{path.name}.{os.getpid()}")
            uri = f"sqlite:///{making.absolute()}"
            try:
                client = connect(uri)
                with store_errors(uri, "made"):
                    client.create_run(client.create_experiment(_EXPERIMENT), run_name=_TEMPLATE_RUN)
                making.replace(path)
            finally:
                making.unlink(missing_ok=True)
        return path


def _read_mlflow(store: Path, run_id: str) -> Logged:
    from surge_sweeps.trackers.mlflow.database.sqlite import open_sqlite

    with open_sqlite(store.absolute()) as opened:
        runs = {run.run: run for run in opened.runs(opened.experiment_id(_EXPERIMENT))}
        if run_id not in runs:
            return Logged()
        run = runs[run_id]
        points = {}
        for metric in run.metrics:
            series = opened.fetch([run_id], metric, None)
            points[metric] = Points(series.step.astype("int64"), series.value, series.timestamp)
        return Logged(run.params, points)


def _read_wandb(folder: Path) -> Logged:
    from surge_sweeps.trackers.wandb.offline.file import read_offline_file
    from surge_sweeps.trackers.wandb.offline.find import find_files
    from surge_sweeps.trackers.wandb.offline.runs import OfflineRuns, merge

    files = []
    for path in find_files(folder):
        try:
            files.append(read_offline_file(path))
        except TrackerError:
            # A file that was cut off before its header tells of nothing.
            continue
    runs = merge([file for file in files if file.run_id], [])
    source = OfflineRuns(runs)
    params: dict[str, str] = {}
    points: dict[str, Points] = {}
    for run in source.stored():
        params |= run.params
        for metric, newest in run.metrics.items():
            series = source.fetch([run.run], metric, None)
            known = series.step == series.step
            step = series.step[known].astype("int64")
            # Rows are numbered in the order in which they were logged, and machines' clocks are not asked.
            row = series.timestamp[known]
            time_ms = max(newest.timestamp_ms, int(series.timestamp[-1])) - (series.timestamp[-1] - row)
            points[metric] = Points(step, series.value[known], time_ms)
    return Logged(params, points)
