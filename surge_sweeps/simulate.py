"""Runs whose optimal learning rates are known: to test a fit, and to see what a planned sweep could tell.

A `Truth` says how the optimal learning rate and the steps to a loss depend on the batch size; `simulate_training` and
`simulate_branches` turn it into the same `LossCurves` that a tracker is read into. Steps follow eq. 20 of Li et al.
2024 (arXiv 2405.14578) at the optimal learning rate and grow away from it as its Lemma 1 says, or less steeply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from surge_sweeps.curves import LossCurves, build_curves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.theory import LAWS, peak_batch_size, steps_to_target

FloatArray = NDArray[np.float64]
Scalar = str | int | float | bool

_LOSS_POINTS = 1500


@dataclass(frozen=True)
class Grid:
    """Every combination of these is one run; `seeds` is how many runs each cell gets."""

    batch_sizes: Sequence[int]
    lrs: Sequence[float]
    seeds: int


@dataclass(frozen=True)
class Truth:
    """What the simulated runs follow.

    Attributes:
        law: name of a law of `theory.LAWS`. parameters: its parameters, batch sizes in the batch unit.
        start_loss: the loss at step 0.
        peak_drift: exponent b; at loss L the law holds with B (L / start_loss)**b for B, so that B_peak ~ L**(-b).
        steps_scale, steps_exponent: S_min(L) = steps_scale ((start_loss / L)**steps_exponent - 1).
        b_crit: critical batch size at the start loss. b_crit_drift: exponent c of B_crit ~ L**(-c).
        basin: progress against u = LR / optimal LR: `parabola` 2u - u^2 (Lemma 1, none from u = 2 on), or `skewed`,
            log progress = -2 (u - 1 - log u), of the same curvature at the optimum and positive everywhere.
        diverge_ratio: a run with u at or above this diverges.
    """

    law: str
    parameters: Mapping[str, float]
    start_loss: float = 2.3
    peak_drift: float = 0.0
    steps_scale: float = 20.0
    steps_exponent: float = 1.0
    b_crit: float = 32.0
    b_crit_drift: float = 0.0
    basin: Literal["parabola", "skewed"] = "parabola"
    diverge_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise UnknownNameError("law", self.law, LAWS)
        if set(self.parameters) != set(LAWS[self.law].parameters):
            raise SurgeError(
                f"the law {self.law!r} does not take the parameters {', '.join(sorted(self.parameters))}.",
                f"It takes: {', '.join(LAWS[self.law].parameters)}.",
            )

    def optimal_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """The optimal LR at `loss` (default: the start loss).

        >>> Truth("sqrt", {"a": 0.01}).optimal_lr([4, 16]).round(6).tolist()
        [0.02, 0.04]
        """
        reached = np.asarray(self.start_loss if loss is None else loss, float)
        shifted = np.asarray(batch_size, float) * (reached / self.start_loss) ** self.peak_drift
        return np.asarray(LAWS[self.law].evaluate(shifted, **self.parameters), float)

    def peak(self, loss: float | None = None) -> float | None:
        """B_peak at `loss` (default: the start loss), None for a law without a peak."""
        peak = peak_batch_size(self.law, self.parameters)
        shift = 1.0 if loss is None else (loss / self.start_loss) ** self.peak_drift
        return None if peak is None else peak / shift

    def critical_batch(self, loss: ArrayLike) -> FloatArray:
        """B_crit for reaching `loss`."""
        return np.asarray(self.b_crit * (np.asarray(loss, float) / self.start_loss) ** -self.b_crit_drift)

    def steps(self, batch_size: ArrayLike, loss: ArrayLike) -> FloatArray:
        """Steps to `loss` at the optimal LR: S_min (1 + B_crit / B).

        >>> float(Truth("constant", {"a": 0.1}).steps(32, 1.15))
        40.0
        """
        ratio = self.start_loss / np.asarray(loss, float)
        return steps_to_target(
            batch_size, self.steps_scale * (ratio**self.steps_exponent - 1.0), self.critical_batch(loss)
        )

    def progress(self, ratio: ArrayLike) -> FloatArray:
        """Progress per step relative to the optimum, at `ratio` = LR / optimal LR; 0 where there is none."""
        u = np.asarray(ratio, float)
        if self.basin == "parabola":
            return np.asarray(np.maximum(2 * u - u**2, 0.0))
        return np.asarray(np.exp(-2.0 * (u - 1.0 - np.log(u))))


def simulate_training(
    truth: Truth,
    grid: Grid,
    rng: np.random.Generator,
    *,
    noise: float = 0.1,
    max_steps: int = 2000,
    target_loss: float = 0.1,
    config: Mapping[str, Scalar] | None = None,
    project: str = "simulated",
) -> LossCurves:
    """Loss curves of training from scratch.

    Args:
        truth: the known answer. Steps to loss L are S(B, L) / progress(LR / optimal LR at L), never falling as the
            loss falls.
        grid: the runs.
        rng: source of the noise.
        noise: standard deviation of the log of each run's pace.
        max_steps: runs are capped here.
        target_loss: runs stop here.
        config: further columns of every run, such as `optimizer`.
        project: the name in the result; run names start with it.

    >>> truth = Truth("sqrt", {"a": 0.01})
    >>> curves = simulate_training(truth, Grid([4, 8], [0.01, 0.02, 0.2], 2), np.random.default_rng(0))
    >>> len(curves.runs), sorted(curves.runs["status"].unique())
    (12, ['capped', 'diverged'])
    """
    losses = np.geomspace(truth.start_loss, target_loss, _LOSS_POINTS)
    logged = _logged_steps(max_steps)
    rows, points = [], []
    for name, batch_size, lr, seed in _trials(grid, project):
        ratio = lr / truth.optimal_lr(batch_size, losses)
        pace = float(np.exp(noise * rng.standard_normal()))
        rows.append({"run": name, "lr": lr, "batch_size": batch_size, "seed": seed, "status": "diverged"})
        if ratio[0] >= truth.diverge_ratio:
            points.append(_diverging(name, truth.start_loss))
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = truth.steps(batch_size, losses) / truth.progress(ratio) * pace
        steps = np.maximum.accumulate(np.where(np.isnan(steps), 0.0, steps))
        reached = np.isfinite(steps)
        curve = np.interp(logged, steps[reached], losses[reached])
        last = int(np.argmax(curve <= target_loss)) if curve[-1] <= target_loss else logged.size - 1
        rows[-1]["status"] = "finished" if curve[last] <= target_loss else "capped"
        points.append(pd.DataFrame({"run": name, "step": logged[: last + 1], "loss": curve[: last + 1]}))
    runs = pd.DataFrame(rows).assign(**(config or {}), target_loss=target_loss, max_steps=max_steps)
    return build_curves(runs, pd.concat(points), project=project, source="simulation", loss_name="eval/loss")


def simulate_branches(
    truth: Truth,
    grid: Grid,
    rng: np.random.Generator,
    *,
    start_losses: Sequence[float],
    horizon_steps: int = 10,
    decrease: float = 0.3,
    noise: float = 0.1,
    config: Mapping[str, Scalar] | None = None,
    project: str = "simulated-branches",
) -> LossCurves:
    """Loss curves of short branches from common checkpoints.

    Args:
        truth: the known answer; the gain is decrease * loss / (1 + B_crit / B) * progress(LR / optimal LR), which
            for the parabola is negative above twice the optimal LR.
        grid: the runs from each checkpoint.
        rng: source of the noise.
        start_losses: the loss at each common checkpoint.
        horizon_steps: K.
        decrease: the largest relative decrease of the loss over K steps.
        noise: standard deviation of the gain, relative to the gain at the optimum of the batch size.
        config: further columns of every run.
        project: the name in the result; run names start with it.

    >>> truth = Truth("surge", {"eps_max": 0.1, "b_noise": 16.0})
    >>> curves = simulate_branches(truth, Grid([4, 8], [0.01, 0.1], 2), np.random.default_rng(0), start_losses=[1.0])
    >>> curves.runs["start_checkpoint"].unique().tolist(), int(curves.points["step"].max())
    (['checkpoint-1'], 10)
    """
    rows, points = [], []
    steps = np.arange(horizon_steps + 1)
    for start in start_losses:
        checkpoint = f"checkpoint-{start:g}"
        for name, batch_size, lr, seed in _trials(grid, f"{project}-{start:g}"):
            ratio = lr / float(truth.optimal_lr(batch_size, start))
            best = decrease * start / (1.0 + float(truth.critical_batch(start)) / batch_size)
            diverged = ratio >= truth.diverge_ratio
            error = noise * rng.standard_normal()
            share = 2 * ratio - ratio**2 if truth.basin == "parabola" else float(truth.progress(ratio))
            rows.append({
                "run": name, "lr": lr, "batch_size": batch_size, "seed": seed,
                "status": "diverged" if diverged else "finished",
                "start_checkpoint": checkpoint, "start_loss": start,
            })  # fmt: skip
            if diverged:
                points.append(_diverging(name, start))
                continue
            loss = start - best * (share + error) * steps / horizon_steps
            points.append(pd.DataFrame({"run": name, "step": steps, "loss": loss}))
    runs = pd.DataFrame(rows).assign(**(config or {}), max_steps=horizon_steps)
    return build_curves(runs, pd.concat(points), project=project, source="simulation", loss_name="eval/loss")


def join_curves(*parts: LossCurves) -> LossCurves:
    """The runs of several simulations as one project, named after the first.

    >>> grid, rng = Grid([4], [0.01], 1), np.random.default_rng(0)
    >>> truth = Truth("constant", {"a": 0.01})
    >>> both = join_curves(simulate_training(truth, grid, rng, project="a"), simulate_training(truth, grid, rng))
    >>> both.runs["run"].tolist(), both.project
    (['a-0', 'simulated-0'], 'a')
    """
    runs = pd.concat([part.runs for part in parts], ignore_index=True)
    points = pd.concat([part.points for part in parts], ignore_index=True)
    first = parts[0]
    problems = [problem for part in parts for problem in part.problems]
    return build_curves(
        runs, points, problems=problems, project=first.project, source=first.source,
        loss_name=first.loss_name, batch_unit=first.batch_unit,
    )  # fmt: skip


def _trials(grid: Grid, project: str) -> list[tuple[str, int, float, int]]:
    cells = [(b, lr, seed) for b in grid.batch_sizes for lr in grid.lrs for seed in range(grid.seeds)]
    width = len(str(len(cells) - 1))
    return [(f"{project}-{i:0{width}d}", int(b), float(lr), seed) for i, (b, lr, seed) in enumerate(cells)]


def _logged_steps(max_steps: int) -> NDArray[np.int64]:
    """Every step up to 16, then log-spaced, the last step included."""
    spaced = np.geomspace(16, max(max_steps, 17), 1 + int(np.log(max(max_steps, 17) / 16) / 0.06))
    steps = np.concatenate([np.arange(17), spaced.round(), [max_steps]])
    return np.unique(steps[steps <= max_steps]).astype(np.int64)


def _diverging(name: str, start_loss: float) -> pd.DataFrame:
    return pd.DataFrame(
        {"run": name, "step": [0, 1, 2, 3], "loss": [start_loss, 2 * start_loss, 8 * start_loss, np.nan]}
    )
