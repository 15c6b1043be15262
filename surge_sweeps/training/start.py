"""Where runs start: a fresh model from a seed, or a checkpoint shared by all seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from surge_sweeps.training.checkpoint import load_checkpoint, restore
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.evaluation import evaluate
from surge_sweeps.training.workloads.base import Workload

#: Keeps initial parameters apart from other uses of the same seed.
_STREAM = 0


@dataclass(frozen=True, eq=False)
class Start:
    """A model before its first step.

    Attributes:
        model: its parameters are the start; training copies of it is up to the caller.
        loss: its evaluation loss.
        checkpoint: content hash of the checkpoint it comes from; None from scratch.
    """

    model: nn.Module
    loss: float
    checkpoint: str | None = None


def starts(workload: Workload, configs: Sequence[TrialConfig]) -> dict[int, Start]:
    """The start of every seed among `configs`, which differ in learning rate and seed alone.

    Seeds that branch from a checkpoint share one start, and so one start loss, to the bit.

    Raises:
        TrainingError: the checkpoint cannot be used.
    """
    seeds = sorted({config.seed for config in configs})
    first = configs[0]
    if first.init_from is None:
        return {seed: _from_seed(workload, first, seed) for seed in seeds}
    branch = _from_checkpoint(workload, first, Path(first.init_from))
    return dict.fromkeys(seeds, branch)


def _from_seed(workload: Workload, config: TrialConfig, seed: int) -> Start:
    source = np.random.SeedSequence(seed, spawn_key=(_STREAM,))
    generator = torch.Generator().manual_seed(int(source.generate_state(1)[0]))
    fresh = workload.build_model(config.model, generator)
    return Start(fresh, evaluate(workload, fresh, config.precision))


def _from_checkpoint(workload: Workload, config: TrialConfig, path: Path) -> Start:
    checkpoint = load_checkpoint(path)
    branch = workload.build_model(config.model, torch.Generator())
    restore(checkpoint, branch, config, workload.digest)
    return Start(branch, evaluate(workload, branch, config.precision), checkpoint.hash)
