"""What is wrong with the cache, told at the terminal once: the result is the same, but the next call takes longer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from surge_sweeps.cli.console import say
from surge_sweeps.curve_cache import CacheWarning


@contextmanager
def cache_notes() -> Iterator[None]:
    """Print the first warning of the cache as a line, even where the rest is quiet; other warnings stay as they are."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CacheWarning)
            yield
    finally:
        ours = [str(one.message) for one in caught if issubclass(one.category, CacheWarning)]
        if ours:
            say(f"  warning: {ours[0]}. The result is the same. To go without a cache: --no-cache.")
        for one in caught:
            if not issubclass(one.category, CacheWarning):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno, source=one.source)
