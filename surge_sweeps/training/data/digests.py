"""Content hashes of files; those of large files are kept."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from surge_sweeps.errors import TrainingError
from surge_sweeps.files import write_text
from surge_sweeps.training.data.places import cache_folder

#: Bytes from which a digest is kept: to hash such a file for each trial anew would take longer than 50 ms.
LARGE_BYTES = 2**26
_SHA256 = re.compile("[0-9a-f]{64}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    That of a file of `LARGE_BYTES` or more is kept, and holds as long as the file's size and time of change do.

    Raises:
        TrainingError: the file cannot be read.
    """
    try:
        status = path.stat()
        if status.st_size < LARGE_BYTES:
            return _hash(path)
        identity = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
        known = (
            cache_folder()
            / "digests"
            / hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
        )
        if known.is_file() and _SHA256.fullmatch(
            digest := known.read_text(encoding="ascii", errors="replace")
        ):
            return digest
        digest = _hash(path)
    except OSError as error:
        raise TrainingError(
            f"{str(path)!r} cannot be read: {error.strerror or error}.", "Give a file that you may read."
        ) from error
    write_text(known, digest)
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
