"""A change to the whole process, such as an environment variable, that several threads may need at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


class SharedContext:
    """A context that is entered with the first thread inside and left with the last.

    Were each thread to save what it finds and put it back, the last would put back what another had set.

    Args:
        make: makes the context.

    >>> from contextlib import nullcontext
    >>> context = SharedContext(nullcontext)
    >>> with context(), context():
    ...     pass
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0
        self._context: AbstractContextManager[object] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Be inside while the block runs."""
        with self._lock:
            if self._context is None:
                self._context = self._make()
                self._context.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    context, self._context = self._context, None
                    context.__exit__(None, None, None)
