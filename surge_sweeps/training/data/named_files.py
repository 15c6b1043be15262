"""The files below a folder, or inside a zip file, under names with slashes; zip files are never unpacked.

And what names say of files: to which part of a data set they belong, as in `train-00000-of-00002.parquet` and
`test/0000.parquet`.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import NamedTuple, Protocol

from surge_sweeps.errors import TrainingError

_AGAIN = "Get the file again."
_TRAIN = "train"
_VALIDATION = "validation"
_TEST = "test"
#: Word of a name -> the part that it stands for.
_WORDS = {
    "train": _TRAIN,
    "training": _TRAIN,
    "validation": _VALIDATION,
    "valid": _VALIDATION,
    "val": _VALIDATION,
    "dev": _VALIDATION,
    "test": _TEST,
}


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
            raise TrainingError(f"{self.source} cannot be read as a zip file: {error}.", _AGAIN) from error

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


class FileParts(NamedTuple):
    """Files to train on and files to evaluate on; where none are held out, all files are among the first."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def divide(files: Sequence[Path], name: str, *, is_test_first: bool) -> FileParts:
    """Divide files by their names: a part is a word of a file's name or, if there is none, of a folder's around it.

    The words are train, training; validation, valid, val, dev; test. Of the folders, only those below the one that
    holds all files count, the nearest first. Files that are all of one part, or of which none names a
    held-out part, are not divided. Where there are a validation and a test part, one of them is left out.

    Args:
        files: in their order, which is kept. name: what they lie in, for messages.
        is_test_first: which of the two is evaluated on.

    Raises:
        TrainingError: held-out files beside files of no part, or without any of the training part; or a name of
            several parts. Such files are not merged: the held-out ones would be trained on.

    >>> files = [Path("wiki/test.txt"), Path("wiki/train.txt"), Path("wiki/valid.txt")]
    >>> divided = divide(files, "'wiki'", is_test_first=False)
    >>> [path.name for path in divided.train], [path.name for path in divided.held_out]
    (['train.txt'], ['valid.txt'])
    """
    if len(files) < 2:
        return FileParts(tuple(files), ())
    above = Path(os.path.commonpath([path.parent for path in files]))
    found: dict[str | None, list[Path]] = {}
    for path in files:
        found.setdefault(_part(path, above, name), []).append(path)
    if len(found) == 1 or not (_VALIDATION in found or _TEST in found):
        return FileParts(tuple(files), ())
    if None in found or _TRAIN not in found:
        raise TrainingError(
            f"it is not clear which files of {name} are to train on: {_counted(found)}.", _HELP
        )
    order = (_TEST, _VALIDATION) if is_test_first else (_VALIDATION, _TEST)
    return FileParts(tuple(found[_TRAIN]), tuple(next(found[part] for part in order if part in found)))


_HELP = (
    "Name the files to train on by a pattern or a folder of their own, and those to evaluate on with eval_data; or name"
    " every file after its part: train, validation or test."
)


def _part(path: Path, above: Path, name: str) -> str | None:
    for called in reversed(path.relative_to(above).parts):
        parts = sorted({_WORDS[word] for word in re.split("[^a-z0-9]+", called.lower()) if word in _WORDS})
        if len(parts) > 1:
            raise TrainingError(
                f"the name {called!r} in {name} speaks of several parts: {' and '.join(parts)}.", _HELP
            )
        if parts:
            return parts[0]
    return None


def _counted(found: Mapping[str | None, Sequence[Path]]) -> str:
    """How many files there are of each part.

    >>> _counted({"test": [Path("test.txt")], None: [Path("a.txt"), Path("b.txt")]})
    "1 of test ('test.txt'), 2 of no part ('a.txt', ...)"
    """
    counts = (
        f"{len(paths):,} of {part or 'no part'} ({paths[0].name!r}{', ...' if len(paths) > 1 else ''})"
        for part, paths in found.items()
    )
    return ", ".join(counts)
