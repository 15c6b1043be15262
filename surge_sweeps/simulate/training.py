"""Simulated training from scratch: the loss curve of every run of a grid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from surge_sweeps.curves import LossCurves
from surge_sweeps.simulate.assemble import config_columns, point_table, run_table, simulated
from surge_sweeps.simulate.damage import Damage
from surge_sweeps.simulate.grid import FloatArray, Grid, IntArray, Runs, Scalar
from surge_sweeps.simulate.noise import Noise, noise_of
from surge_sweeps.simulate.truth import KnownTruth

_LOSS_POINTS = 1500
#: More steps than any run takes; times any pace it is still a finite number.
_NEVER = 1e300


def simulate_training(
    truth: KnownTruth,
    grid: Grid,
    rng: np.random.Generator,
    *,
    noise: float | Noise = 0.1,
    damage: Damage | None = None,
    max_steps: int = 2000,
    target_loss: float = 0.1,
    config: Mapping[str, Scalar] | None = None,
    project: str = "simulated",
) -> LossCurves:
    """Loss curves of training from scratch.

    Args:
        truth: the known answer. Steps to loss L are S(B, L) / progress(LR / optimal LR at L), never falling as the
            loss falls. A run that diverges at the start loss diverges.
        grid: the runs.
        rng: source of the noise and of the damage, in this order.
        noise: of the log of each run's pace; a number is its standard deviation.
        damage: what goes wrong (default: nothing).
        max_steps: runs are capped here.
        target_loss: runs stop here.
        config: further columns of every run, such as `optimizer`.
        project: the name in the result; run names start with it.

    >>> from surge_sweeps.simulate import Truth
    >>> truth = Truth("sqrt", {"a": 0.01})
    >>> curves = simulate_training(truth, Grid([4, 8], [0.01, 0.02, 0.2], 2), np.random.default_rng(0))
    >>> len(curves.runs), sorted(curves.runs["status"].unique())
    (12, ['capped', 'diverged'])
    """
    runs, damage = grid.runs(project), damage or Damage()
    paces = np.exp(noise_of(noise).draw(rng, runs))
    marks = damage.draw(rng, runs)
    losses = np.geomspace(truth.start_loss, target_loss, _LOSS_POINTS)
    logged = logged_steps(max_steps)
    # Losses fall along `losses`, and np.interp wants them against rising steps: one table of steps for every cell.
    to_losses = _steps_of_cells(truth, runs, losses)
    status: list[str] = []
    steps, curves = [], []
    for cell, pace, accident in zip(runs.cell.tolist(), paces.tolist(), marks.diverged.tolist(), strict=True):
        at_step = None if accident else to_losses[cell]
        if at_step is None:
            step, curve = diverging_curve(logged, truth.start_loss, damage.diverged_loss)
            status.append("diverged" if np.isnan(damage.diverged_loss) else "capped")
        else:
            curve = np.interp(logged, at_step * pace, losses[: at_step.size])
            last = int(np.argmax(curve <= target_loss)) if curve[-1] <= target_loss else logged.size - 1
            step, curve = logged[: last + 1], curve[: last + 1]
            status.append("finished" if curve[-1] <= target_loss else "capped")
        steps.append(step)
        curves.append(curve)
    kept = np.flatnonzero(marks.kept)
    columns = config_columns(config) | {"target_loss": target_loss, "max_steps": max_steps}
    table = run_table(runs, status, columns).iloc[kept]
    return simulated(
        table, point_table(runs, kept, [steps[i] for i in kept], [curves[i] for i in kept]), project
    )


def _steps_of_cells(truth: KnownTruth, runs: Runs, losses: FloatArray) -> list[FloatArray | None]:
    """For every cell the steps to each of `losses` up to the last that is ever reached; None where runs diverge."""
    best: dict[int, tuple[FloatArray, FloatArray]] = {}
    found: list[FloatArray | None] = []
    diverges = truth.diverges(runs.cell_batch_size, runs.cell_lr).tolist()
    for batch_size, lr, diverged in zip(
        runs.cell_batch_size.tolist(), runs.cell_lr.tolist(), diverges, strict=True
    ):
        if diverged:
            found.append(None)
            continue
        if batch_size not in best:
            best[batch_size] = truth.optimal_lr(batch_size, losses), truth.steps(batch_size, losses)
        optimal, least = best[batch_size]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            steps = least / truth.progress(lr / optimal)
        steps = np.maximum.accumulate(np.where(np.isnan(steps), 0.0, steps))
        found.append(steps[steps < _NEVER])
    return found


def logged_steps(max_steps: int) -> IntArray:
    """Every step up to 16, then log-spaced, the last step included.

    >>> logged_steps(20).tolist()[-5:]
    [15, 16, 17, 19, 20]
    """
    spaced = np.geomspace(16, max(max_steps, 17), 1 + int(np.log(max(max_steps, 17) / 16) / 0.06))
    steps = np.concatenate([np.arange(17), spaced.round(), [max_steps]])
    return np.unique(steps[steps <= max_steps]).astype(np.int64)


def diverging_curve(logged: IntArray, start_loss: float, diverged_loss: float) -> tuple[IntArray, FloatArray]:
    """Steps and losses of a diverged run: to NaN within three steps, or at a finite loss from the first step on."""
    if np.isnan(diverged_loss):
        return np.arange(4), np.array([start_loss, 2 * start_loss, 8 * start_loss, np.nan])
    return logged, np.where(logged == 0, start_loss, diverged_loss)
