"""Two checks on the choice of a law beside AICc: how well it predicts, and how often resampled runs would choose it.

Both work on the grids of the fitted laws, with the extra scatter of each law's fit, so that each is a few matrix
products. Leaving out one value costs nothing more: the residual that a left-out value has under the curve refitted to
the others follows from the residuals to all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.curve_grid import CurveGrid
from surge_sweeps.fitting.laws.likelihood import Observations

FloatArray = NDArray[np.float64]

#: Draws that are refitted, spread evenly over those there are.
MAX_DRAWS = 200

_FARTHEST_SDS = 4.0
_MIN_LEFT = 2
_BLOCK = 16  # rows whose scores against all curves stay in the processor's cache


class LawResiduals:
    """Sums of squares of the values about every curve of one law, the level free, under its noise.

    Args:
        observed: the optima; bounds are left out. grids: of the law. scatter_sd: the law's extra scatter of log LR.
    """

    def __init__(self, observed: Observations, grids: Iterable[CurveGrid], scatter_sd: float) -> None:
        use = observed.values
        sizes = observed.batch_sizes[use]
        self._curves = np.concatenate([grid.curves(sizes) for grid in grids])
        self._values = observed.log_lr[use]
        precision = np.linalg.inv(observed.covariance(scatter_sd))
        rows = precision.sum(axis=1)
        self._metric = precision - np.outer(rows, rows) / rows.sum()  # of residuals, less their common level

    def left_out_error(self) -> float | None:
        """Root mean square of log LR minus its prediction from the others; None with fewer than three values.

        The prediction is the curve refitted without the value, its level too, and what correlated noise of the
        others says about the value's own.
        """
        if self._values.size <= _MIN_LEFT:
            return None
        residuals = self._values - self._curves
        leaning = residuals @ self._metric  # (G, v)
        own = np.diag(self._metric)
        without = (leaning * residuals).sum(axis=1)[:, None] - leaning**2 / own
        best = without.argmin(axis=0)
        errors = leaning[best, np.arange(own.size)] / own
        return float(np.sqrt(np.mean(errors**2)))

    def least_squares(self, rows: FloatArray) -> FloatArray:
        """(R,) weighted sum of squares of each (R, v) row of values about the curve that fits it best."""
        # Shifted to the values, where the squares are small and their differences exact.
        rows, curves = rows - self._values, self._curves - self._values
        turned = (curves @ self._metric).T
        halves = 0.5 * np.einsum("gv,vg->g", curves, turned)
        blocks = [rows[start : start + _BLOCK] for start in range(0, rows.shape[0], _BLOCK)]
        best = np.concatenate([(block @ turned - halves).max(axis=1) for block in blocks])
        return np.asarray(np.einsum("rv,vw,rw->r", rows, self._metric, rows) - 2 * best)


def selection_frequencies(
    residuals: Mapping[str, LawResiduals],
    criteria: Mapping[str, float | None],
    observed: Observations,
    draws: FloatArray,
) -> dict[str, float | None]:
    """Share of the draws in which each law has the lowest AICc; None for laws without one, and without draws.

    A draw changes a law's AICc by the change in its sum of squares: bounds and extra scatter stay as they were.

    Args:
        residuals, criteria: per law. observed: what was fitted. draws: (n_draws, v) of the values; missing ones count
            as the value itself, and those far off, edges included, as four standard deviations from it.
    """
    known = [name for name, value in criteria.items() if value is not None]
    if not draws.shape[0] or not known:
        return dict.fromkeys(criteria)
    chosen = draws[np.linspace(0, draws.shape[0] - 1, min(MAX_DRAWS, draws.shape[0])).astype(int)]
    values, sd = observed.log_lr[observed.values], np.sqrt(observed.variance[observed.values])
    near = np.clip(chosen, values - _FARTHEST_SDS * sd, values + _FARTHEST_SDS * sd)
    rows = np.concatenate([values[None], np.where(np.isnan(chosen), values, near)])
    squares = np.stack([residuals[name].least_squares(rows) for name in known])
    start = np.array([[criteria[name] for name in known]], float).T
    winners = (start + squares[:, 1:] - squares[:, :1]).argmin(axis=0)
    shares = np.bincount(winners, minlength=len(known)) / winners.size
    return {
        **dict.fromkeys(criteria),
        **{name: float(share) for name, share in zip(known, shares, strict=True)},
    }
