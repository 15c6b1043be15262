"""Files fetched over HTTP: whole or not at all, checked, and gone on with where an earlier attempt stopped."""

from __future__ import annotations

import hashlib
import http.client
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from surge_sweeps.errors import TrainingError
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.training.data.known import RemoteFile

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0
_PARTIAL = 206
_RANGE_IS_EMPTY = 416


def fetch(file: RemoteFile, folder: Path, progress: ProgressCallback = no_progress) -> bool:
    """Fetch a file to its path below a folder. Return whether it had to be; one that is there is checked alone.

    What came before an interruption stays beside it as `.part` and is gone on with, if there is a checksum to tell
    whether the two pieces fit; else it is begun anew. Several processes may call it at once.

    Raises:
        TrainingError: the network or the server does not give it, the content is not what was expected, or the folder
            cannot be written. The message has the command that fetches the file elsewhere.
    """
    path = folder / file.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists():
                check(file, path)
                return False
            part = path.with_name(f"{path.name}.part")
            _transfer(file, part, path, progress)
            _check_or_remove(file, part)
            part.replace(path)
            return True
    except OSError as error:
        raise TrainingError(
            f"{str(path)!r} cannot be written: {error.strerror or error}.",
            "Choose a folder that you may write to, with enough room.",
        ) from error


def check(file: RemoteFile, path: Path) -> None:
    """Compare a file on disk with what is known of it.

    Raises:
        TrainingError: it is another one, or only a piece.
    """
    size = path.stat().st_size
    if file.size_bytes is not None and size != file.size_bytes:
        raise TrainingError(
            f"{str(path)!r} has {size:,} bytes and should have {file.size_bytes:,}.",
            "Delete it and call the same command again.",
        )
    if file.checksum is None:
        return
    kind, _, expected = file.checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise TrainingError(
            f"{str(path)!r} has the {kind} checksum {digest.hexdigest()} and should have {expected}.",
            "Delete it and call the same command again.",
        )


def command(file: RemoteFile, folder: Path) -> str:
    """The shell command that fetches a file to its place.

    >>> command(RemoteFile("a/b c.txt", "https://example.org/b"), Path("data"))
    "curl -fL --create-dirs -o 'data/a/b c.txt' https://example.org/b"
    """
    return shlex.join(["curl", "-fL", "--create-dirs", "-o", str(folder / file.path), file.url])


def _check_or_remove(file: RemoteFile, part: Path) -> None:
    try:
        check(file, part)
    except TrainingError as error:
        part.unlink()
        raise TrainingError(
            f"what {file.url} gave is not the expected file: {error.what}",
            "It was thrown away. Call the same command again; if it stays so, the file was changed at its source.",
        ) from error


def _transfer(file: RemoteFile, part: Path, path: Path, progress: ProgressCallback) -> None:
    have = part.stat().st_size if part.exists() and file.checksum is not None else 0
    headers = {"User-Agent": "surge-sweeps", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with _told(file, path):
        try:
            response = urllib.request.urlopen(
                urllib.request.Request(file.url, headers=headers), timeout=_TIMEOUT_SECONDS
            )
        except urllib.error.HTTPError as error:
            if error.code == _RANGE_IS_EMPTY and have:
                # All of it is there already, or more than all: the checksum tells.
                return
            raise
    with response:
        if response.status != _PARTIAL:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else file.size_bytes
        with part.open("ab" if have else "wb") as output:
            while True:
                with _told(file, path):
                    chunk = response.read(_CHUNK_BYTES)
                if not chunk:
                    break
                output.write(chunk)
                have += len(chunk)
                progress(have, total or have, file.path)
            output.flush()
            os.fsync(output.fileno())
    if total is not None and have < total:
        raise _failed(file, path, f"the connection ended after {have:,} of {total:,} bytes")


@contextmanager
def _told(file: RemoteFile, path: Path) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        raise _failed(file, path, f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _failed(file, path, str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _failed(file, path, str(error) or type(error).__name__) from error


def _failed(file: RemoteFile, path: Path, reason: str) -> TrainingError:
    folder = path.parents[len(Path(file.path).parts) - 1]
    return TrainingError(
        f"{file.url} cannot be fetched: {reason}.",
        f"Call the same command again, or where there is a network: {command(file, folder)}   and put what comes into"
        f" {str(path)!r}.",
    )
