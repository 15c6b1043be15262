"""Trials grouped for the ensemble trainer: those that differ in learning rate and seed alone train at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surge_sweeps.sweep import Sweep, Trial

# What a training step and the writing of a run cost, in examples trained. Rough figures of a small network on one
# core; only the progress bar and the order of work depend on them.
STEP_COST_EXAMPLES = 32
RUN_COST_EXAMPLES = 25_000


@dataclass(frozen=True)
class Pack:
    """Trials of one batch size of one sweep that train together in one process."""

    sweep_id: str
    trials: tuple[Trial, ...]

    @property
    def cost(self) -> float:
        """Work in examples: an upper bound on those trained, plus the fixed costs of steps and runs."""
        total = float(RUN_COST_EXAMPLES * len(self.trials))
        for trial in self.trials:
            examples = trial.cost_examples or trial.batch_size
            total += examples * (1 + STEP_COST_EXAMPLES / trial.batch_size)
        return total

    @property
    def label(self) -> str:
        """For the progress bar."""
        return f"batch {self.trials[0].batch_size}, {len(self.trials)} runs"


def make_packs(sweep: Sweep, pending: Sequence[Trial], trials_per_pack: int) -> list[Pack]:
    """Split `pending` by batch size into packs of at most `trials_per_pack`, as even in size as possible.

    >>> sweep = Sweep(lr=(0.1, 0.2, 0.3), batch_size=(4, 8), seed=(0,))
    >>> [len(pack.trials) for pack in make_packs(sweep, sweep.trials(), 2)]
    [1, 2, 1, 2]
    """
    packs: list[Pack] = []
    for batch_size in sweep.batch_size:
        same = [trial for trial in pending if trial.batch_size == batch_size]
        count = -(-len(same) // trials_per_pack)
        for index in range(count):
            start, stop = (len(same) * index) // count, (len(same) * (index + 1)) // count
            packs.append(Pack(sweep.sweep_id, tuple(same[start:stop])))
    return packs
