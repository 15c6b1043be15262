"""Which runs without a result are in the hands of a launch that is made elsewhere, and so are to be left alone.

A launch knows how the tasks of its own folder stand. Of tasks that were launched from another folder or machine it sees
only their runs, each of which names its task (its owner). A run that was written to a short while ago is taken for one
that goes on.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

#: Seconds without a sign of life after which the run of an unknown launch counts as left. Writers send at the latest
#: 15 s after a point was logged, but a user's own program may log only when it evaluates, and a task that made room
#: waits for its next turn, so the minute after which a single run may be taken up (`claim.SILENT_S`) is too short. The
#: hour after which a run is shown as stale (`assemble.STALE_AFTER_S`) would keep who lost a launch's folder waiting.
BUSY_S = 600.0


def launch_of(owner: str) -> str:
    """The launch of a task's name.

    >>> launch_of("20261122-181500-1a2b/7")
    '20261122-181500-1a2b'
    """
    return owner.partition("/")[0]


def is_busy(owner: str, stamps_ms: Iterable[float], ended: Collection[str] = ()) -> bool:
    """Whether a run without a result is to be taken for one that a task is at work on.

    Args:
        owner: the task's name, empty for a run of no task, which is never busy. stamps_ms: when the run was written to,
            in milliseconds since 1970. Of clocks that go wrong, and of programs that stamp points by something else, a
            time in the future says no more than one long ago. ended: launches that are known to be over.

    >>> now = 1000 * time.time()
    >>> is_busy("one/0", [0, now - 1000]), is_busy("one/0", [0, now - 1000], ended=["one"]), is_busy("", [now])
    (True, False, False)
    >>> is_busy("one/0", [now - 3_600_000, now + 10**12])
    False
    """
    if not owner or launch_of(owner) in ended:
        return False
    now_ms = 1000 * time.time()
    return any(abs(now_ms - stamp) < 1000 * BUSY_S for stamp in stamps_ms)
