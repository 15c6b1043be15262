"""Ctrl-C, SIGTERM and a closed terminal, heard between two writes and never in the middle of one.

An exception raised inside a database transaction would leave it open and the store locked, so a first signal only
leaves a note that the launch looks at when it is safe. A second one does not wait.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: How long a launch waits for work before it looks for a request to stop.
POLL_SECONDS = 0.2


class Stopped(Exception):
    """The user asked the launch to stop."""


class StopRequest:
    """Whether the user has asked to stop."""

    def __init__(self) -> None:
        self._requested = False

    @property
    def is_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._requested

    def check(self) -> None:
        """Raise `Stopped` if a stop was asked for. Call where nothing is half done."""
        if self._requested:
            raise Stopped

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        # Plain write: a signal handler must not touch the streams that the interrupted code may be using.
        # The terminal may have been closed.
        with suppress(OSError):
            os.write(2, b"\nstopping once what is being written is written; once more stops at once\n")


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGHUP into a `StopRequest` while the block runs.

    Outside the main thread none can come, and SIGHUP that is ignored stays so: that is what `nohup` is for.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heard = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    before = {number: signal.signal(number, request._handle) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
