"""Where data sets lie, and where what was read from them is kept."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "SURGE_DATA_DIR"
CACHE_VARIABLE = "SURGE_CACHE_DIR"


def data_folder() -> Path:
    """Where relative `data` paths and known data sets are looked for: SURGE_DATA_DIR, else `data` in this folder."""
    return Path(os.environ.get(DATA_VARIABLE) or "data")


def cache_folder() -> Path:
    """Where decoded images and tokens are kept: SURGE_CACHE_DIR, else `.surge/cache` in the working folder.

    All of it can be made again: deleting it costs time alone.
    """
    return Path(os.environ.get(CACHE_VARIABLE) or Path(".surge") / "cache")


def find_path(text: str) -> Path:
    """Where a path that the user gave leads: an absolute one as it is; others below the data folder or, where it is not
    there, below the working folder. What is in neither is named as it would be in the data folder.
    """
    path = Path(text).expanduser()
    below = data_folder() / path
    return path if not below.exists() and path.exists() else below
