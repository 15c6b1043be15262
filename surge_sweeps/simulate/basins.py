"""How progress falls away from the optimal learning rate: the shape of the basin, against u = LR / optimal LR.

Every basin has progress 1 at u = 1. A one-step gain is an exact parabola in the LR itself (Lemma 1 of Li et al. 2024,
arXiv 2405.14578): in x = log u its log is -x^2 - x^3 - ..., steep at high LR. Measured basins are less skewed, or
skewed the other way: a fit has to work for all of these. All but `Kinked` have log progress -x^2 near the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import hyp1f1

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.simulate.grid import FloatArray

#: Below this |skew| the difference in the exponent loses digits, and its confluent hypergeometric form is taken.
_SMALL_SKEW = 0.1


class Basin(Protocol):
    """The shape of a basin."""

    def progress(self, ratio: ArrayLike) -> FloatArray:
        """Progress per step relative to the optimum at `ratio` = LR / optimal LR > 0; 0 where there is none."""

    def gain(self, ratio: float) -> float:
        """Loss decrease over a short horizon relative to the optimum; negative where the loss rises."""


@dataclass(frozen=True)
class Parabola:
    """2u - u^2: one step on a quadratic loss (Lemma 1). No progress from u = 2 on, where the loss rises.

    >>> Parabola().progress([0.5, 1.0, 3.0]).tolist(), Parabola().gain(3.0)
    ([0.75, 1.0, 0.0], -3.0)
    """

    def progress(self, ratio: ArrayLike) -> FloatArray:
        """See `Basin`."""
        u = np.asarray(ratio, float)
        return np.asarray(np.maximum(2 * u - u**2, 0.0))

    def gain(self, ratio: float) -> float:
        """See `Basin`."""
        return 2 * ratio - ratio**2


@dataclass(frozen=True)
class LogSkew:
    """log progress = -2 (u^s - 1 - s log u) / s^2, and -(log u)^2 for s = 0; positive everywhere.

    In x = log u this is -x^2 - s x^3 / 3 - ...: s < 0 is steep at low LR, s = 0 symmetric in log LR, s > 0 steep at
    high LR. s = 3 has the third-order skew of the parabola; s = 1 is the basin named `skewed`.

    >>> LogSkew(0.0).progress([0.5, 2.0]).round(4), LogSkew(3.0).progress([0.5, 2.0]).round(4)
    (array([0.6185, 0.6185]), array([0.7652, 0.3351]))
    """

    skew: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.skew):
            raise SurgeError(f"the skew {self.skew} of a basin is not a finite number.", "0 is symmetric.")

    def progress(self, ratio: ArrayLike) -> FloatArray:
        """See `Basin`."""
        u, s = np.asarray(ratio, float), self.skew
        x = np.log(u)
        if abs(s) < _SMALL_SKEW:
            return np.asarray(np.exp(-(x**2) * hyp1f1(1.0, 3.0, s * x)))
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(-2.0 * (u**s - 1.0 - s * x) / s**2))

    def gain(self, ratio: float) -> float:
        """See `Basin`."""
        return float(self.progress(ratio))


@dataclass(frozen=True)
class Kinked:
    """A V: progress falls as u^low below the optimum and as u^-high above it; no curve that is smooth fits its tip.

    >>> Kinked(low=1.0, high=2.0).progress([0.5, 1.0, 2.0]).tolist()
    [0.5, 1.0, 0.25]
    """

    low: float = 1.0
    high: float = 2.0

    def __post_init__(self) -> None:
        if not (0 < self.low < np.inf and 0 < self.high < np.inf):
            raise SurgeError(f"the slopes {self.low} and {self.high} of a kinked basin must be positive.")

    def progress(self, ratio: ArrayLike) -> FloatArray:
        """See `Basin`."""
        u = np.asarray(ratio, float)
        return np.asarray(np.minimum(u**self.low, u**-self.high))

    def gain(self, ratio: float) -> float:
        """See `Basin`."""
        return float(self.progress(ratio))


BasinName = Literal["parabola", "skewed"]

_NAMED: dict[str, Basin] = {"parabola": Parabola(), "skewed": LogSkew(1.0)}


def basin_of(basin: BasinName | Basin) -> Basin:
    """The basin itself, or the one of that name.

    Raises:
        UnknownNameError: no basin has that name.

    >>> basin_of("skewed")
    LogSkew(skew=1.0)
    """
    if not isinstance(basin, str):
        return basin
    if basin not in _NAMED:
        raise UnknownNameError("basin", basin, _NAMED)
    return _NAMED[basin]
