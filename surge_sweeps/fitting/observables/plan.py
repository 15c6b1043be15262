"""What a project lets one measure: its groups, their targets, and the response of every cell.

`fit` and the report's loss surface both start from this, so that group i and target j mean the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import pandas as pd

from surge_sweeps.counting import counted
from surge_sweeps.curves import RESULT_STATUSES, LossCurves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.fitting.observables.budgets import crossing_targets, final_target
from surge_sweeps.fitting.observables.groups import Group, split_groups
from surge_sweeps.fitting.observables.responses import Responses
from surge_sweeps.fitting.observables.table_targets import table_target
from surge_sweeps.fitting.observables.targets import Target, TargetRuns, gain_targets, reach_targets

PROTOCOLS = ("reach", "gain", "final", "steps", "given")
#: The protocols that loss curves can answer; a table with one number a run answers its own only.
CURVE_PROTOCOLS = ("reach", "gain", "final")


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """One group's targets: first those that share the runs from scratch, then one part per common checkpoint."""

    group: Group
    parts: tuple[TargetRuns, ...]

    def targets(self) -> list[Target]:
        """All targets, in the order of `fit.json`."""
        return [target for part in self.parts for target in part.targets]


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be measured, and what was found wrong on the way."""

    groups: tuple[GroupPlan, ...]
    problems: tuple[str, ...]


def plan_fit(
    curves: LossCurves,
    *,
    protocol: str | None = None,
    target_losses: Sequence[float] | None = None,
    horizon_steps: int | None = None,
) -> Plan:
    """Group the finished runs and choose what to measure in each group.

    Args:
        curves: the runs; those without a result are left out and counted.
        protocol: one of `PROTOCOLS`. None takes reach, and gain from common checkpoints, where the runs allow; of a
            table with one number a run, what it holds.
        target_losses: the losses to reach; None chooses them from the curves.
        horizon_steps: K of the gain, or the budget of the final loss; None takes the common last step of the branches.

    Raises:
        UnknownNameError: no such protocol.
        SurgeError: a target loss is not a finite number, the horizon is no positive whole number, or the protocol
            needs other data.
    """
    _check_options(protocol, target_losses, horizon_steps)
    _check_observable(curves, protocol, target_losses)
    problems = _unfinished(curves)
    groups, notes = split_groups(curves.restrict(curves.runs["status"].isin(RESULT_STATUSES)))
    problems += notes
    plans = []
    for group in groups:
        parts, found = _plan_group(group.curves, protocol, target_losses, horizon_steps)
        name = ", ".join(f"{key} {value}" for key, value in group.key.items())
        problems += [f"{name}: {text}" if name else text for text in found]
        plans.append(GroupPlan(group, tuple(parts)))
    targets = [target for plan in plans for target in plan.targets()]
    if horizon_steps is not None and targets and all(target.horizon_steps is None for target in targets):
        problems.append(
            f"the horizon of {counted(horizon_steps, 'step')} (--horizon-steps) is not used by any target: it is for"
            " the gain and the final loss"
        )
    return Plan(tuple(plans), tuple(problems))


def measured_cells(
    curves: LossCurves,
    *,
    protocol: str | None = None,
    target_losses: Sequence[float] | None = None,
    horizon_steps: int | None = None,
) -> pd.DataFrame:
    """The response of every cell of every target, diverged and censored ones included.

    Takes the options of `fit`, and then numbers groups and targets as `fit` does.

    Returns:
        Columns `group`, `target` (indices), `batch_size`, `lr`, `response` (median steps to the loss, NaN where half
        of the runs or more never reached it; or mean loss decrease or final loss of the runs that have one), `runs`,
        `censored` (runs without a response), `diverged`. A target whose learning rates are tuned has no rows.

    >>> from surge_sweeps.simulate import Grid, Truth, simulate_training
    >>> grid = Grid([4, 8, 16], [0.01, 0.02, 0.04, 0.08], 2)
    >>> curves = simulate_training(Truth("sqrt", {"a": 0.01}), grid, np.random.default_rng(0))
    >>> measured_cells(curves, target_losses=[1.0]).shape
    (12, 8)
    """
    plan = plan_fit(curves, protocol=protocol, target_losses=target_losses, horizon_steps=horizon_steps)
    tables = []
    for group_index, group in enumerate(plan.groups):
        target_index = 0
        for part in group.parts:
            for column, target in enumerate(part.targets):
                if not target.tuned:
                    table = _cell_table(part.curves.runs, part.responses, column, target)
                    tables.append(table.assign(group=group_index, target=target_index))
                target_index += 1
    columns = ["group", "target", "batch_size", "lr", "response", "runs", "censored", "diverged"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _check_options(
    protocol: str | None, target_losses: Sequence[float] | None, horizon_steps: int | None
) -> None:
    if protocol is not None and protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, PROTOCOLS)
    if target_losses is not None:
        _check_losses(target_losses)
    if horizon_steps is None:
        return
    if isinstance(horizon_steps, bool) or not isinstance(horizon_steps, Integral):
        raise SurgeError(
            f"the horizon of {horizon_steps!r} steps is not a whole number.", "Give a number like 100."
        )
    if horizon_steps < 1:
        raise SurgeError(f"the horizon of {horizon_steps} steps is not positive.", "Give at least 1 step.")


def _check_losses(target_losses: object) -> None:
    if isinstance(target_losses, str) or not isinstance(target_losses, Iterable):
        raise SurgeError(
            f"the target losses are {target_losses!r}, and not several numbers.",
            "Give a list, of one loss too: [0.4].",
        )
    for loss in target_losses:
        if isinstance(loss, bool) or not isinstance(loss, Real) or not math.isfinite(loss):
            raise SurgeError(
                f"the target loss {loss!r} is not a finite number.", "Give losses like 1.5 0.8 0.4."
            )


def _check_observable(
    curves: LossCurves, protocol: str | None, target_losses: Sequence[float] | None
) -> None:
    if curves.observable == "loss_curve":
        if protocol is not None and protocol not in CURVE_PROTOCOLS:
            raise SurgeError(
                f"the protocol {protocol} is for tables with one number a run, and these are loss curves.",
                _protocols_of(curves),
            )
        return
    if protocol not in (None, curves.observable):
        raise SurgeError(
            f"the table holds {curves.observable} alone, which cannot answer the protocol {protocol}.",
            "Leave --protocol out."
            + (
                f" Only loss curves, a table with a step and a loss in every row, can answer {protocol}."
                if protocol in CURVE_PROTOCOLS
                else ""
            ),
        )
    if target_losses is not None:
        raise SurgeError(
            "target losses need loss curves, and the table has one number a run.",
            "Leave --target-losses out.",
        )


def _protocols_of(curves: LossCurves) -> str:
    """What to do instead of a protocol that loss curves cannot answer; names only what these runs can."""
    branched = _branched(curves.runs)
    if branched.all() and len(branched):
        return "Leave --protocol out, or choose gain."
    gain = "gain" if branched.any() else "gain with --horizon-steps"
    return f"Leave --protocol out, or choose one of: reach, final, {gain}."


def _branched(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs started from a checkpoint."""
    if "start_checkpoint" in runs:
        return runs["start_checkpoint"].notna()
    return pd.Series(False, index=runs.index, dtype=bool)


def _unfinished(curves: LossCurves) -> list[str]:
    """What was left out; only runs that a sweep started can be finished by launching it again."""
    runs = curves.runs
    noun = "run" if curves.observable == "loss_curve" else "row"
    of_sweep = runs["sweep_id"].notna() if "sweep_id" in runs else pd.Series(False, index=runs.index)
    texts = []
    for status in sorted(set(runs["status"]) - set(RESULT_STATUSES)):
        those = runs["status"] == status
        again = ", launch the sweep again to finish them" if of_sweep[those].any() else ""
        texts.append(
            f"{counted(int(those.sum()), noun)} left out: {status}{again if status != 'running' else ''}"
        )
    return texts


def _plan_group(
    curves: LossCurves,
    protocol: str | None,
    target_losses: Sequence[float] | None,
    horizon_steps: int | None,
) -> tuple[list[TargetRuns], list[str]]:
    if curves.observable != "loss_curve":
        table, found = table_target(curves, horizon_steps)
        return ([table] if table else []), found
    branched = _branched(curves.runs)
    parts: list[TargetRuns] = []
    problems: list[str] = []
    if protocol in (None, "reach") and (~branched).any():
        reach, found = reach_targets(curves.restrict(~branched), target_losses)
        parts += [reach] if reach else []
        problems += found
    if protocol in (None, "gain") and branched.any():
        gains, found = gain_targets(curves.restrict(branched), horizon_steps)
        parts += gains
        problems += found
    if protocol == "gain" and not branched.all():
        crossing, found = crossing_targets(curves.restrict(~branched), horizon_steps, target_losses)
        parts += [crossing] if crossing else []
        problems += found
    if protocol == "final" and not branched.all():
        final, found = final_target(curves.restrict(~branched), horizon_steps)
        parts += [final] if final else []
        problems += found
    if protocol in ("reach", "final") and branched.all():
        problems.append(f"no runs from scratch, so no {protocol}: launch a sweep without a start checkpoint")
    return parts, problems


def _cell_table(runs: pd.DataFrame, responses: Responses, column: int, target: Target) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "batch_size": runs["batch_size"],
            "lr": runs["lr"],
            "value": responses.values[:, column],
            "censored": responses.censored[:, column],
            "diverged": runs["status"] == "diverged",
        }
    )
    if target.protocol in ("reach", "steps"):
        table["value"] = table["value"].fillna(np.inf)
    cells = table.groupby(["batch_size", "lr"])
    counts = cells.agg(runs=("censored", "size"), censored=("censored", "sum"), diverged=("diverged", "sum"))
    if target.protocol in ("gain", "final"):
        return counts.assign(response=cells["value"].mean()).reset_index()
    with np.errstate(invalid="ignore"):
        median = np.exp(cells["value"].median())
    return counts.assign(response=median.where(np.isfinite(median))).reset_index()
