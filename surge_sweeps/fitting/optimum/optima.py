"""The optimal learning rates of one target, with their uncertainty: what the laws, verdict and drift start from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.result import OptimumStatus

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Optima:
    """One entry per batch size, ascending; logs are natural.

    Attributes:
        batch_sizes: (n,) batch sizes, in the batch unit.
        log_lr: (n,) log of the optimal learning rate. At an edge it is the log of the grid's edge, otherwise, where
            `status` is neither ok nor edge nor given, NaN.
        status: (n,) how each was found. `edge_high` means: the optimum lies at or above `log_lr`; `edge_low`: at or
            below.
        draws: (n_draws, n) bootstrap draws of `log_lr`, which include the choice of estimator. A draw whose optimum
            lies beyond the grid is +inf or -inf; one without an optimum is NaN.
        log_steps: (n,) log of the steps to the target at the optimum; NaN where the protocol has none.
        log_steps_draws: (n_draws, n) draws of `log_steps`, drawn together with `draws`.
        runs: (n,) every run at that batch size.
        edge_slack: half the spacing of the learning-rate grid, in log: with noise the best learning rate can be the
            last one although the optimum lies that far inside.
    """

    batch_sizes: FloatArray
    log_lr: FloatArray
    status: tuple[OptimumStatus, ...]
    draws: FloatArray
    log_steps: FloatArray
    log_steps_draws: FloatArray
    runs: tuple[int, ...]
    edge_slack: float = 0.0

    def as_lower_bounds(self, batch_sizes: Collection[float]) -> Optima:
        """The same, the optima at these batch sizes known only to lie at or above their values."""
        chosen = [float(b) in batch_sizes for b in self.batch_sizes]
        status: list[OptimumStatus] = [
            "edge_high" if bound else one for one, bound in zip(self.status, chosen, strict=True)
        ]
        draws = np.where(np.array(chosen), np.inf, self.draws)
        return replace(self, status=tuple(status), draws=draws, edge_slack=0.0)

    def known(self) -> NDArray[np.bool_]:
        """(n,) where the optimum is a value rather than a bound or nothing."""
        return np.array([status in ("ok", "given") for status in self.status])

    def log_lr_sd(self) -> FloatArray:
        """(n,) standard deviation of `log_lr` from the central 68% of the draws, edges counting as far away.

        It is infinite where more than a sixth of the draws lie beyond an edge, and NaN where there is no optimum.
        """
        result = np.full(self.log_lr.shape, np.nan)
        for index, known in enumerate(self.known()):
            column = self.draws[:, index]
            column = column[~np.isnan(column)]
            if known and column.size:
                low, high = np.quantile(column, [0.1587, 0.8413], method="nearest")
                result[index] = (high - low) / 2
        return result
