"""Two observables that must be asked for: the final loss at a fixed budget, and the gain after reaching a loss.

The gain after a crossing is the protocol of Li et al. 2024 (arXiv 2405.14578, section 3): every run goes on for the
same number of steps after it first reaches the loss. The runs then differ in where they stand, not only in learning
rate and batch size, so its optima need not agree with those of branches from one common checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from surge_sweeps.counting import counted
from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting.observables.divergence import (
    diverged_at_finite_loss,
    finite_divergence_note,
    with_diverged,
)
from surge_sweeps.fitting.observables.responses import (
    FloatArray,
    Responses,
    interpolated_losses,
    running_minimum,
    steps_to_losses,
)
from surge_sweeps.fitting.observables.targets import Target, TargetRuns, usable_losses

#: Runs whose examples differ by less than this share of the budget had the same budget.
_SAME_BUDGET = 0.02


def final_target(curves: LossCurves, horizon_steps: int | None = None) -> tuple[TargetRuns | None, list[str]]:
    """The loss of each run at the end of the budget that most runs share, and what was found wrong.

    Args:
        curves: runs of one group, from scratch.
        horizon_steps: take the loss at this step; None takes the runs' own end: the examples that most runs saw or,
            where more runs agree on them, the steps.
    """
    lowest = running_minimum(curves)
    steps = lowest.last_steps()
    if horizon_steps is not None:
        budget = np.full(steps.shape, float(horizon_steps))
        reached = steps >= horizon_steps
    else:
        examples = steps * curves.runs["batch_size"].to_numpy(float)
        by_examples, by_steps = _share_mode(examples), _share_mode(steps)
        reached = by_examples if by_examples.sum() >= by_steps.sum() else by_steps
        budget = steps
    loss = np.where(reached, interpolated_losses(curves, budget), np.nan)
    diverged = (curves.runs["status"] == "diverged").to_numpy() | diverged_at_finite_loss(curves.runs, loss)
    keep = reached | diverged
    if not reached.any():
        return None, [f"no run has {horizon_steps} steps: choose a smaller --horizon-steps"]
    problems = []
    if not keep.all():
        problems.append(
            f"{counted(int((~keep).sum()), 'run')} ended at another budget than most: left out of the final loss"
        )
    kept = with_diverged(curves, diverged).select(pd.Series(keep, index=curves.runs.index))
    values = np.where(diverged, np.nan, loss)[keep][:, None]
    problems += finite_divergence_note(curves.runs, diverged)
    shared = horizon_steps if horizon_steps is not None else _one_step_count(steps[reached])
    target = Target("final", None, shared)
    return TargetRuns((target,), kept, Responses(values, np.isnan(values))), problems


def _share_mode(amounts: FloatArray) -> np.ndarray:
    """Which runs share the amount that most runs have, within 2%."""
    finite = amounts[np.isfinite(amounts) & (amounts > 0)]
    if not finite.size:
        return np.zeros(amounts.shape, dtype=bool)
    counts = [np.count_nonzero(np.abs(finite - one) <= _SAME_BUDGET * one) for one in np.unique(finite)]
    mode = np.unique(finite)[int(np.argmax(counts))]
    return np.asarray(np.abs(amounts - mode) <= _SAME_BUDGET * mode)


def _one_step_count(steps: FloatArray) -> int | None:
    return int(steps[0]) if np.all(steps == steps[0]) else None


def crossing_targets(
    curves: LossCurves, horizon_steps: int | None, losses: Sequence[float] | None = None
) -> tuple[TargetRuns | None, list[str]]:
    """The loss decrease over K steps after the first crossing of each loss, and what was found wrong.

    A run that never reaches the loss, or diverges within the K steps, is censored; one that ends before them counts
    as never reaching it and is counted in the problems.

    Args:
        curves: runs of one group, from scratch.
        horizon_steps: K.
        losses: take these instead of choosing.
    """
    if horizon_steps is None:
        return None, [
            "the gain of runs from scratch counts from where they reach a loss and needs a number of steps: give"
            " --horizon-steps (the paper takes 10 to 300)"
        ]
    chosen, problems = usable_losses(curves, losses)
    if not chosen:
        return None, problems
    crossed = np.exp(steps_to_losses(running_minimum(curves), chosen).values)
    last = running_minimum(curves).last_steps()
    targets, columns = [], []
    for column, loss in enumerate(chosen):
        end = crossed[:, column] + horizon_steps
        short = np.isfinite(end) & (end > last) & (curves.runs["status"] != "diverged").to_numpy()
        if short.any():
            problems.append(
                f"{counted(int(short.sum()), 'run')} ended before {horizon_steps} steps after loss {loss:g}: "
                "counted as without a gain there; train on after the target"
            )
        with np.errstate(invalid="ignore"):
            gain = loss - interpolated_losses(curves, np.where(end <= last, end, np.nan))
        columns.append(np.where(np.isfinite(gain), gain, np.nan))
        targets.append(Target("gain", float(loss), horizon_steps, "crossing"))
    values = np.stack(columns, axis=1)
    return TargetRuns(tuple(targets), curves, Responses(values, np.isnan(values))), problems
