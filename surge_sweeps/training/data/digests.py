"""Content hashes of files; those of large files are kept."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from pathlib import Path

from surge_sweeps.errors import TrainingError
from surge_sweeps.files import write_text
from surge_sweeps.training.data.places import cache_folder

#: Bytes from which a digest is kept: to hash such a file for each trial anew would take longer than 50 ms.
LARGE_BYTES = 2**26
_SHA256 = re.compile("[0-9a-f]{64}")
_NOTHING = hashlib.sha256().hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    That of a file of `LARGE_BYTES` or more is kept, and holds as long as the file's size and times of change do.

    Raises:
        TrainingError: the file cannot be read.
    """
    try:
        status = path.stat()
        if status.st_size < LARGE_BYTES:
            return _hash(path)
        # The last is set by no program: a file that is put in the place of another is seen by it.
        identity = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}"
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


def content_digest(path: Path) -> str | None:
    """SHA-256 of what a file holds, the same whether it is packed (.gz) or not; None: it holds nothing.

    That of a packed file is kept by the file's own digest.

    Raises:
        TrainingError: the file cannot be read.
    """
    own = file_digest(path)
    if path.suffix.lower() == ".gz":
        known = cache_folder() / "digests" / f"{own}.unpacked"
        kept = known.read_text(encoding="ascii", errors="replace") if known.is_file() else ""
        if not _SHA256.fullmatch(kept):
            try:
                with gzip.open(path) as file:
                    # A file that is unpacked on the way can be hashed as any.
                    kept = hashlib.file_digest(file, "sha256").hexdigest()
            except (OSError, EOFError, zlib.error):
                # Where it is torn is told with its place when it is read.
                return own
            write_text(known, kept)
        own = kept
    return None if own == _NOTHING else own


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
