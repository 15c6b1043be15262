"""Observables of tables that hold one number a run instead of a loss curve: final loss, gain, steps, tuned LR."""

from __future__ import annotations

import numpy as np
import pandas as pd

from surge_sweeps.counting import counted
from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting.observables.divergence import (
    diverged_at_finite_loss,
    finite_divergence_note,
    with_diverged,
)
from surge_sweeps.fitting.observables.responses import HUGE, Responses
from surge_sweeps.fitting.observables.targets import Target, TargetRuns

#: With this many learning rates at some batch size, steps to a goal are a sweep whose optimum is still to be found.
_SWEPT_RATES = 3


def table_target(curves: LossCurves, horizon_steps: int | None) -> tuple[TargetRuns | None, list[str]]:
    """The one target of a table's group, and what was found wrong.

    Args:
        curves: runs of one group whose `observable` is not `loss_curve`.
        horizon_steps: K of the gains or the budget of the final losses, where the user knows it.

    >>> runs = pd.DataFrame({"run": ["a", "b"], "lr": [0.1, 0.2], "batch_size": [8, 16], "status": "finished"})
    >>> target, problems = table_target(LossCurves(runs, pd.DataFrame(), observable="given"), None)
    >>> target.targets[0].label(), np.exp(target.responses.values).ravel().round(3).tolist()
    ('tuned learning rates', [0.1, 0.2])
    """
    if curves.observable == "given":
        values = np.log(curves.runs["lr"].to_numpy(float))[:, None]
        target = Target("given", None, start=None, tuned=True)
        return TargetRuns((target,), curves, Responses(values, np.isnan(values))), []
    values = curves.runs["response"].to_numpy(float, na_value=np.nan)[:, None].copy()
    diverged = (curves.runs["status"] == "diverged").to_numpy()
    with np.errstate(invalid="ignore"):
        values[~(np.abs(values) < HUGE) | diverged[:, None]] = np.nan
    if curves.observable == "steps":
        return _steps_target(curves, values)
    if curves.observable == "gain":
        target = Target("gain", None, horizon_steps, start=None)
        return TargetRuns((target,), curves, Responses(values, np.isnan(values))), []
    diverged = diverged | diverged_at_finite_loss(curves.runs, values[:, 0])
    values[diverged] = np.nan
    problems = finite_divergence_note(curves.runs, diverged)
    target = Target("final", None, horizon_steps, start=None)
    return TargetRuns(
        (target,), with_diverged(curves, diverged), Responses(values, np.isnan(values))
    ), problems


def _steps_target(curves: LossCurves, steps: np.ndarray) -> tuple[TargetRuns | None, list[str]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(steps > 0, np.log(steps), np.nan)
    rates = curves.runs.groupby("batch_size")["lr"].nunique()
    swept = bool((rates >= _SWEPT_RATES).any())
    target = Target("steps", None, start=None, tuned=not swept)
    if swept:
        known = pd.Series(curves.runs["lr"].notna())
        problems = (
            [] if known.all() else [f"no learning rate in {counted(int((~known).sum()), 'row')}: left out"]
        )
        curves, values = curves.restrict(known), values[known.to_numpy()]
        return TargetRuns((target,), curves, Responses(values, np.isnan(values))), problems
    missing = int(np.isnan(values).sum())
    say, are = ("says", "is") if missing == 1 else ("say", "are")
    text = f"{counted(missing, 'row')} {say} only that the goal was not reached, and {are} not used"
    problems = [text] if missing else []
    return TargetRuns((target,), curves, Responses(values, np.isnan(values))), problems
