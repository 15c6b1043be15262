"""Checks of the hyperbola of steps against batch size: its exponent, and examples that turn up at small batches.

Both ask whether S = S_min (1 + B_crit/B) (eq 20 of Li et al. 2024, arXiv 2405.14578) describes the steps at all, by
adding one parameter. Neither changes the fit of the hyperbola: what they find is reported beside it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import f as f_distribution

from surge_sweeps.fitting.draw_patterns import parabola_peak
from surge_sweeps.fitting.laws.profile import around, exp_ends, interval, profile_ends
from surge_sweeps.fitting.result import Interval, UShape
from surge_sweeps.fitting.tradeoff.hyperbola import (
    STEPS_SD_FLOOR,
    allowed_rise,
    fit_hyperbola,
    hyperbola_grid,
    sums_of_squares,
)

FloatArray = NDArray[np.float64]

#: Fewest batch sizes for a fit with one parameter more than the hyperbola's two.
MIN_FOR_CHECK = 5
#: The p-value below which examples are said to turn up again at small batch sizes.
U_SHAPE_LEVEL = 0.01

_EXPONENTS = np.geomspace(0.25, 4.0, 65)
_EXPONENT = "q of S = S_min (1 + (B_crit/B)^q): 1 for the hyperbola"
_TURNS = 25


def hyperbola_exponent(batch_sizes: FloatArray, log_steps: FloatArray) -> Interval:
    """Profile interval of q in S = S_min (1 + (B_crit/B)^q); not identified with fewer than five batch sizes.

    Args:
        batch_sizes: (n,). log_steps: (n,) finite.

    >>> b = np.array([8.0, 32.0, 128.0, 512.0, 2048.0])
    >>> round(hyperbola_exponent(b, np.log(1 + (100 / b) ** 0.5)).estimate, 2)
    0.5
    """
    if batch_sizes.size < MIN_FOR_CHECK:
        return Interval(definition=_EXPONENT)
    log_q = np.log(_EXPONENTS)
    squares = np.array([_least_squares(batch_sizes, log_steps, q) for q in _EXPONENTS])
    cell = int(np.argmin(squares))
    if cell in (0, log_q.size - 1):
        return Interval(definition=_EXPONENT)
    shift = float(parabola_peak(*(-squares[[cell + k]] for k in (-1, 0, 1)))[0])
    value = math.exp(float(log_q[cell] + shift * (log_q[1] - log_q[0])))
    allowed = allowed_rise(float(squares[cell]), batch_sizes.size, 3)
    ends = profile_ends(log_q, -0.5 * squares, -0.5 * squares[cell], allowed)
    return interval(value, around(exp_ends(ends), value), _EXPONENT)


def _least_squares(batch_sizes: FloatArray, log_steps: FloatArray, exponent: float) -> float:
    """Smallest sum of squares over B_crit, by the parabola through the three lowest neighbours of its grid."""
    squares = sums_of_squares(log_steps, hyperbola_grid(batch_sizes, exponent).curves)
    cell = int(np.argmin(squares))
    if cell in (0, squares.size - 1):
        return float(squares[cell])
    left, middle, right = squares[cell - 1 : cell + 2]
    bend = left - 2 * middle + right
    return float(max(middle - (left - right) ** 2 / (8 * bend), 0.0)) if bend > 0 else float(middle)


def exponent_warning(exponent: Interval) -> str:
    """A sentence where the interval of q excludes 1, else empty.

    >>> exponent_warning(Interval(estimate=1.0, low=0.9, high=1.1, status="identified", definition="q"))
    ''
    """
    if exponent.estimate is None or exponent.low is None or exponent.high is None:
        return ""
    if exponent.low <= 1 <= exponent.high:
        return ""
    pace = "more slowly" if exponent.estimate < 1 else "faster"
    return (
        f"Steps fall with the batch size {pace} than the hyperbola: its exponent is {exponent.estimate:.2f} "
        f"({exponent.low:.2f} to {exponent.high:.2f}), not 1."
    )


def upturn_p_value(batch_sizes: FloatArray, log_steps: FloatArray) -> float:
    """p-value of the hyperbola against S = S_min (1 + B_crit/B + (B_turn/B)^2).

    With the added term E = B S has a minimum at B_turn and rises towards smaller batch sizes. The test is the F test
    of that term with 1 and n - 3 degrees of freedom. The term can only be positive, which would halve the p-value in
    a linear model; here the turn's place is fitted too, and the unhalved value is what keeps false alarms below 1%.

    Args:
        batch_sizes: (n,), five or more. log_steps: (n,) finite.

    >>> b = 4.0 * 2 ** np.arange(8)
    >>> p_values = [upturn_p_value(b, np.log(1 + 100 / b + (turn / b) ** 2)) for turn in (0.0, 30.0)]
    >>> round(p_values[0], 3), p_values[1] < 1e-6
    (1.0, True)
    """
    plain = fit_hyperbola(batch_sizes, log_steps, hyperbola_grid(batch_sizes)).squares
    bent, free = _upturn_squares(batch_sizes, log_steps), batch_sizes.size - 3
    drop = max(plain - bent, 0.0) / max(bent / free, STEPS_SD_FLOOR**2)
    return float(f_distribution.sf(drop, 1, free))


def _upturn_squares(batch_sizes: FloatArray, log_steps: FloatArray) -> float:
    """Smallest sum of squares of the hyperbola with the added term: a coarse grid, then refined."""
    log_b = np.log(batch_sizes)
    span = float(np.ptp(log_b))
    b_crits = np.linspace(log_b.min() - span / 2, log_b.max() + span / 2, _TURNS)
    turns = np.linspace(log_b.min() - span / 2, log_b.max(), _TURNS)
    b_crit, turn = (axis.ravel() for axis in np.meshgrid(b_crits, turns, indexing="ij"))

    def curves(log_b_crit: FloatArray, log_turn: FloatArray) -> FloatArray:
        bend = np.logaddexp(log_b_crit[..., None] - log_b, 2 * (log_turn[..., None] - log_b))
        return np.asarray(np.logaddexp(0.0, bend))

    cell = int(np.argmin(sums_of_squares(log_steps, curves(b_crit, turn))))

    def residual(x: FloatArray) -> FloatArray:
        left = log_steps - curves(x[0], x[1])
        return np.asarray(left - left.mean())

    found = least_squares(residual, np.array([b_crit[cell], turn[cell]]), max_nfev=60)
    return 2 * float(found.cost)


def find_u_shape(batch_sizes: FloatArray, log_steps: FloatArray) -> tuple[float, int] | None:
    """The p-value and the index of the batch size with the fewest examples, where E(B) turns up below it.

    None with fewer than five batch sizes, where the smallest batch size needs the fewest examples, or where the
    p-value of the upturn is not below 0.01.

    >>> b = 4.0 * 2 ** np.arange(8)
    >>> find_u_shape(b, np.log(1 + 100 / b + (30 / b) ** 2))[1]
    3
    """
    if batch_sizes.size < MIN_FOR_CHECK:
        return None
    least = int(np.argmin(log_steps + np.log(batch_sizes)))
    if least == 0:
        return None
    p_value = upturn_p_value(batch_sizes, log_steps)
    return (p_value, least) if p_value < U_SHAPE_LEVEL else None


def u_shape_warning(found: UShape, b_crit: Interval) -> str:
    """The U shape in words, with both critical batch sizes.

    >>> whole = Interval(estimate=90.0, low=50.0, high=150.0, status="identified", definition="B_crit")
    >>> u_shape_warning(UShape(p_value=0.002, from_batch_size=32, b_crit=Interval(definition="B_crit")), whole)
    'Below batch size 32 the examples to the target rise again (p = 0.002), which the hyperbola cannot do: fitted
    from 32 on, B_crit is not identified, over all batch sizes 90 (50 to 150).'
    """
    return (
        f"Below batch size {found.from_batch_size} the examples to the target rise again (p = {found.p_value:.2g}), "
        f"which the hyperbola cannot do: fitted from {found.from_batch_size} on, B_crit is {_in_words(found.b_crit)}, "
        f"over all batch sizes {_in_words(b_crit)}."
    )


def _in_words(found: Interval) -> str:
    if found.estimate is not None:
        return f"{found.estimate:.3g} ({found.low:.3g} to {found.high:.3g})"
    if found.low is not None:
        return f"above {found.low:.3g}"
    return "not identified" if found.high is None else f"below {found.high:.3g}"
