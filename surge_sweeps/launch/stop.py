"""Ctrl-C and SIGTERM, heard between two writes and never in the middle of one.

An exception raised inside a database transaction would leave it open and the store locked, so a first signal only
leaves a note that the launch looks at when it is safe. A second one does not wait.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: How long a launch waits for work before it looks for a request to stop.
POLL_SECONDS = 0.2


class Stopped(Exception):
    """The user asked the launch to stop."""


class StopRequest:
    """Whether the user has asked to stop."""

    def __init__(self) -> None:
        self._requested = False

    def check(self) -> None:
        """Raise `Stopped` if a stop was asked for. Call where nothing is half done."""
        if self._requested:
            raise Stopped

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        # Plain write: a signal handler must not touch the streams that the interrupted code may be using.
        os.write(2, b"\nstopping once what is being written is written; once more stops at once\n")


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C, which the terminal sends to them as well: their parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a `StopRequest` while the block runs; outside the main thread none can come."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
