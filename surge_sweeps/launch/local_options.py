"""What a user may choose about this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LocalOptions:
    """How this machine is shared between trials.

    Attributes:
        gpus: hand out so many of this machine's GPUs, or `all`; 0 hides them; None leaves them to the programs.
        trials_per_gpu: so many tasks share each GPU.
        pin_cpus: bind each task to so many cores of its own (Linux); None: the launch's --cpus-per-task, if given.
    """

    gpus: int | Literal["all"] | None = None
    trials_per_gpu: int = 1
    pin_cpus: int | None = None
