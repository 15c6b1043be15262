"""Optima drawn from a known law, with the bootstrap draws that four seeds a batch size would give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from surge_sweeps.fitting.optima import Optima
from surge_sweeps.theory import LAWS

FloatArray = NDArray[np.float64]


class SimulatedOptima:
    """Makes optima; `truth` is a key of `TRUTHS`, `sd` the noise of one optimum's log LR (mean over seeds)."""

    TWELVE: ClassVar[FloatArray] = 4.0 * 2 ** np.linspace(0, 10, 12)
    TRUTHS: ClassVar[dict[str, tuple[str, dict[str, float]]]] = {
        "surge": ("surge", {"eps_max": 0.01, "b_noise": 64.0}),
        "plateau_9": ("surge_plateau", {"a": 0.01, "b_s": 512.0, "kappa": 9.0}),
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
        """Four seeds a batch size; the draws resample them, so their spread is as noisy as four seeds make it."""
        seeds = self.log_curve(truth, batch_sizes) + 2 * sd * rng.standard_normal((4, batch_sizes.size))
        picks = rng.integers(0, 4, (n_draws, 4, batch_sizes.size))
        return self.make(
            batch_sizes, seeds.mean(0), np.take_along_axis(seeds[None], picks, axis=1).mean(axis=1)
        )

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
