"""The sweep as it was first launched: a file that was edited since does not change the plan behind anyone's back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from surge_sweeps.launch.target import Target
from surge_sweeps.sweep import AXES, Sweep

#: The sweeps as launched, one file each, in the working folder.
FROZEN_FOLDER = Path(".surge") / "plans"


class FrozenSweep(NamedTuple):
    """A sweep as it goes on: `changes` are what its file says now, in words; empty where it says the same."""

    sweep: Sweep
    changes: list[str]


def read_frozen(file: Path, target: Target, *, anew: bool = False) -> FrozenSweep:
    """The sweep of a file as it was launched into a project from this folder; as it is now where it never was.

    Args:
        anew: take the file as it is now in any case.

    Raises:
        SweepFileError: the file, or what was kept of it, cannot be read.
    """
    sweep = Sweep.read(file)
    kept = _kept(file, target)
    if anew or not kept.is_file():
        return FrozenSweep(sweep, [])
    frozen = Sweep.read(kept)
    changes = list(differences(frozen, sweep))
    # A new name, or another project at the top of the file, does not make other trials.
    return FrozenSweep(frozen if changes else sweep, changes)


def freeze(file: Path, target: Target, sweep: Sweep) -> None:
    """From now on this is the sweep of that file. Call once it is known that its trials can run.

    Raises:
        SurgeError: the folder cannot be written.
    """
    header = f"{file.name} as it was launched; `surge-sweep launch --replan` replaces it."
    sweep.write(_kept(file, target), header=header)


def differences(old: Sweep, new: Sweep) -> Iterator[str]:
    """What of the trials differs between two sweeps, in words; names and places of runs do not count.

    >>> old = Sweep(lr=(0.1, 0.2), batch_size=(8,), seed=(0,), constants={"max_steps": 100})
    >>> new = Sweep(lr=(0.2, 0.4), batch_size=(8,), seed=(0,), constants={"max_steps": 200})
    >>> list(differences(old, new))
    ['lr: 0.4 added, 0.1 removed', 'max_steps: 100 is now 200']
    """
    for axis in AXES:
        before, after = getattr(old, axis), getattr(new, axis)
        added = ", ".join(f"{value:g}" for value in after if value not in before)
        removed = ", ".join(f"{value:g}" for value in before if value not in after)
        parts = [f"{values} {what}" for values, what in ((added, "added"), (removed, "removed")) if values]
        if parts:
            yield f"{axis}: {', '.join(parts)}"
    for name in sorted(old.constants.keys() | new.constants.keys()):
        if old.constants.get(name) != new.constants.get(name):
            yield f"{name}: {old.constants.get(name, 'unset')} is now {new.constants.get(name, 'unset')}"
    for name in ("program", "command", "loss"):
        if getattr(old, name) != getattr(new, name):
            yield f"{name}: {getattr(old, name)} is now {getattr(new, name)}"


def _kept(file: Path, target: Target) -> Path:
    """Where the sweep of a file is kept, for one project: the same file may be launched into several."""
    parts = [str(file.absolute()), target.tracker, target.project, target.store_id]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return target.working_folder / FROZEN_FOLDER / f"{name}.yaml"
