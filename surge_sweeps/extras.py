"""Optional dependencies: imported at first use, and a missing one named with the pip line that mends it."""

from __future__ import annotations

import importlib
from types import ModuleType

from surge_sweeps.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which belongs to the optional dependency group `extra`.

    Raises:
        MissingExtraError: the module, or something it needs, is not installed.

    >>> require("json", "train").__name__
    'json'
    >>> require("no_such_module", "train")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.MissingExtraError: the package 'no_such_module' is not installed.
        Install it with: pip install 'surge-sweeps[train]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the package {error.name or module!r} is not installed.",
            f"Install it with: pip install 'surge-sweeps[{extra}]'",
        ) from error
