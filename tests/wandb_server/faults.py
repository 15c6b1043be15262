"""Faults on purpose: error statuses, dropped connections, slow answers and damaged downloads.

A fault is aimed at a GraphQL operation by its name, at ``file_stream``, ``PUT`` or ``GET`` (uploads and downloads),
or at ``*`` (everything).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from wandb_server.values import JsonObject

Kind = int | Literal["drop", "drop_after", "slow", "truncate", "corrupt"]
Where = Callable[[JsonObject], bool]
KINDS = ("drop", "drop_after", "slow", "truncate", "corrupt")


@dataclass
class Fault:
    """One planned fault and how often it is still to happen.

    ``kind``: an HTTP status (429 comes with Retry-After); ``drop`` closes the connection without doing or answering
    anything; ``drop_after`` does what was asked, then closes it; ``slow`` answers after ``seconds``; ``truncate``
    sends half of a download, then closes; ``corrupt`` sends a download with its bytes changed.
    """

    operation: str
    kind: Kind
    times: int
    seconds: float
    where: Where | None
    happened: int = 0


class Faults:
    """The plan: faults are used up in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plan: list[Fault] = []

    def add(
        self,
        operation: str,
        kind: Kind,
        times: int = 1,
        *,
        seconds: float = 1.0,
        where: Where | None = None,
    ) -> Fault:
        """Plan a fault for the next ``times`` requests of an operation.

        ``seconds``: the delay of ``slow``, the Retry-After of 429 (whole seconds, rounded up). ``where``: only
        requests whose variables pass (for ``PUT``, ``GET`` and ``file_stream``: ``{"path": ...}``). The fault
        returned counts in ``happened``.
        """
        if not isinstance(kind, int) and kind not in KINDS:
            raise ValueError(f"unknown kind of fault {kind!r}; known: an HTTP status, {', '.join(KINDS)}")
        fault = Fault(operation, kind, times, seconds, where)
        with self._lock:
            self._plan.append(fault)
        return fault

    def take(self, operation: str, variables: JsonObject) -> Fault | None:
        """The fault for this request, if one is planned."""
        with self._lock:
            for fault in self._plan:
                if fault.operation not in ("*", operation) or fault.happened >= fault.times:
                    continue
                if fault.where is None or fault.where(variables):
                    fault.happened += 1
                    return fault
        return None

    def pending(self) -> list[Fault]:
        """Faults that have not happened as often as planned: a test that ends with some tested nothing."""
        with self._lock:
            return [fault for fault in self._plan if fault.happened < fault.times]

    def clear(self) -> None:
        """Drop the plan."""
        with self._lock:
            self._plan.clear()
