"""Optima drawn from a known law, with the bootstrap draws that five seeds a batch size would give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.theory import LAWS, sign_optimal_step

FloatArray = NDArray[np.float64]


class SimulatedOptima:
    """Makes optima; `truth` is a key of `TRUTHS`, `sd` the noise of one optimum's log LR (mean over seeds)."""

    TWELVE: ClassVar[FloatArray] = 4.0 * 2 ** np.linspace(0, 10, 12)
    TRUTHS: ClassVar[dict[str, tuple[str, dict[str, float]]]] = {
        "surge": ("surge", {"eps_max": 0.01, "b_noise": 64.0}),
        "plateau_9": ("surge_plateau", {"a": 0.01, "b_s": 512.0, "kappa": 9.0}),
        "plateau_0.7": ("surge_plateau", {"a": 0.01, "b_s": 128.0, "kappa": 0.7}),
        "plateau_1": ("surge_plateau", {"a": 0.01, "b_s": 128.0, "kappa": 1.0}),
        "sqrt": ("sqrt", {"a": 1e-4}),
        "linear": ("linear", {"a": 1e-5}),
        "constant": ("constant", {"a": 0.01}),
        "power": ("power", {"a": 1e-3, "alpha": 0.3}),
        "falling": ("power", {"a": 1e-2, "alpha": -0.3}),
        "adam_saturation": ("adam_saturation", {"a": 0.01, "b_s": 128.0}),
        "sgd_saturation": ("sgd_saturation", {"eps_max": 0.01, "b_noise": 128.0}),
    }

    def log_curve(self, truth: str, batch_sizes: FloatArray) -> FloatArray:
        name, parameters = self.TRUTHS[truth]
        return np.log(np.broadcast_to(LAWS[name].evaluate(batch_sizes, **parameters), batch_sizes.shape))

    def simulate(
        self,
        truth: str,
        sd: float,
        rng: np.random.Generator,
        batch_sizes: FloatArray = TWELVE,
        n_draws: int = 200,
    ) -> Optima:
        """Five seeds a batch size; the draws resample them, so their spread is as noisy as five seeds make it."""
        seeds = self.log_curve(truth, batch_sizes) + np.sqrt(5) * sd * rng.standard_normal(
            (5, batch_sizes.size)
        )
        picks = rng.integers(0, 5, (n_draws, 5, batch_sizes.size))
        mean = seeds.mean(axis=0)
        # The bootstrap of five values has four fifths of their variance.
        spread = np.take_along_axis(seeds[None] - mean, picks, axis=1).mean(axis=1) * np.sqrt(5 / 4)
        return self.make(batch_sizes, mean, mean + spread)

    def exact_spread(
        self,
        truth: str,
        sd: float,
        rng: np.random.Generator,
        batch_sizes: FloatArray = TWELVE,
        noise: float = 1.0,
    ) -> Optima:
        """Draws have exactly the right spread; `noise` 0 puts the values on the curve."""
        log_lr = self.log_curve(truth, batch_sizes) + noise * sd * rng.standard_normal(batch_sizes.size)
        return self.make(batch_sizes, log_lr, log_lr + sd * rng.standard_normal((2000, batch_sizes.size)))

    def exact_quadratic(self, kappa: float, sd: float) -> Optima:
        """The optima of sign descent on a noisy quadratic of 40 dimensions, on the curve itself, with spread `sd`.

        On every coordinate the mean gradient is 0.05 and its noise 1, so B_s is 628.3; the off-diagonal curvature is
        `kappa` times the diagonal.
        """
        d = 40
        hessian = np.eye(d) + kappa / (d - 1) * (1 - np.eye(d))
        optimum = sign_optimal_step(self.TWELVE, np.full(d, 0.05), np.ones(d), hessian).lr
        noise = np.random.default_rng(1).standard_normal((1000, self.TWELVE.size))
        return self.make(self.TWELVE, np.log(optimum), np.log(optimum) + sd * noise)

    def make(
        self, batch_sizes: FloatArray, log_lr: FloatArray, draws: FloatArray, status: str = "ok"
    ) -> Optima:
        n, nothing = batch_sizes.size, np.full(batch_sizes.size, np.nan)
        found: Any = (status,) * n
        return Optima(batch_sizes, log_lr, found, draws, nothing, np.full_like(draws, np.nan), (40,) * n)

    def at_edge(self, optima: Optima, index: int, status: str, bound: float) -> Optima:
        """The same optima with one of them beyond the learning-rate grid, whose edge is `bound` (a log)."""
        log_lr, draws, found = optima.log_lr.copy(), optima.draws.copy(), list(optima.status)
        log_lr[index], draws[:, index] = bound, (np.inf if status == "edge_high" else -np.inf)
        found[index] = status  # type: ignore[call-overload]
        return replace(optima, log_lr=log_lr, draws=draws, status=tuple(found))


@pytest.fixture(scope="session")
def simulated() -> SimulatedOptima:
    return SimulatedOptima()
