"""The places on this machine in which tasks run at the same time: each with GPUs and cores of its own where asked."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.gpus import VISIBLE

THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Slot:
    """One place.

    Attributes:
        gpus: what its programs see of the GPUs, in CUDA's names; None leaves them all visible. cores: those it is
            pinned to; None leaves that to the system.
    """

    gpus: tuple[str, ...] | None = None
    cores: tuple[int, ...] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """What its programs are told.

        >>> Slot(("1",), (4, 5)).environment
        {'CUDA_VISIBLE_DEVICES': '1', 'OMP_NUM_THREADS': '2'}
        """
        told = {} if self.gpus is None else {VISIBLE: ",".join(self.gpus)}
        return told if self.cores is None else {**told, THREADS: str(len(self.cores))}

    def pin(self) -> None:
        """Bind the calling thread, and every program that it starts from now on, to the cores of this place."""
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)

    def __str__(self) -> str:
        gpus = [] if self.gpus is None else [f"GPU {', '.join(self.gpus)}" if self.gpus else "no GPU"]
        cores = [] if self.cores is None else [f"cores {','.join(map(str, self.cores))}"]
        return "; ".join(gpus + cores) or "any core"


def make_slots(
    size: int | None, gpus: Sequence[str] | None, gpus_per_task: float, cpus_per_task: int | None
) -> list[Slot]:
    """Cut this machine into places.

    Args:
        size: how many; None: as many as the GPUs, or else the cores, give. gpus: those to hand out; None: GPUs are not
            looked at. gpus_per_task: below 1, several tasks share one. cpus_per_task: pin each to so many cores.

    Raises:
        SurgeError: there are too few GPUs or cores for it, or this system cannot pin.

    >>> [str(slot) for slot in make_slots(None, ["0", "1"], 0.5, None)]
    ['GPU 0', 'GPU 1', 'GPU 0', 'GPU 1']
    """
    shares = None if gpus is None else _shares(gpus, gpus_per_task)
    most = len(shares) if shares else None
    if size is not None and most is not None and size > most:
        raise SurgeError(
            f"{counted(size, 'task')} at a time were asked for, and {counted(len(gpus or ()), 'GPU')} "
            f"hold {most} ({gpus_per_task:g} GPU a task).",
            f"Ask for {most} at most, or let more of them share a GPU.",
        )
    cores = None if cpus_per_task is None else _cores()
    count = size or most or max(1, len(cores or _allowed()) // (cpus_per_task or 1))
    if cores is not None and cpus_per_task is not None and count * cpus_per_task > len(cores):
        raise SurgeError(
            f"{count} x {counted(cpus_per_task, 'core')} were asked for, and this process may use {len(cores)}.",
            "Ask for fewer agents, or for fewer cores each.",
        )
    return [
        Slot(
            None if shares is None else (shares[number] if shares else ()),
            None
            if cores is None or cpus_per_task is None
            else tuple(cores[number * cpus_per_task : (number + 1) * cpus_per_task]),
        )
        for number in range(count)
    ]


def available_cores() -> int:
    """Cores this process may use."""
    return len(_allowed())


def _shares(gpus: Sequence[str], each: float) -> list[tuple[str, ...]]:
    """What each task sees of the GPUs; the first ones get GPUs of their own before any is shared."""
    if not gpus or each <= 0:
        return []
    if each < 1:
        return [(gpu,) for _ in range(int(1 / each + 1e-9)) for gpu in gpus]
    if not float(each).is_integer():
        raise SurgeError(f"{each:g} GPUs a task were asked for.", "Above 1 it must be a whole number.")
    if each > len(gpus):
        raise SurgeError(
            f"{each:g} GPUs a task were asked for, and there are {len(gpus)}.",
            f"Ask for {len(gpus)} at most.",
        )
    whole = int(each)
    return [tuple(gpus[start : start + whole]) for start in range(0, len(gpus) - whole + 1, whole)]


def _cores() -> list[int]:
    if not hasattr(os, "sched_setaffinity"):
        raise SurgeError(
            "this system cannot pin a process to cores.", "Only Linux can: leave --cpus-per-task away."
        )
    return sorted(_allowed())


def _allowed() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
