"""Where `.wandb` files are in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".wandb"
#: Folders below the one given that are looked into: results/trial/wandb/offline-run-x is three deep in results' parent.
_DEPTH = 3


def is_offline_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there are W&B runs to read at a path without a server: a `.wandb` file, or a folder that holds some.

    >>> is_offline_folder("team/project")
    False
    """
    return next(_walk(Path(path), _DEPTH), None) is not None


def find_files(path: Path) -> list[Path]:
    """The `.wandb` files at a path, sorted, each once: `latest-run` and other links lead to files found already.

    >>> find_files(Path("/no/such/folder"))
    []
    """
    found: dict[Path, Path] = {}
    for file in sorted(_walk(path, _DEPTH), key=lambda file: (_linked(path, file), file)):
        found.setdefault(file.resolve(), file)
    return sorted(found.values())


def _linked(top: Path, file: Path) -> bool:
    """Whether a link stands between a folder and a file below it."""
    return any(part.is_symlink() for part in [file, *file.parents][: len(file.parts) - len(top.parts)])


def _walk(path: Path, depth: int) -> Iterator[Path]:
    """The files at a path; a place that is not there, or that another user keeps closed, holds none."""
    try:
        if path.is_file():
            entries, files = [], [path]
        else:
            below = sorted(path.iterdir())
            entries = [entry for entry in below if entry.is_dir() and not entry.name.startswith(".")]
            files = [entry for entry in below if entry.is_file()]
    except (OSError, ValueError):
        return
    yield from (file for file in files if file.suffix == SUFFIX)
    for entry in entries if depth else ():
        yield from _walk(entry, depth - 1)
