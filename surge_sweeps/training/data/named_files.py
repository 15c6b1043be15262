"""The files below a folder, or inside a zip file, under names with slashes; zip files are never unpacked."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Protocol

from surge_sweeps.errors import TrainingError

_AGAIN = "Get the file again."


class NamedFiles(Protocol):
    """Files by name. `names` are sorted, relative, with slashes; hidden files are left out."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def names(self) -> Sequence[str]: ...  # noqa: D102

    def read(self, name: str) -> bytes:
        """The content of a file; may be called by several threads at a time."""
        ...

    def stamp(self) -> object:
        """JSON that changes when a file does: sizes and times of change."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder; links to folders are followed."""

    folder: Path

    @property
    def source(self) -> str:
        """The folder, for messages."""
        return repr(str(self.folder))

    @cached_property
    def _found(self) -> list[tuple[str, int, int, int]]:
        """Name and state of each file, see `file_stamp`, sorted by name."""
        return sorted(self._walk(self.folder, "", frozenset()))

    def _walk(self, folder: Path, prefix: str, above: frozenset[Path]) -> Iterator[tuple[str, int, int, int]]:
        try:
            real = folder.resolve(strict=True)
            if real in above:
                raise TrainingError(f"{str(folder)!r} is a link to a folder above it.", "Remove the link.")
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not _is_hidden(entry.name)]
            for entry in found:
                name = f"{prefix}{entry.name}"
                if entry.is_dir():
                    yield from self._walk(Path(entry.path), f"{name}/", above | {real})
                    continue
                # Of a link to nothing this tells.
                status = entry.stat()
                if entry.is_file():
                    yield name, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        except OSError as error:
            raise TrainingError(
                f"{error.filename or str(folder)!r} cannot be read: {error.strerror or error}.",
                "See that it is there and that you may read it.",
            ) from error

    @cached_property
    def names(self) -> Sequence[str]:
        """Of all files, sorted."""
        return [found[0] for found in self._found]

    def read(self, name: str) -> bytes:
        """The content of a file."""
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise TrainingError(
                f"{str(self.folder / name)!r} cannot be read: {error.strerror or error}.",
                "See that the file is there and that you may read it.",
            ) from error

    def stamp(self) -> object:
        """Folder, and name and state of each file."""
        return [str(self.folder.resolve()), self._found]


@dataclass(frozen=True)
class ZipFiles:
    """The files inside a zip file, read where they are: no name in it is ever used as a path."""

    path: Path
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def source(self) -> str:
        """The zip file, for messages."""
        return repr(str(self.path))

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise TrainingError(
                f"{self.source} cannot be read as a zip file: {str(error).rstrip('.')}.",
                f"{_AGAIN.rstrip('.')}: it may be cut short.",
            ) from error

    @cached_property
    def names(self) -> Sequence[str]:
        """Of all files, sorted.

        Raises:
            TrainingError: the file is no whole zip file, or holds a name that leads out of it or comes twice.
        """
        names = [info.filename for info in self._archive.infolist() if not info.is_dir()]
        for name in names:
            parts = PurePosixPath(name).parts
            if name.startswith("/") or "\\" in name or ".." in parts or (parts and ":" in parts[0]):
                raise TrainingError(
                    f"{self.source} holds the name {name!r}, which leads out of it.",
                    "Do not trust this file: get it from its source again.",
                )
        if len(set(names)) < len(names):
            raise TrainingError(f"{self.source} holds a name more than once.", "Pack it anew.")
        return sorted(name for name in names if not any(map(_is_hidden, PurePosixPath(name).parts)))

    def read(self, name: str) -> bytes:
        """The content of a file, its checksum checked."""
        try:
            with self._lock:
                return self._archive.read(name)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise TrainingError(f"{name!r} in {self.source} cannot be read: {error}.", _AGAIN) from error

    def stamp(self) -> object:
        """Path and state of the zip file."""
        return file_stamp(self.path)


def file_stamp(path: Path) -> list[str | int]:
    """Path, size in bytes, and times of change of the content and of what is known of it, in nanoseconds.

    The last cannot be set: what unpacks or copies a file may give it an old time of change, but not an old one of that.

    Raises:
        TrainingError: there is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise TrainingError(
            f"{str(path)!r} cannot be read: {error.strerror or error}.",
            "See that the file is there and that you may read it.",
        ) from error
    return [str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
