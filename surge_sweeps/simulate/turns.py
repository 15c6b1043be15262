"""Where a smooth positive curve over the batch size turns from rising to falling, and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar

from surge_sweeps.simulate.grid import FloatArray

Curve = Callable[[FloatArray], FloatArray]
TurnFinder = Callable[[Curve, float, float], float | None]

#: Points per factor e of the batch size on which turns are sought.
_POINTS_PER_E = 20
#: Changes of the log of the curve below this, from point to point, are rounding.
_FLAT = 1e-9


def first_maximum(curve: Curve, low: float, high: float) -> float | None:
    """The smallest batch size with its log between `low` and `high` where the curve starts to fall; None: never.

    >>> round(first_maximum(lambda b: np.sqrt(b) / (1 + b / 30), 0.0, 8.0), 3)
    30.0
    """
    x, slopes = _slopes(curve, low, high)
    falls = np.flatnonzero(slopes < -_FLAT)
    return _refine(lambda b: -curve(b), x, int(falls[0])) if falls.size else None


def minimum_after_maximum(curve: Curve, low: float, high: float) -> float | None:
    """The batch size where the curve, having started to fall, starts to rise again; None: never.

    >>> round(minimum_after_maximum(lambda b: 2 + np.cos(np.log(b)), -1.0, 5.0), 2)
    23.14
    """
    x, slopes = _slopes(curve, low, high)
    falls = np.flatnonzero(slopes < -_FLAT)
    rises = np.flatnonzero(slopes > _FLAT)
    later = rises[rises > falls[0]] if falls.size else rises[:0]
    return _refine(curve, x, int(later[0])) if later.size else None


def _slopes(curve: Curve, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    x = np.linspace(low, high, int((high - low) * _POINTS_PER_E) + 1)
    return x, np.diff(np.log(curve(np.exp(x))))


def _refine(height: Curve, x: FloatArray, turn: int) -> float:
    """The minimum of `height` next to point `turn`, which is the lowest of the points around it."""
    around = (float(x[max(turn - 1, 0)]), float(x[turn + 1]))
    found = minimize_scalar(
        lambda log_batch: float(height(np.exp(np.asarray(log_batch)))),
        bounds=around,
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(np.exp(found.x))
