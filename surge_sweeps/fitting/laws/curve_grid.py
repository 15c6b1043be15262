"""Dense grids over the shape parameters of the candidate laws.

A law is a level times a curve whose shape has at most two parameters, so a grid over those finds every optimum of its
likelihood: there is no starting point and no local minimum to fall into. The law with a plateau has two grids, one
of curves that only rise and one of curves that peak, laid out by peak position. Each grid is laid twice, the second
time over the part that the first found likely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfinv

from surge_sweeps.theory import LAWS

FloatArray = NDArray[np.float64]

#: How far beyond the measured batch sizes scale parameters (B_noise, B_s) and B_peak are sought, as a factor.
SCALE_REACH = 1000.0
PEAK_REACH = 100.0
#: Range of kappa; beyond it the curve is the plain surge law at any batch size that was measured.
KAPPA_MIN, KAPPA_MAX = -0.9, 1e5

# "rising" and "peaked" are the two halves of the plateau law.
Layout = Literal["none", "exponent", "scale", "rising", "peaked"]


@dataclass(frozen=True, eq=False)
class CurveGrid:
    """The curves of one law over a product of evenly spaced axes.

    Attributes:
        law: its name. layout: what the axes are: none; "exponent": alpha; "scale": log of B_noise or B_s;
            "rising": log B_s and log(1 + kappa), kappa <= 1; "peaked": log B_peak and log(kappa - 1).
        axes: one ascending array an axis. Curves run over them in C order, G in all.
        exact: the error-function form of the plateau law instead of the algebraic one.
    """

    law: str
    layout: Layout
    axes: tuple[FloatArray, ...]
    exact: bool = False

    @property
    def size(self) -> int:
        """G, the number of curves."""
        return math.prod(axis.size for axis in self.axes)

    def points(self) -> FloatArray:
        """(G, d) the coordinates of every curve on the d axes."""
        if not self.axes:
            return np.empty((1, 0))
        return np.stack([part.ravel() for part in np.meshgrid(*self.axes, indexing="ij")], axis=1)

    def shape(self) -> dict[str, FloatArray]:
        """Shape parameter name -> (G,) values."""
        return self.shape_at(self.points())

    def shape_at(self, points: FloatArray) -> dict[str, FloatArray]:
        """Shape parameter name -> (M,) values at (M, d) coordinates, on the grid or between its points."""
        if self.layout == "none":
            return {}
        first, *rest = points.T
        if self.layout == "rising":
            return {"b_s": np.exp(first), "kappa": np.expm1(rest[0])}
        if self.layout == "peaked":
            kappa = 1 + np.exp(rest[0])
            scale = np.pi / (4 * erfinv(kappa**-0.5) ** 2) if self.exact else np.exp(rest[0])  # b_s / B_peak
            return {"b_s": np.exp(first) * scale, "kappa": kappa}
        return {LAWS[self.law].parameters[1]: first if self.layout == "exponent" else np.exp(first)}

    def curves(self, batch_sizes: FloatArray) -> FloatArray:
        """(G, n) log of every curve with multiplier 1 at the (n,) batch sizes."""
        return self.curves_at(self.points(), batch_sizes)

    def curves_at(self, points: FloatArray, batch_sizes: FloatArray) -> FloatArray:
        """(M, n) log of the curves with multiplier 1 at (M, d) coordinates and (n,) batch sizes."""
        law, shape = LAWS[self.law], {name: value[:, None] for name, value in self.shape_at(points).items()}
        exact = {"exact": True} if self.exact else {}
        values = law.evaluate(batch_sizes[None, :], **{law.parameters[0]: 1.0}, **shape, **exact)
        return np.log(np.broadcast_to(values, (points.shape[0], batch_sizes.size)))

    def profile(self, log_likelihood: FloatArray, axis: int) -> FloatArray:
        """Best of the (G,) log likelihoods at each point of one axis."""
        cube = log_likelihood.reshape([part.size for part in self.axes])
        return np.asarray(cube.max(axis=tuple(other for other in range(len(self.axes)) if other != axis)))

    def zoomed(self, keep: NDArray[np.bool_]) -> CurveGrid:
        """The same number of curves over the box that holds the (G,) kept ones, one cell wider all round."""
        if not self.axes or not keep.any():
            return self
        axes = []
        for index, axis in enumerate(self.axes):
            kept = np.flatnonzero(self.profile(keep.astype(float), index))
            low, high = max(int(kept[0]) - 1, 0), min(int(kept[-1]) + 1, axis.size - 1)
            axes.append(np.linspace(axis[low], axis[high], axis.size))
        return CurveGrid(self.law, self.layout, tuple(axes), self.exact)


def curve_grids(law: str, b_min: float, b_max: float, *, exact: bool = False) -> tuple[CurveGrid, ...]:
    """The grid of a law for batch sizes measured from `b_min` to `b_max`; two for the law with a plateau.

    `exact` takes the error-function form of the plateau law; other laws have none.

    >>> [(grid.layout, grid.size) for grid in curve_grids("surge", 4.0, 512.0)]
    [('scale', 129)]
    >>> [grid.layout for grid in curve_grids("surge_plateau", 4.0, 512.0)]
    ['rising', 'peaked']
    """
    if law in ("constant", "sqrt", "linear"):
        return (CurveGrid(law, "none", ()),)
    if law == "power":
        return (CurveGrid(law, "exponent", (np.linspace(-2.0, 2.0, 129),)),)
    if law != "surge_plateau":
        return (CurveGrid(law, "scale", (_log_range(b_min, b_max, SCALE_REACH, 129),)),)
    kappa_rising = np.linspace(math.log1p(KAPPA_MIN), math.log(2.0), 25)
    kappa_peaked = np.linspace(math.log(0.03), math.log(KAPPA_MAX - 1), 41)
    return (
        CurveGrid(law, "rising", (_log_range(b_min, b_max, SCALE_REACH, 65), kappa_rising), exact),
        CurveGrid(law, "peaked", (_log_range(b_min, b_max, PEAK_REACH, 81), kappa_peaked), exact),
    )


def _log_range(b_min: float, b_max: float, reach: float, points: int) -> FloatArray:
    return np.linspace(math.log(b_min / reach), math.log(b_max * reach), points)
