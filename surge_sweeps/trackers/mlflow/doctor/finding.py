"""One thing that was found in a store, as the user reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from surge_sweeps.progress import ProgressCallback


@dataclass(frozen=True)
class Finding:
    """What was found, what it means, and what can be done.

    Attributes:
        code: its name in JSON, such as `stale-runs`.
        what: what was found. meaning: why it matters. remedy: what mending does, or what the user can do.
        is_fault: something is wrong or gives wrong results; else it is only good to know.
        items: the runs or metrics meant.
        mend: does it, tells how far it is, and returns what was done; None where only the user can. Raises
            `TrackerError`.
    """

    code: str
    what: str
    meaning: str
    remedy: str
    is_fault: bool = True
    items: tuple[str, ...] = ()
    mend: Callable[[ProgressCallback], str] | None = None


@dataclass(frozen=True)
class Examination:
    """All findings of a store, and how much was looked at.

    Attributes:
        store: its URI without secrets. runs, experiments: active ones. points: about how many, None where the store
            cannot say.
    """

    store: str
    runs: int
    experiments: int
    points: int | None
    findings: list[Finding]
