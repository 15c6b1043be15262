"""Built-in workloads, the training loop, and the ensemble trainer that trains many learning rates and seeds at once.

This package needs the extra `train`; nothing else in `surge_sweeps` imports torch. Its names are loaded at first use,
so that a missing torch is told in one sentence.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from surge_sweeps.extras import require

if TYPE_CHECKING:
    from surge_sweeps.training.config import TrialConfig
    from surge_sweeps.training.reference import train_to_losses
    from surge_sweeps.training.threads import limit_threads
    from surge_sweeps.training.trainer import run_config, train, train_streaming

__all__ = ["TrialConfig", "limit_threads", "run_config", "train", "train_streaming", "train_to_losses"]

_HOMES = {
    "TrialConfig": "config",
    "limit_threads": "threads",
    "run_config": "trainer",
    "train": "trainer",
    "train_streaming": "trainer",
    "train_to_losses": "reference",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("torch", "train")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
