"""A log of every request, so that tests can count them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from wandb_server.faults import Kind
from wandb_server.values import JsonObject


@dataclass(frozen=True)
class Logged:
    """One request: a GraphQL operation, ``file_stream``, ``PUT`` or ``GET``; status 0 is a dropped connection."""

    name: str
    variables: JsonObject
    status: int
    fault: Kind | None = None


class OperationLog:
    """Requests in the order in which they were answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Logged] = []

    def add(self, entry: Logged) -> None:
        """Log one request."""
        with self._lock:
            self._entries.append(entry)

    def all(self) -> list[Logged]:
        """Every request."""
        with self._lock:
            return list(self._entries)

    def of(self, name: str) -> list[Logged]:
        """Requests of one operation."""
        return [entry for entry in self.all() if entry.name == name]

    def counts(self) -> Counter[str]:
        """How often each operation was asked for."""
        return Counter(entry.name for entry in self.all())

    def clear(self) -> None:
        """Forget what was logged, to count from here."""
        with self._lock:
            self._entries.clear()
