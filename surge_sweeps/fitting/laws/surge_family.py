"""Profile intervals over the whole family of surge laws: where the peak is, how strong the surge.

The family is the law with a plateau together with its limit, the plain surge law (kappa to infinity). Its members
with kappa <= 1 only rise, which is a peak at infinity: where they are not excluded, B_peak has no upper end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.curve_grid import CurveGrid
from surge_sweeps.fitting.laws.likelihood import LevelFit
from surge_sweeps.fitting.laws.profile import Ends, around, exp_ends, interval, profile_ends
from surge_sweeps.fitting.result import Interval
from surge_sweeps.theory import LAWS

FloatArray = NDArray[np.float64]

B_PEAK = (
    "batch size at which the optimal learning rate is largest, under the surge laws with and without plateau"
)
KAPPA = "strength of the surge: off-diagonal sign curvature over tr H; the optimal learning rate falls if it is above 1"

#: Parameters of the family's curves: level, B_s and kappa.
FAMILY_PARAMETERS = len(LAWS["surge_plateau"].parameters)


@dataclass(frozen=True, eq=False)
class SurgeFamily:
    """The likelihood of every surge law over its grids.

    Attributes:
        rising, peaked: the plateau law with kappa <= 1 and > 1; surge: the law without plateau. threshold: fall of
            2 log likelihood inside the interval. b_min, b_max: the measured batch sizes.
    """

    rising: tuple[CurveGrid, LevelFit]
    peaked: tuple[CurveGrid, LevelFit]
    surge: tuple[CurveGrid, LevelFit]
    threshold: float
    b_min: float
    b_max: float

    def b_peak(self, estimate: float | None) -> Interval:
        """Interval of B_peak; an end outside the measured batch sizes is open."""
        # The plain surge law needs no profile of its own: it is the peaked grid's largest kappa.
        values, near = self.peaked[0].axes[0], _profile(self.peaked, 0)
        ends = profile_ends(values, near, self._best(), self.threshold)
        if self._inside(self.rising):
            nothing_inside = ends == Ends(None, None) and 2 * (self._best() - near[-1]) >= self.threshold
            ends = Ends(float(values[-1]) if nothing_inside else ends.low, None)
        low, high = exp_ends(ends)
        low = None if low is None or low < self.b_min else min(low, self.b_max)
        high = None if high is None or high > self.b_max else max(high, self.b_min)
        return interval(estimate, around(Ends(low, high), estimate), B_PEAK)

    def kappa(self, estimate: float) -> Interval:
        """Interval of kappa, open upward where the plain surge law (no plateau) is inside."""
        values = np.concatenate([self.rising[0].axes[1], np.log(2 + np.exp(self.peaked[0].axes[1]))])
        near = np.concatenate([_profile(self.rising, 1), _profile(self.peaked, 1)])
        ends = profile_ends(values, near, self._best(), self.threshold)
        low = None if ends.low is None else float(np.expm1(ends.low))
        high = None if ends.high is None or self._inside(self.surge) else float(np.expm1(ends.high))
        return interval(estimate, around(Ends(low, high), estimate), KAPPA)

    def _best(self) -> float:
        return max(float(levels.log_likelihood.max()) for _, levels in (self.rising, self.peaked, self.surge))

    def _inside(self, part: tuple[CurveGrid, LevelFit]) -> bool:
        return 2 * (self._best() - float(part[1].log_likelihood.max())) < self.threshold


def _profile(part: tuple[CurveGrid, LevelFit], axis: int) -> FloatArray:
    return part[0].profile(part[1].log_likelihood.max(axis=1), axis)
