"""A folder of runs: what it is known by, what lies where in it, and how its files are called.

    surge-runs.json                         the folder is one of runs, and of which format
    sweeps/SWEEP_ID.yaml                    what was planned
    runs/TRIAL_ID-MARK.parquet              a run that has no result: it goes on, made room, or crashed
    runs/TRIAL_ID-MARK.STATUS.parquet       a run with its result
    scratch/TRIAL_ID-MARK.*                 where a program of the user's own logs while it runs
    artifacts/TRIAL_ID-MARK/                what such a program stored beside its numbers

That a run has its result stands in its file's name: a node that asks which trials are done lists one folder, and a
process that comes late can never put an unfinished run in the place of a result. An id that is no plain word is
replaced by its hash, so that no name leads out of the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from surge_sweeps.curves import RESULT_STATUSES, Status
from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.files import write_bytes
from surge_sweeps.trackers.stored_runs import as_status

MARKER = "surge-runs.json"
FORMAT = 1

_PLAIN = re.compile(r"[a-z0-9]{1,64}")
_RUN_FILE = re.compile(
    rf"(?P<run>(?P<trial>_?[a-z0-9]{{1,64}})-[0-9a-f]{{12}})(?:\.(?P<status>{'|'.join(RESULT_STATUSES)}))?\.parquet"
)
_SUFFIX = ".parquet"


class RunFile(NamedTuple):
    """A run's file, by its name alone.

    Attributes:
        run_id: the run. status: its result, None if it has none. trial_id: None where only the file tells it.
    """

    path: Path
    run_id: str
    status: Status | None
    trial_id: str | None


class Listing(NamedTuple):
    """The files of a folder: one a run, sorted by run; and other Parquet files, which are no runs."""

    runs: list[RunFile]
    foreign: list[Path]


@dataclass(frozen=True)
class RunsFolder:
    """The folder at a path; nothing is read or made before a method is called."""

    path: Path

    @property
    def runs(self) -> Path:
        """Where the runs' files are."""
        return self.path / "runs"

    @property
    def scratch(self) -> Path:
        """Where programs of the user's own log while they run."""
        return self.path / "scratch"

    def artifacts(self, run_id: str) -> Path:
        """Where a program of the user's own stores files."""
        return self.path / "artifacts" / run_id

    def sweep_file(self, sweep_id: str) -> Path:
        """Where the definition of a sweep is."""
        return self.path / "sweeps" / f"{as_word(sweep_id)}.yaml"

    def prepare(self) -> None:
        """Make what is missing of the folder.

        Raises:
            TrackerError: it cannot be made or written, or is of another version.
        """
        if (self.path / MARKER).exists():
            self.check()
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error
        # Last: a folder with a marker has all that it must have.
        if not (self.path / MARKER).exists():
            put(self.path / MARKER, json.dumps({"what": "runs of surge-sweeps", "format": FORMAT}).encode())

    def check(self) -> None:
        """See that this is a folder of runs that this version can read.

        Raises:
            TrackerError: it is none, or of a newer version.
        """
        try:
            content = json.loads((self.path / MARKER).read_text(encoding="utf-8"))
            version = int(content["format"])
        except (FileNotFoundError, NotADirectoryError) as error:
            what = "no folder" if not self.path.is_dir() else "no folder of runs"
            raise TrackerError(
                f"{str(self.path)!r} is {what}.",
                "Name the folder that `surge-sweep launch --tracker files --project FOLDER` logged to.",
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrackerError(
                f"{str(self.path / MARKER)!r} cannot be read: {_reason(error)}.",
                "Check who may read it; if it is damaged, remove it and launch into the folder again.",
            ) from error
        if version != FORMAT:
            raise TrackerError(
                f"the runs in {str(self.path)!r} are of format {version}, and this version knows {FORMAT}.",
                "Read them with the version of surge-sweeps that wrote them, or a newer one.",
            )

    def list_runs(self) -> Listing:
        """Every run, each once: where a kill left an unfinished file beside the result, the result.

        Raises:
            TrackerError: the folder cannot be read.
        """
        try:
            names = sorted(path.name for path in self.runs.iterdir())
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise TrackerError(
                f"{str(self.runs)!r} cannot be read: {_reason(error)}.", "Check who may read it."
            ) from error
        found: dict[str, RunFile] = {}
        foreign: list[Path] = []
        for name in names:
            match = _RUN_FILE.fullmatch(name)
            if match is None:
                if name.endswith(_SUFFIX) and not name.startswith("."):
                    foreign.append(self.runs / name)
                continue
            trial = None if match["trial"].startswith("_") else match["trial"]
            file = RunFile(self.runs / name, match["run"], as_status(match["status"]), trial)
            other = found.get(file.run_id)
            if other is None or other.status is None:
                found[file.run_id] = file
        return Listing(list(found.values()), foreign)

    def open_file(self, run_id: str) -> Path:
        """The file of a run without a result."""
        return self.runs / f"{run_id}{_SUFFIX}"

    def result_file(self, run_id: str, status: Status) -> Path:
        """The file of a run with this result."""
        return self.runs / f"{run_id}.{status}{_SUFFIX}"

    def find_result(self, run_id: str) -> Path | None:
        """The file of a run that has a result; None where it has none."""
        candidates = (self.result_file(run_id, status) for status in RESULT_STATUSES)
        return next((path for path in candidates if path.exists()), None)

    def leftovers(self, run_id: str = "") -> list[Path]:
        """Files in the making, of one run or of all, whose processes are at work or were killed."""
        folders = (self.runs, self.scratch)
        return [path for folder in folders for path in folder.glob(f".{run_id}*") if path.is_file()]

    def scratch_runs(self) -> list[str]:
        """The runs that have a scratch."""
        names = {path.name.partition(".")[0] for path in self.scratch.glob("*-*.*")}
        return sorted(name for name in names if not name.startswith("template"))


def is_runs_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds runs as this tool writes them.

    >>> is_runs_folder("no/such/folder")
    False
    """
    try:
        return (Path(path) / MARKER).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def new_run_id(trial_id: str, of: Sequence[str | None] = ()) -> str:
    """The id of a run of a trial: the same for the same `of`; without it one that no other run has.

    >>> new_run_id("ab12", ["sweep", "task-3"]) == new_run_id("ab12", ["sweep", "task-3"])
    True
    >>> new_run_id("../x").startswith("_d6b96a97d147daaa")
    True
    """
    text = json.dumps([trial_id, *of])
    mark = hashlib.sha256(text.encode()).hexdigest()[:12] if of else secrets.token_hex(6)
    return f"{as_word(trial_id)}-{mark}"


def put(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; its folder is made.

    Raises:
        TrackerError: it cannot be written, as on a full disk.
    """
    try:
        write_bytes(path, content)
    except SurgeError as error:
        raise TrackerError(error.what, _KEPT) from error


def unwritable(path: Path, error: OSError) -> TrackerError:
    """The error for a folder that cannot be written."""
    return TrackerError(f"{str(path)!r} cannot be written: {_reason(error)}.", _KEPT)


_KEPT = (
    "What was written before is whole. Make room or choose a folder that you may write to, then call the same command"
    " again: it runs what has no result."
)


def as_word(name: str) -> str:
    """An id as a part of a file's name: itself, or its hash where it is no plain word.

    >>> as_word("ab12"), as_word("../x")
    ('ab12', '_d6b96a97d147daaae49eb87a')
    """
    return name if _PLAIN.fullmatch(name) else f"_{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
