"""Simulated branches: a short training run of every cell of a grid from each of several common checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError
from surge_sweeps.simulate.assemble import config_columns, point_table, run_table, simulated
from surge_sweeps.simulate.basins import basin_of
from surge_sweeps.simulate.damage import Damage
from surge_sweeps.simulate.grid import BoolArray, FloatArray, Grid, Runs, Scalar
from surge_sweeps.simulate.noise import Noise, noise_of
from surge_sweeps.simulate.training import diverging_curve
from surge_sweeps.simulate.truth import KnownTruth


def simulate_branches(
    truth: KnownTruth,
    grid: Grid,
    rng: np.random.Generator,
    *,
    start_losses: Sequence[float],
    horizon_steps: int = 10,
    decrease: float = 0.3,
    noise: float | Noise = 0.1,
    damage: Damage | None = None,
    config: Mapping[str, Scalar] | None = None,
    project: str = "simulated-branches",
) -> LossCurves:
    """Loss curves of short branches from common checkpoints.

    Args:
        truth: the known answer; the gain is decrease * loss / (1 + B_crit / B) * progress(LR / optimal LR), which
            for the parabola is negative above twice the optimal LR.
        grid: the runs from each checkpoint.
        rng: source of the noise and of the damage, checkpoint by checkpoint.
        start_losses: the loss at each common checkpoint.
        horizon_steps: K.
        decrease: the largest relative decrease of the loss over K steps.
        noise: of the gain, relative to the gain at the optimum of the batch size; a number is its standard deviation.
        damage: what goes wrong at each checkpoint (default: nothing).
        config: further columns of every run.
        project: the name in the result; run names start with it.

    Raises:
        SurgeError: there is no start loss.

    >>> from surge_sweeps.simulate import Truth
    >>> truth = Truth("surge", {"eps_max": 0.1, "b_noise": 16.0})
    >>> curves = simulate_branches(truth, Grid([4, 8], [0.01, 0.1], 2), np.random.default_rng(0), start_losses=[1.0])
    >>> curves.runs["start_checkpoint"].unique().tolist(), int(curves.points["step"].max())
    (['checkpoint-1'], 10)
    """
    if len(start_losses) == 0:
        raise SurgeError("branches need a checkpoint to start from.", "Give at least one start loss.")
    tables, points = [], []
    noise, damage = noise_of(noise), damage or Damage()
    steps = np.arange(horizon_steps + 1)
    for start in start_losses:
        runs = grid.runs(f"{project}-{start:g}")
        errors, marks = noise.draw(rng, runs), damage.draw(rng, runs)
        largest, share, beyond = gains_of_cells(truth, runs, start, decrease)
        diverged = marks.diverged | beyond
        losses = start - (largest * (share + errors))[:, None] * steps / horizon_steps
        blow_up = diverging_curve(steps, start, damage.diverged_loss)
        kept = np.flatnonzero(marks.kept)
        points.append(
            point_table(
                runs,
                kept,
                [blow_up[0] if diverged[i] else steps for i in kept],
                [blow_up[1] if diverged[i] else losses[i] for i in kept],
            )
        )
        recorded = diverged & np.isnan(damage.diverged_loss)
        columns = {"start_checkpoint": f"checkpoint-{start:g}", "start_loss": start, **config_columns(config)}
        status = np.where(recorded, "diverged", "finished").tolist()
        tables.append(run_table(runs, status, columns).iloc[kept])
    table = pd.concat(tables).assign(max_steps=horizon_steps)
    return simulated(table, pd.concat(points), project)


def gains_of_cells(
    truth: KnownTruth, runs: Runs, loss: float, decrease: float
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Per run: the largest gain at its batch size, the share of it without noise, and whether it diverges."""
    batch_size, lr = runs.cell_batch_size, runs.cell_lr
    ratio = lr / truth.optimal_lr(batch_size, loss)
    gain = basin_of(truth.basin).gain
    share = np.array([gain(u) for u in ratio.tolist()], dtype=float)
    largest = decrease * loss / truth.overhead(batch_size, loss)
    return largest[runs.cell], share[runs.cell], truth.diverges(batch_size, lr, loss)[runs.cell]
