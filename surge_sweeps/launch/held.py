"""Whether a launch on this machine is still at work: its process lives, or a program that it started and left behind.

The process holds a lock on a file of the launch, and its programs inherit it, so that the system lets go of it when the
last of them has ended, however that came.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from surge_sweeps.errors import SurgeError

_FILE = "held"


class Held:
    """The lock of one launch, taken.

    Args:
        folder: of the launch.

    Attributes:
        descriptor: the open file, for programs to inherit.

    Raises:
        SurgeError: the folder cannot be written, or its file system knows no locks.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / _FILE
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, str(os.getpid()).encode())
        except OSError as error:
            raise SurgeError(
                f"{str(path)!r} cannot be locked: {error.strerror or error}.",
                "Launch from a folder that you may write to, on a file system that knows locks.",
            ) from error

    def release(self) -> None:
        """Let go of it; programs that live on keep it. A second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def holder(folder: Path) -> int | None:
    """The process that made a launch which is still at work, were it itself gone; None if nothing of it is left."""
    try:
        descriptor = os.open(folder / _FILE, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 32).decode(errors="replace")
        return int(text) if text.isdecimal() else 0
    finally:
        os.close(descriptor)
    return None
