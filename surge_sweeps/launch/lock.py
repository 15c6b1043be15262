"""One launch at a time in a working folder: two would run the same trials twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from surge_sweeps.errors import SurgeError

#: Held while a launch runs; the system lets go of it when the process ends, however it ends.
LOCK_FILE = Path(".surge") / "launch.lock"


@contextmanager
def lock_if_free() -> Iterator[bool]:
    """Hold the lock of the working folder if no launch does; whether it is held now."""
    try:
        with one_launch():
            yield True
            return
    except SurgeError:
        pass
    yield False


@contextmanager
def one_launch() -> Iterator[None]:
    """Hold the working folder's launch lock.

    Raises:
        SurgeError: another launch holds it, or the folder cannot be written.
    """
    try:
        LOCK_FILE.parent.mkdir(exist_ok=True)
        lock = FileLock(LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SurgeError(
            f"another launch is running in {Path.cwd()}.", "Wait for it, or stop it, then call again."
        ) from error
    except OSError as error:
        raise SurgeError(
            f"{str(LOCK_FILE.parent)!r} cannot be written: {error.strerror or error}.",
            "Launch from a folder that you may write to.",
        ) from error
    try:
        yield
    finally:
        lock.release()
