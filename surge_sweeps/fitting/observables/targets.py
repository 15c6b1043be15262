"""Which observables the loss curves of a group can answer: losses to reach, and gains from common checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from surge_sweeps.counting import counted
from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting.observables.loss_choice import MIN_LOGGED_POINTS, choose_losses, why_no_loss
from surge_sweeps.fitting.observables.responses import (
    BoolArray,
    Responses,
    RunningMinimum,
    common_last_step,
    loss_decrease,
    running_minimum,
    steps_to_losses,
)
from surge_sweeps.fitting.result import Protocol, Start

#: No target where more than this share of the runs that reach it do so before their first logged point.
MAX_UNSEEN_SHARE = 0.1


@dataclass(frozen=True)
class Target:
    """One observable.

    Attributes:
        protocol: `reach`, steps to `loss`; `gain`, the loss decrease over `horizon_steps` steps; `final`, the loss at
            the end of a fixed budget; `steps`, steps to a goal; `given`, nothing but tuned learning rates.
        loss: the loss to reach, or the loss from which a gain counts; None where the runs do not record it.
        horizon_steps: K of a gain, or the budget of a final loss; None where there is none or it is not known.
        start: where the runs, or the steps that are counted, start; None where it is not known.
        checkpoint: what `start_checkpoint` holds; None for runs from scratch.
        tuned: whether every batch size has its learning rate already, so that there is no optimum to look for.
    """

    protocol: Protocol
    loss: float | None
    horizon_steps: int | None = None
    start: Start | None = "scratch"
    checkpoint: str | None = None
    tuned: bool = False

    def label(self) -> str:
        """The target in words.

        >>> Target("reach", 0.3).label(), Target("gain", 1.84, 10, "checkpoint", "c0").label()
        ('steps to loss 0.3', 'loss decrease over 10 steps from loss 1.84')
        """
        if self.protocol == "reach":
            return f"steps to loss {self.loss:g}"
        if self.protocol == "steps":
            return "steps to the goal"
        if self.protocol == "given":
            return "tuned learning rates"
        over = f" over {counted(self.horizon_steps, 'step')}" if self.horizon_steps is not None else ""
        if self.protocol == "final":
            return f"final loss{over.replace('over', 'after')}"
        start = f" from loss {self.loss:.3g}" if self.loss is not None else ""
        return f"loss decrease{over}{start}"


@dataclass(frozen=True, eq=False)
class TargetRuns:
    """Targets that share their runs, and what each run says about each of them."""

    targets: tuple[Target, ...]
    curves: LossCurves
    responses: Responses


def reach_targets(
    curves: LossCurves, losses: Sequence[float] | None = None
) -> tuple[TargetRuns | None, list[str]]:
    """The losses to reach of runs from scratch, highest first, and what was found wrong.

    Args:
        curves: runs of one group, from scratch.
        losses: take these instead of choosing.

    Returns:
        None when no loss can be a target; the texts say why and what to run.
    """
    lowest = running_minimum(curves)
    chosen, problems = usable_losses(curves, lowest, losses)
    if not chosen:
        return None, problems
    targets = tuple(Target("reach", float(loss)) for loss in chosen)
    return TargetRuns(targets, curves, steps_to_losses(lowest, chosen)), problems


def usable_losses(
    curves: LossCurves, lowest: RunningMinimum, losses: Sequence[float] | None
) -> tuple[list[float], list[str]]:
    """The losses to reach, chosen where None are given, highest first; and why some or all cannot be targets."""
    if losses is None:
        chosen = list(choose_losses(curves, lowest))
        return chosen, [] if chosen else why_no_loss(curves, lowest)
    usable: list[float] = []
    problems: list[str] = []
    for loss in sorted(set(losses), reverse=True):
        fault = _above_the_start(lowest, loss) or _unseen(lowest, loss)
        if fault is None:
            usable.append(loss)
            fault = _coarse(lowest, loss)
        problems += [fault] if fault else []
    return usable, problems


def _above_the_start(lowest: RunningMinimum, loss: float) -> str | None:
    """Why a loss is no target that half of the runs have at their first point; None where it may be one."""
    first = lowest.first_losses()
    median = float(np.nanmedian(first)) if np.isfinite(first).any() else math.nan
    if not loss >= median:
        return None
    at_start = bool(np.nanmax(lowest.first_steps()) <= 0)
    where = "at the start" if at_start else "at the first logged step"
    mend = "" if at_start else "; log more often or choose lower losses"
    return f"the loss target {loss:g} is not below the loss {where} ({median:.3g}): left out{mend}"


def _unseen(lowest: RunningMinimum, loss: float) -> str | None:
    """Why a loss is no target that many runs reach before their first point after step 0; None where few do."""
    reach = int((lowest.last_losses() <= loss).sum())
    unseen = _runs_below(lowest, loss, 1)
    if unseen <= MAX_UNSEEN_SHARE * reach:
        return None
    return (
        f"{unseen:,} of {counted(reach, 'run')} that reach loss {loss:g} do so before their first logged point, so"
        " that their steps are not known: left out; log more often or choose lower losses"
    )


def _coarse(lowest: RunningMinimum, loss: float) -> str | None:
    """What is wrong with a target that runs reach before their steps are resolved; None where none does."""
    early = _runs_below(lowest, loss, MIN_LOGGED_POINTS)
    if not early:
        return None
    reach, their = ("reaches", "its") if early == 1 else ("reach", "their")
    return (
        f"{counted(early, 'run')} {reach} loss {loss:g} before {their} third logged point: {their} steps are"
        " interpolated and coarse; log more often or choose lower losses"
    )


def _runs_below(lowest: RunningMinimum, loss: float, number: int) -> int:
    """How many runs, but those there at step 0, get below a loss before their `number`-th point after step 0."""
    below = lowest.losses_at(lowest.steps_of_logged(number)) < loss
    at_zero = (lowest.first_steps() <= 0) & (lowest.first_losses() <= loss)
    return int((below & ~at_zero).sum())


def gain_targets(curves: LossCurves, horizon_steps: int | None = None) -> tuple[list[TargetRuns], list[str]]:
    """One target per common checkpoint, highest loss first, and what was found wrong.

    Args:
        curves: runs of one group with `start_checkpoint` and `start_loss`.
        horizon_steps: K; by default the last step that most runs of the checkpoint share.
    """
    found: list[TargetRuns] = []
    problems: list[str] = []
    for checkpoint in sorted(curves.runs["start_checkpoint"].astype(str).unique()):
        runs = curves.restrict(curves.runs["start_checkpoint"].astype(str) == checkpoint)
        steps = horizon_steps if horizon_steps is not None else common_last_step(runs)
        start_known = _start_known(runs)
        if steps is None or not start_known.any():
            why = "the runs do not record their start loss (`start_loss`)" if steps else "every run diverged"
            problems.append(f"no gain can be measured from checkpoint {checkpoint!r}: {why}")
            continue
        responses = loss_decrease(runs, steps)
        trained = (runs.runs["status"] != "diverged").to_numpy()
        unfinished = responses.censored[:, 0] & start_known & trained
        where = f"from checkpoint {checkpoint!r} without"
        for missing, what in (
            (~start_known, "a start loss (`start_loss`)"),
            (unfinished, f"a loss at step {steps}"),
        ):
            if missing.any():
                problems.append(f"{counted(int(missing.sum()), 'run')} {where} {what}: left out")
        runs, responses = _without(runs, responses, unfinished | (~start_known & trained))
        if runs.runs.empty:
            continue
        loss = runs.runs["start_loss"].astype(float).median()
        target = Target("gain", float(loss) if pd.notna(loss) else None, steps, "checkpoint", checkpoint)
        found.append(TargetRuns((target,), runs, responses))
    return sorted(found, key=lambda item: -(item.targets[0].loss or math.inf)), problems


def _start_known(runs: LossCurves) -> BoolArray:
    if "start_loss" not in runs.runs:
        return np.zeros(len(runs.runs), dtype=bool)
    return np.asarray(np.isfinite(runs.runs["start_loss"].to_numpy(float, na_value=np.nan)))


def _without(runs: LossCurves, responses: Responses, drop: BoolArray) -> tuple[LossCurves, Responses]:
    kept = runs.restrict(pd.Series(~drop, index=runs.runs.index))
    return kept, Responses(responses.values[~drop], responses.censored[~drop])
