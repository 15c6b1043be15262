"""What can be read out of a kept folder, which is filled again where it turns out to be damaged."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.kept_folders import kept_folder
from surge_sweeps.training.data.places import CACHE_VARIABLE

T = TypeVar("T")


def kept_value(
    kind: str, key: Mapping[str, object], make: Callable[[Path], None], read: Callable[[Path], T | None]
) -> T:
    """What `read` makes of `kept_folder(kind, key, make)`.

    Args:
        read: None for a folder whose files are missing, torn or no longer what was written.

    Raises:
        TrainingError: as `kept_folder`, or what was just written cannot be read back.
    """
    value = read(kept_folder(kind, key, make))
    if value is None:
        _discard(kept_folder(kind, key, make))
        value = read(kept_folder(kind, key, make))
    if value is None:
        raise TrainingError(
            f"what was kept in {str(kept_folder(kind, key, make))!r} cannot be read back as it was written.",
            f"Set {CACHE_VARIABLE} to a folder on another disk.",
        )
    return value


def _discard(folder: Path) -> None:
    # Moved away first, in one step: nobody is to find a folder that is half removed. Who reads files of it goes on.
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix="damaged-", ignore_cleanup_errors=True
    ) as away:
        try:
            folder.rename(Path(away) / folder.name)
        except FileNotFoundError:
            # Another process found the damage too, and was faster.
            return
        shutil.rmtree(Path(away) / folder.name, ignore_errors=True)
