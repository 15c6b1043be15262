"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from surge_sweeps.errors import SurgeError


def write_bytes(path: Path, content: bytes) -> bool:
    """Write a file atomically; its folder is made. Return whether anything changed on disk.

    A reader sees the old file or the new one, never a part. A file that already holds `content` is left untouched.

    Raises:
        SurgeError: the file cannot be written there.
    """
    try:
        return _replace(path, content)
    except OSError as error:
        raise SurgeError(
            f"{str(path)!r} cannot be written: {error.strerror or error}.",
            "Choose a folder that you may write to.",
        ) from error


def _replace(path: Path, content: bytes) -> bool:
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a report or a sweep is as readable as the user's other files.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return True


def write_text(path: Path, content: str) -> bool:
    """`write_bytes` of text, in UTF-8."""
    return write_bytes(path, content.encode("utf-8"))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
