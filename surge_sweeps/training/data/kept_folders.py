"""Folders of arrays that are costly to make, made once and kept; many processes may ask for one at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.places import CACHE_VARIABLE, cache_folder

_MAKE_ROOM = f"Name a folder that you may write to, with enough room, in {CACHE_VARIABLE}."


def kept_folder(kind: str, key: Mapping[str, object], make: Callable[[Path], None]) -> Path:
    """The folder that `make` filled for this key: now, or earlier, in this process or in another.

    A folder appears whole or not at all; of several processes that ask for it at once, one makes it and the others
    wait. One that a kill left half made is begun anew.

    Args:
        kind: what is kept; a folder of the cache.
        key: everything that decides the content, the state of the source included; it must be JSON.
        make: fills the empty folder that it is given.

    Raises:
        TrainingError: the cache cannot be written; and whatever `make` raises.

    >>> import tempfile, pytest
    >>> with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
    ...     patch.setenv("SURGE_CACHE_DIR", cache)
    ...     for _ in range(2):
    ...         folder = kept_folder("squares", {"up to": 3}, lambda new: print((new / "f").write_text("0 1 4")))
    ...     (folder / "f").read_text()
    5
    '0 1 4'
    """
    text = json.dumps(key, sort_keys=True)
    home = cache_folder() / kind
    folder = home / hashlib.sha256(text.encode()).hexdigest()[:32]
    if folder.is_dir():
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f"{folder.name}.lock"):
            if not folder.is_dir():
                _make(folder, make)
    except OSError as error:
        raise TrainingError(
            f"what was read cannot be kept in {str(home)!r}: {error.strerror or error}.", _MAKE_ROOM
        ) from error
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    # Nobody else is at work on it: the caller holds its lock.
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        make(unfinished)
        for path in unfinished.iterdir():
            # A crash of the machine would else leave the name of a file whose content was never written.
            with path.open("rb") as file:
                os.fsync(file.fileno())
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
