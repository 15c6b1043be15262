"""What is made of a data set once and kept, told before it begins: fetching, decoding, tokenising may take minutes.

By default a line goes to standard error, so that it stands in the log of whatever runs. A command that talks to a user
listens itself, and shows how far it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.training.data.places import CACHE_VARIABLE, cache_folder

#: Called with a word for the work and a sentence on it; what it gives is told how far the work is, while it goes on.
Listener = Callable[[str, str], AbstractContextManager[ProgressCallback]]


def _print_line(_work: str, sentence: str) -> AbstractContextManager[ProgressCallback]:
    print(sentence, file=sys.stderr, flush=True)
    return nullcontext(no_progress)


_listener: ContextVar[Listener] = ContextVar("surge_making", default=_print_line)


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """What is made inside the block, by this thread, is told to a listener.

    >>> with told_to(lambda work, sentence: nullcontext(no_progress)):
    ...     with making("decoding", "9 images of 'cats.zip'") as progress:
    ...         progress(9, 9, "")
    """
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def making(work: str, what: str, kept_in: str | None = None) -> AbstractContextManager[ProgressCallback]:
    """Tell that something is made now which is kept.

    Args:
        work: a word, such as `decoding`. what: of how much, and of what.
        kept_in: where it stays, and what sets that place. Default: the cache of these data.

    Returns:
        What to make it in; its callback may be told how far it is, of nothing (0) where that is not known.
    """
    kept_in = kept_in or f"{str(cache_folder())!r} ({CACHE_VARIABLE})"
    sentence = f"{work} {what}, once; it is kept in {kept_in}."
    return _listener.get()(work, sentence)
