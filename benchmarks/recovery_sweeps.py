"""Simulated sweeps with known truth for `benchmarks.recovery`, and the fit of each in parallel processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting import fit
from surge_sweeps.fitting.result import TargetFit
from surge_sweeps.simulate import (
    Basin,
    Damage,
    FallingEdge,
    Grid,
    KnownTruth,
    LogSkew,
    Noise,
    Parabola,
    Truth,
    join_curves,
    simulate_training,
)

FloatArray = NDArray[np.float64]
Result = TypeVar("Result")

#: Twelve batch sizes, eleven learning rates a factor 1.45 apart about a guess within a factor 1.6 of the optimum.
BATCH_SIZES = [4 * 2**step for step in range(12)]
LEARNING_RATES = 11
LR_RATIO = 1.45
GUESS_SD = 0.25
TARGET_LOSS = 0.5

#: None but the symmetric one and the parabola is among the shapes that the fit tries.
BASINS: dict[str, Basin] = {
    "parabola in LR": Parabola(),
    **{f"skew {skew:g}": LogSkew(skew) for skew in (-1.4, -0.6, 0.0, 0.6, 1.4, 2.2)},
}

#: Truths without a peak.
MONOTONE: dict[str, tuple[str, dict[str, float]]] = {
    "constant": ("constant", {"a": 0.01}),
    "sqrt": ("sqrt", {"a": 1e-3}),
    "linear": ("linear", {"a": 1e-4}),
    "power 0.3": ("power", {"a": 2e-3, "alpha": 0.3}),
    "falling power -0.3": ("power", {"a": 0.1, "alpha": -0.3}),
    "SGD saturation": ("sgd_saturation", {"eps_max": 0.05, "b_noise": 256.0}),
    "Adam saturation": ("adam_saturation", {"a": 0.05, "b_s": 256.0}),
    "plateau, kappa 1": ("surge_plateau", {"a": 0.05, "b_s": 256.0, "kappa": 1.0}),
}
PEAKED: dict[str, tuple[str, dict[str, float]]] = {
    "surge, kappa 9": ("surge_plateau", {"a": 0.05, "b_s": 1024.0, "kappa": 9.0}),
    "surge, no plateau": ("surge", {"eps_max": 0.01, "b_noise": 128.0}),
}


@dataclass(frozen=True)
class Case:
    """One kind of sweep: its truth, its noise and what went wrong in it."""

    law: str
    parameters: dict[str, float]
    basin: Basin = field(default_factory=Parabola)
    seeds: int = 5
    noise: Noise = field(default_factory=lambda: Noise(0.1))
    damage: Damage = field(default_factory=Damage)
    b_crit: float = 102.4
    edge: tuple[float, float] | None = None

    def truth(self) -> KnownTruth:
        """The truth, under its stability edge if it has one."""
        plain = Truth(
            self.law,
            self.parameters,
            basin=self.basin,
            b_crit=self.b_crit,
            steps_scale=400.0,
            diverge_ratio=8.0,
        )
        return FallingEdge(plain, *self.edge) if self.edge else plain


def sweep_of(case: Case, rng: np.random.Generator) -> LossCurves:
    """One simulated sweep: a window of learning rates of its own for every batch size."""
    truth = case.truth()
    parts = []
    for batch_size in BATCH_SIZES:
        guess = np.log(truth.optimal_lr(batch_size, TARGET_LOSS)) + GUESS_SD * rng.standard_normal()
        steps = np.arange(LEARNING_RATES) - (LEARNING_RATES - 1) / 2
        rates = np.exp(guess + np.log(LR_RATIO) * steps).tolist()
        longest = float(truth.steps(batch_size, TARGET_LOSS)) * 60
        parts.append(
            simulate_training(
                truth, Grid([batch_size], rates, case.seeds), rng, noise=case.noise, damage=case.damage,
                max_steps=int(longest), target_loss=TARGET_LOSS * 0.9, project=f"b{batch_size}",
            )
        )  # fmt: skip
    return join_curves(*parts)


def fit_of(case: Case, seed: int, draws: int) -> TargetFit:
    """The fit of one simulated sweep at one loss."""
    rng = np.random.default_rng(seed)
    return (
        fit(sweep_of(case, rng), target_losses=[TARGET_LOSS], n_draws=draws, seed=seed).groups[0].targets[0]
    )


def fits_of(case: Case, count: int, draws: int = 400) -> Iterator[TargetFit]:
    """`count` sweeps of one kind, simulated and fitted on all cores; seeds 0 to count - 1."""
    yield from in_parallel(_Fit(case, draws), range(count))


@dataclass(frozen=True)
class _Fit:
    case: Case
    draws: int

    def __call__(self, seed: int) -> TargetFit:
        return fit_of(self.case, seed, self.draws)


def in_parallel(work: Callable[[int], Result], seeds: Sequence[int]) -> Iterator[Result]:
    """Results in the order of the seeds."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, seeds, chunksize=4)


def true_shape_width(case: Case, cell_noise: float) -> float:
    """Median log-width of a 95% interval from least squares with the true shape over every cell of a sweep.

    Level, place and (but for the parabola, which has none) bend of each basin are free; the noise is known, nothing
    is damaged: the least that any estimator can need.
    """
    x = np.log(LR_RATIO) * (np.arange(LEARNING_RATES) - (LEARNING_RATES - 1) / 2)
    step = 1e-5
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [-np.log(case.basin.progress(np.exp(x + shift))) for shift in (-step, 0.0, step)]
        slope = (logs[2] - logs[0]) / (2 * step)
    known = np.isfinite(slope) & np.isfinite(logs[1])
    columns = [np.ones(known.sum()), slope[known]]
    if not isinstance(case.basin, Parabola):
        columns.append(logs[1][known])
    normal = np.stack(columns, axis=1)
    covariance = np.linalg.inv(normal.T @ normal) * cell_noise**2
    return float(2 * 1.96 * np.sqrt(covariance[1, 1]))
