"""Two observables that must be asked for: the final loss at a fixed budget, and the gain after reaching a loss.

The gain after a crossing is the protocol of Li et al. 2024 (arXiv 2405.14578, section 3): every run goes on for the
same number of steps after it first reaches the loss. The runs then differ in where they stand, not only in learning
rate and batch size, so its optima need not agree with those of branches from one common checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
    BoolArray,
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

    Where runs stopped early at a low loss, having reached their goal, the budget is the largest that they have too:
    without them the final loss would be compared among the slower runs alone.

    Args:
        curves: runs of one group, from scratch.
        horizon_steps: take the loss at this step; None takes the runs' own end: the examples that most runs saw or,
            where more runs agree on them, the steps.
    """
    budget = _common_budget(curves) if horizon_steps is None else _step_budget(curves, horizon_steps)
    if not budget.reached.any():
        return None, [f"no run has {horizon_steps} steps: choose a smaller --horizon-steps"]
    loss = np.where(budget.reached, interpolated_losses(curves, budget.steps), np.nan)
    diverged = _diverged(curves) | diverged_at_finite_loss(curves.runs, loss)
    keep = budget.reached | diverged
    problems = list(budget.problems)
    if not keep.all():
        names = _names(curves.runs.loc[~keep, "run"])
        problems.append(
            f"{counted(int((~keep).sum()), 'run')} {budget.fault}: left out of the final loss ({names})"
        )
    kept = with_diverged(curves, diverged).restrict(pd.Series(keep, index=curves.runs.index))
    values = np.where(diverged, np.nan, loss)[keep][:, None]
    problems += finite_divergence_note(curves.runs, diverged)
    shared = horizon_steps if horizon_steps is not None else _one_step_count(budget.steps[budget.reached])
    target = Target("final", None, shared)
    return TargetRuns((target,), kept, Responses(values, np.isnan(values))), problems


class _Budget(NamedTuple):
    """Where each run's final loss is taken: (n_runs,) steps, which runs have them, and why the others do not."""

    steps: FloatArray
    reached: BoolArray
    fault: str
    problems: tuple[str, ...] = ()


def _step_budget(curves: LossCurves, horizon_steps: int) -> _Budget:
    last = running_minimum(curves).last_steps()
    reached = last >= horizon_steps
    steps = np.full(last.shape, float(horizon_steps))
    early = _stopped_low(curves, reached, interpolated_losses(curves, np.where(reached, steps, last)))
    fault = f"ended before step {horizon_steps}"
    if not early.any():
        return _Budget(steps, reached, fault)
    text = (
        f"{counted(int(early.sum()), 'run')} stopped before step {horizon_steps} at a low loss, and the best may be"
        " among them: choose a --horizon-steps that all runs have"
    )
    return _Budget(steps, reached, fault, (text,))


def _common_budget(curves: LossCurves) -> _Budget:
    """The budget that most runs share, or the largest that the runs which stopped early at a low loss have too."""
    lowest = running_minimum(curves)
    last, batch_sizes = lowest.last_steps(), curves.runs["batch_size"].to_numpy(float)
    in_examples, in_steps = _share_mode(last * batch_sizes), _share_mode(last)
    by_examples = bool(in_examples.sum() >= in_steps.sum())
    reached, scale = (in_examples, batch_sizes) if by_examples else (in_steps, np.ones(last.shape))
    amounts = last * scale
    early = _stopped_low(curves, reached, interpolated_losses(curves, last))
    if reached.any():
        early &= amounts < amounts[reached].min()
    if not early.any():
        return _Budget(last, reached, "ended at another budget than most")
    trained = ~_diverged(curves)
    amount = float(amounts[(reached & trained) | early].min())
    has = trained & (amounts >= amount) & (lowest.first_steps() * scale <= amount)
    who = "all runs" if has[trained].all() else "all runs that are kept"
    unit = "example" if by_examples else "step"
    text = (
        f"{counted(int(early.sum()), 'run')} stopped early at a low loss, so the final loss is taken after"
        f" {counted(round(amount), unit)}, which {who} have"
    )
    return _Budget(amount / scale, has, f"have no loss after {counted(round(amount), unit)}", (text,))


def _stopped_low(curves: LossCurves, reached: BoolArray, losses: FloatArray) -> BoolArray:
    """Which runs without the budget ended, undiverged, at or below the median loss of the runs that have it."""
    full = losses[reached & np.isfinite(losses)]
    if not full.size:
        return np.zeros(losses.shape, dtype=bool)
    return np.asarray(~reached & ~_diverged(curves) & (losses <= np.median(full)))


def _diverged(curves: LossCurves) -> BoolArray:
    return np.asarray(curves.runs["status"] == "diverged", dtype=bool)


def _names(runs: pd.Series[str]) -> str:
    """The first five names and how many more there are."""
    more = f" and {len(runs) - 5:,} more" if len(runs) > 5 else ""
    return ", ".join(runs.iloc[:5]) + more


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
    lowest = running_minimum(curves)
    chosen, problems = usable_losses(curves, lowest, losses)
    if not chosen:
        return None, problems
    crossed = np.exp(steps_to_losses(lowest, chosen).values)
    last = lowest.last_steps()
    targets, columns = [], []
    for column, loss in enumerate(chosen):
        end = crossed[:, column] + horizon_steps
        short = np.isfinite(end) & (end > last) & ~_diverged(curves)
        if short.any():
            problems.append(
                f"{counted(int(short.sum()), 'run')} ended before {horizon_steps} steps after loss {loss:g}: "
                "counted as without a gain there; train on after the target"
            )
        # A run already below at its first logged point has no point at the loss: its gain counts from that point.
        start = np.fmin(loss, lowest.first_losses())
        with np.errstate(invalid="ignore"):
            gain = start - interpolated_losses(curves, np.where(end <= last, end, np.nan))
        columns.append(np.where(np.isfinite(gain), gain, np.nan))
        targets.append(Target("gain", float(loss), horizon_steps, "crossing"))
    values = np.stack(columns, axis=1)
    return TargetRuns(tuple(targets), curves, Responses(values, np.isnan(values))), problems
