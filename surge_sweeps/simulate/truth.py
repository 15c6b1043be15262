"""What simulated runs follow: the contract of every truth, and the truth of the candidate laws.

Steps to a loss follow eq. 20 of Li et al. 2024 (arXiv 2405.14578) at the optimal learning rate and grow away from it
as the basin says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.simulate.basins import Basin, BasinName, basin_of
from surge_sweeps.simulate.grid import BoolArray, FloatArray
from surge_sweeps.theory import LAWS, peak_batch_size, steps_to_target


class KnownTruth(Protocol):
    """What a simulation asks of a truth. Batch sizes in the batch unit; a `loss` of None is the start loss."""

    @property
    def start_loss(self) -> float:
        """The loss at step 0."""

    @property
    def basin(self) -> BasinName | Basin:
        """Shape of the basin around the optimal LR."""

    def optimal_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """LR of the largest progress, whether or not it trains."""

    def diverging_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """The stability edge: a run at or above this LR diverges."""

    def diverges(self, batch_size: ArrayLike, lr: ArrayLike, loss: ArrayLike | None = None) -> BoolArray:
        """Whether a run diverges."""

    def peak(self, loss: float | None = None) -> float | None:
        """B_peak, where the optimal LR stops rising and falls; None where it never falls."""

    def critical_batch(self, loss: ArrayLike) -> FloatArray:
        """B_crit, where the steps at the optimal LR are twice those at infinite batch size."""

    def overhead(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """Steps at the optimal LR relative to those at infinite batch size; 1 + B_crit / B for a hyperbola."""

    def steps(self, batch_size: ArrayLike, loss: ArrayLike) -> FloatArray:
        """Steps from the start to `loss` at the optimal LR."""

    def progress(self, ratio: ArrayLike) -> FloatArray:
        """Progress per step relative to the optimum, at `ratio` = LR / optimal LR; 0 where there is none."""


@dataclass(frozen=True)
class Truth:
    """The truth of a law of the optimal LR.

    eq 1 to 3 of Li et al. 2024 (SGD, all B) hold together with the law `sgd_saturation` where `b_crit` is its
    `b_noise`; the mean-field theory holds with `surge_plateau` where `b_crit` is b_s / (1 + kappa).

    Attributes:
        law: name of a law of `theory.LAWS`. parameters: its parameters, batch sizes in the batch unit.
        start_loss: the loss at step 0.
        peak_drift: exponent b; at loss L the law holds with B (L / start_loss)**b for B, so that B_peak ~ L**(-b).
        steps_scale, steps_exponent: S_min(L) = steps_scale ((start_loss / L)**steps_exponent - 1).
        b_crit: critical batch size at the start loss. b_crit_drift: exponent c of B_crit ~ L**(-c).
        basin: progress against u = LR / optimal LR: `parabola` 2u - u^2 (Lemma 1, none from u = 2 on); `skewed`,
            log progress = -2 (u - 1 - log u), of the same curvature at the optimum and positive everywhere; or any
            `Basin`, such as `LogSkew` or `Kinked`.
        diverge_ratio: a run with u at or above this diverges.

    Raises:
        UnknownNameError: of the law. SurgeError: the law takes other parameters.
    """

    law: str
    parameters: Mapping[str, float]
    start_loss: float = 2.3
    peak_drift: float = 0.0
    steps_scale: float = 20.0
    steps_exponent: float = 1.0
    b_crit: float = 32.0
    b_crit_drift: float = 0.0
    basin: BasinName | Basin = "parabola"
    diverge_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise UnknownNameError("law", self.law, LAWS)
        if set(self.parameters) != set(LAWS[self.law].parameters):
            raise SurgeError(
                f"the law {self.law!r} does not take the parameters {', '.join(sorted(self.parameters))}.",
                f"It takes: {', '.join(LAWS[self.law].parameters)}.",
            )
        basin_of(self.basin)

    def optimal_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """The optimal LR at `loss` (default: the start loss).

        >>> Truth("sqrt", {"a": 0.01}).optimal_lr([4, 16]).round(6).tolist()
        [0.02, 0.04]
        """
        reached = np.asarray(self.start_loss if loss is None else loss, float)
        shifted = np.asarray(batch_size, float) * (reached / self.start_loss) ** self.peak_drift
        return np.asarray(LAWS[self.law].evaluate(shifted, **self.parameters), float)

    def diverging_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """The stability edge, diverge_ratio times the optimal LR."""
        return np.asarray(self.diverge_ratio * self.optimal_lr(batch_size, loss))

    def diverges(self, batch_size: ArrayLike, lr: ArrayLike, loss: ArrayLike | None = None) -> BoolArray:
        """Whether LR / optimal LR is at or above `diverge_ratio`."""
        return np.asarray(np.asarray(lr, float) / self.optimal_lr(batch_size, loss) >= self.diverge_ratio)

    def peak(self, loss: float | None = None) -> float | None:
        """B_peak at `loss` (default: the start loss), None for a law without a peak."""
        peak = peak_batch_size(self.law, self.parameters)
        shift = 1.0 if loss is None else (loss / self.start_loss) ** self.peak_drift
        return None if peak is None else peak / shift

    def critical_batch(self, loss: ArrayLike) -> FloatArray:
        """B_crit for reaching `loss`."""
        return np.asarray(self.b_crit * (np.asarray(loss, float) / self.start_loss) ** -self.b_crit_drift)

    def overhead(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """1 + B_crit / B at `loss` (default: the start loss).

        >>> float(Truth("constant", {"a": 0.1}).overhead(32))
        2.0
        """
        b_crit = self.critical_batch(self.start_loss if loss is None else loss)
        return np.asarray(1.0 + b_crit / np.asarray(batch_size, float))

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
        return basin_of(self.basin).progress(ratio)
