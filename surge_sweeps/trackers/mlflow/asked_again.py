"""Saying that a server is asked again, in our words: urllib3 repeats a request in silence, or with a line of its own.

Its line names objects in memory, for each attempt and thread, and says nothing of a server that answers "busy".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from surge_sweeps.trackers.mlflow.shared_context import SharedContext
from surge_sweeps.trackers.mlflow.uri import display_uri

_EVERY_S = 60.0
#: What urllib3 says of a broken connection, and, for its own authors, of an answer that asks to come back later.
_BROKEN, _BUSY = "Retrying (", "Retry: "
_urllib3 = logging.getLogger("urllib3.connectionpool")
_log = logging.getLogger(__name__)
_asked: ContextVar[str | None] = ContextVar("surge_asked_server", default=None)
_lock = threading.Lock()
_told_s: dict[str, float] = {}


@contextmanager
def say_when_asked_again(uri: str) -> Iterator[None]:
    """Warn, at most once a minute, when a request inside that urllib3 makes to the server is repeated."""
    token = _asked.set(display_uri(uri))
    try:
        with _listening():
            yield
    finally:
        _asked.reset(token)


class _Listener(logging.Filter):
    """Takes what is said of repeated requests out of urllib3's log; the rest passes as it did before."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        server, text = _asked.get(), str(record.msg)
        if server is not None and text.startswith((_BROKEN, _BUSY)):
            _tell(server, "is busy" if text.startswith(_BUSY) else "does not answer")
            return self._level <= logging.DEBUG
        return record.levelno >= self._level


def _tell(server: str, what: str) -> None:
    now_s = time.monotonic()
    with _lock:
        if now_s - _told_s.get(server, -_EVERY_S) < _EVERY_S:
            return
        _told_s[server] = now_s
    _log.warning("the MLflow server %s %s; it is asked again", server, what)


@contextmanager
def _with_listener() -> Iterator[None]:
    before = _urllib3.level
    listener = _Listener(_urllib3.getEffectiveLevel())
    _urllib3.addFilter(listener)
    _urllib3.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        _urllib3.removeFilter(listener)
        _urllib3.setLevel(before)


_listening = SharedContext(_with_listener)
