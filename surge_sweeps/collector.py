"""The garbage collector in a program of ours: it looks through what was imported neither as that loads nor at the end.

Half a million objects come with torch and MLflow and stay for good. Python looks through them again and again as they
come, and once more as the program ends: two fifths of what a trial of a few steps costs.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def collected_lightly() -> Iterator[Callable[[], None]]:
    """Around a whole program, never around part of somebody else's: objects that exist at its end are not looked at.

    Yields what is to be called once the program has loaded what it needs: from then on garbage is collected as usual.

    >>> import gc
    >>> with collected_lightly() as loaded:
    ...     before = gc.isenabled()
    ...     loaded()
    ...     (before, gc.isenabled())
    (False, True)
    >>> gc.unfreeze()
    """
    was_enabled = gc.isenabled()
    gc.disable()

    def loaded() -> None:
        gc.freeze()
        if was_enabled:
            gc.enable()

    try:
        yield loaded
    finally:
        loaded()
