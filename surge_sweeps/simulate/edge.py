"""A stability edge that falls with the batch size, over any truth.

Above the batch size where the edge crosses the law, the best learning rate that still trains falls although the
optimum itself does not: data from such a sweep can look like a surge and is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from surge_sweeps.errors import SurgeError
from surge_sweeps.simulate.basins import Basin, BasinName
from surge_sweeps.simulate.grid import BoolArray, FloatArray
from surge_sweeps.simulate.truth import KnownTruth


@dataclass(frozen=True)
class FallingEdge:
    """`truth`, of which a run at or above the LR edge_at_one B^-exponent diverges.

    `optimal_lr`, `peak` and the rest stay those of `truth`; `best_stable_lr` is what a perfect sweep would find.

    Attributes:
        truth: what the runs below the edge follow; its own divergence holds as well.
        edge_at_one: the edge at B = 1. exponent: how fast it falls; 0: the same LR at every batch size.

    Raises:
        SurgeError: `edge_at_one` is not positive, or `exponent` is negative.

    >>> from surge_sweeps.simulate.truth import Truth
    >>> truth = FallingEdge(Truth("sqrt", {"a": 0.01}), edge_at_one=0.64, exponent=0.5)
    >>> truth.best_stable_lr([16, 64, 256]).tolist(), truth.peak()
    ([0.04, 0.08, 0.04], None)
    """

    truth: KnownTruth
    edge_at_one: float
    exponent: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.edge_at_one < np.inf and 0 <= self.exponent < np.inf):
            raise SurgeError(
                f"the edge {self.edge_at_one} B^-{self.exponent} is no falling edge.",
                "Give a positive LR at B = 1 and an exponent that is not negative.",
            )

    @property
    def start_loss(self) -> float:
        """The loss at step 0."""
        return self.truth.start_loss

    @property
    def basin(self) -> BasinName | Basin:
        """Shape of the basin around the optimal LR."""
        return self.truth.basin

    def optimal_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """LR of the largest progress, whether or not it trains."""
        return self.truth.optimal_lr(batch_size, loss)

    def best_stable_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """The optimal LR, or the edge where that is lower."""
        return np.minimum(self.optimal_lr(batch_size, loss), self.diverging_lr(batch_size, loss))

    def diverging_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """The stability edge: a run at or above this LR diverges."""
        return np.minimum(self._edge(batch_size), self.truth.diverging_lr(batch_size, loss))

    def diverges(self, batch_size: ArrayLike, lr: ArrayLike, loss: ArrayLike | None = None) -> BoolArray:
        """Whether a run diverges."""
        beyond = np.asarray(lr, float) >= self._edge(batch_size)
        return np.asarray(beyond | self.truth.diverges(batch_size, lr, loss))

    def peak(self, loss: float | None = None) -> float | None:
        """B_peak of the optimal LR; the edge makes none."""
        return self.truth.peak(loss)

    def critical_batch(self, loss: ArrayLike) -> FloatArray:
        """B_crit of the truth, at the optimal LR."""
        return self.truth.critical_batch(loss)

    def overhead(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """Steps at the optimal LR relative to those at infinite batch size."""
        return self.truth.overhead(batch_size, loss)

    def steps(self, batch_size: ArrayLike, loss: ArrayLike) -> FloatArray:
        """Steps from the start to `loss` at the optimal LR."""
        return self.truth.steps(batch_size, loss)

    def progress(self, ratio: ArrayLike) -> FloatArray:
        """Progress per step relative to the optimum, at `ratio` = LR / optimal LR."""
        return self.truth.progress(ratio)

    def _edge(self, batch_size: ArrayLike) -> FloatArray:
        return np.asarray(self.edge_at_one * np.asarray(batch_size, float) ** -self.exponent)
