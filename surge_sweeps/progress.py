"""How long work tells how far it is; who calls decides what is shown."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (work done, work in all, what is going on); the unit of work is the caller's own, its ratio counts.
ProgressCallback = Callable[[float, float, str], None]


def no_progress(done: float, total: float, text: str) -> None:
    """Show nothing."""
