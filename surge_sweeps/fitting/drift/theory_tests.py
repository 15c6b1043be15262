"""Two claims of the theory put to one target's data, where a learning-rate curve and steps to a loss were measured.

The mean-field theory of the sign update (J. Su, kexue.fm 11280) ties the two: the curve of the optimal learning rate
fixes B_crit = B_s / (1 + kappa), and the steps must show the same B_crit. The paper (Li et al. 2024, arXiv 2405.14578,
eq 15 and 20) claims more: B_peak = B_noise = B_crit, which in mean field holds only for kappa >> 1. Each claim holds
one restriction over the two separate fits; its F test takes both noises from the residuals of the separate fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as f_distribution

from surge_sweeps.fitting.draw_patterns import parabola_peak
from surge_sweeps.fitting.drift.drift_curves import CurveValues, log_peak, steps_curve, surge_curve
from surge_sweeps.fitting.drift.drift_data import lr_weights
from surge_sweeps.fitting.laws.likelihood import SD_FLOOR
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.result import TheoryTest
from surge_sweeps.fitting.tradeoff.hyperbola import STEPS_SD_FLOOR

FloatArray = NDArray[np.float64]

#: Below this p-value a claim is called rejected.
REJECTED = 0.05
#: Fewest batch sizes with an optimal learning rate, and with steps.
MIN_LEARNING_RATES, MIN_STEPS = 5, 4

_REACH = 300.0
_SPACING = 0.05  # of log B_crit
_CRITICAL_STRENGTHS = np.linspace(math.log(0.1), math.log(1001.0), 41)  # log(1 + kappa)
_PEAK_STRENGTHS = np.linspace(math.log(2.02), math.log(1001.0), 33)


class _Side(NamedTuple):
    """One half of the data: the sum of squares over the places, best over everything else, in units of its noise.

    `place` is the best log batch size, infinite at an end of the grid; `variance` that of `place`; `free` the degrees
    of freedom behind the noise; `influence` (m,) how far each value moves the place, of the columns given.
    """

    profile: FloatArray
    place: float
    variance: float
    free: int
    influence: FloatArray
    columns: NDArray[np.intp]


@dataclass(frozen=True)
class _Restriction:
    """The p-value of one place for both sides, and the batch sizes (None at an end of the grid) of the two alone."""

    p_value: float
    of_lr: float | None
    of_steps: float | None


def theory_tests(optima: Optima, scatter_sd: float = 0.0, *, peak_supported: bool) -> list[TheoryTest]:
    """Test the mean-field theory and the paper's B_peak = B_noise = B_crit on the optima of one target.

    Optima at an edge of their learning-rate grid are left out. Empty where no steps or no learning rates are known.

    Args:
        optima: learning rates and steps, drawn together. scatter_sd: standard deviation of log LR about the law
            beyond the seeds. peak_supported: whether the data show a peak (verdict surge, or an interval of B_peak
            that is closed on both sides); without one the second claim cannot be tested.

    >>> from surge_sweeps.theory import mean_field_lr, steps_to_target
    >>> b, rng = 4.0 * 2.0 ** np.arange(10), np.random.default_rng(0)
    >>> draws = np.log(mean_field_lr(b, 0.01, 500.0, 9.0)) + 0.05 * rng.standard_normal((200, 10))
    >>> steps = np.log(steps_to_target(b, 40.0, 400.0)) + 0.05 * rng.standard_normal((200, 10))
    >>> optima = Optima(b, draws[0], ("ok",) * 10, draws, steps[0], steps, (4,) * 10)
    >>> [(test.name, test.p_value < 0.001) for test in theory_tests(optima, peak_supported=True)]
    [('mean_field', True), ('b_peak_is_b_noise', True)]
    """
    if not np.isfinite(optima.log_steps).any() or not optima.known().any():
        return []
    keep, _ = lr_weights(optima, scatter_sd)
    n_steps = int(np.isfinite(optima.log_steps).sum())
    if keep.size < MIN_LEARNING_RATES or n_steps < MIN_STEPS:
        few = (
            f"cannot be tested: it takes {MIN_LEARNING_RATES} batch sizes with an optimal learning rate inside the "
            f"grid and {MIN_STEPS} with steps; here there are {keep.size} and {n_steps}."
        )
        return [_untested("mean_field", few), _untested("b_peak_is_b_noise", few)]
    tests = [_mean_field_test(_restriction(optima, scatter_sd, "critical"))]
    if not peak_supported:
        return [
            *tests,
            _untested("b_peak_is_b_noise", "cannot be tested: the data show no peak whose place is known."),
        ]
    return [*tests, _peak_test(_restriction(optima, scatter_sd, "peak"))]


Name = Literal["mean_field", "b_peak_is_b_noise"]
_CLAIMS: dict[Name, str] = {
    "mean_field": "The mean-field theory of the sign update (one B_crit behind learning rates and steps)",
    "b_peak_is_b_noise": "The claim B_peak = B_noise = B_crit (Theorem 3 of arXiv 2405.14578)",
}


def _untested(name: Name, why: str) -> TheoryTest:
    return TheoryTest(name=name, statement=f"{_CLAIMS[name]} {why}", p_value=None)


def _mean_field_test(found: _Restriction) -> TheoryTest:
    numbers = f"the learning rates give B_crit {_number(found.of_lr)}, the steps {_number(found.of_steps)}"
    ending = "is rejected; the separate fits stand" if found.p_value < REJECTED else "is not contradicted"
    return _stated("mean_field", found, numbers, ending)


def _peak_test(found: _Restriction) -> TheoryTest:
    numbers = f"B_peak is {_number(found.of_lr)}, B_crit from the steps {_number(found.of_steps)}"
    ending = "is rejected" if found.p_value < REJECTED else "is not contradicted"
    return _stated("b_peak_is_b_noise", found, numbers, ending)


def _stated(name: Name, found: _Restriction, numbers: str, ending: str) -> TheoryTest:
    statement = f"{_CLAIMS[name]} {ending}: {numbers} (p = {found.p_value:.2g})."
    return TheoryTest(name=name, statement=statement, p_value=found.p_value)


def _number(value: float | None) -> str:
    return "outside any measurable range" if value is None else f"{value:.3g}"


def _restriction(optima: Optima, scatter_sd: float, place: Literal["critical", "peak"]) -> _Restriction:
    """F test of one place for both sides against one for each, with Welch's degrees of freedom."""
    log_b = np.log(optima.batch_sizes.astype(float))
    ends = log_b.min() - math.log(_REACH), log_b.max() + math.log(_REACH)
    places = np.arange(ends[0], ends[1], _SPACING)
    sides = _lr_side(optima, scatter_sd, places, place), _steps_side(optima, places)
    together = _refined_minimum(sides[0].profile + sides[1].profile)
    apart = sum(_refined_minimum(side.profile) for side in sides)
    drop = max(together - apart, 0.0) / _shared_noise(optima, *sides)
    p_value = float(f_distribution.sf(drop, 1, _welch(*sides)))
    of_lr, of_steps = (math.exp(side.place) if math.isfinite(side.place) else None for side in sides)
    return _Restriction(p_value, of_lr, of_steps)


def _lr_side(
    optima: Optima, scatter_sd: float, places: FloatArray, place: Literal["critical", "peak"]
) -> _Side:
    columns, weights = lr_weights(optima, scatter_sd)
    strengths = _CRITICAL_STRENGTHS if place == "critical" else _PEAK_STRENGTHS
    to_place = (
        np.zeros(strengths.size) if place == "critical" else log_peak(np.zeros(strengths.size), strengths)
    )
    log_b = np.log(optima.batch_sizes[columns].astype(float))

    def curves(log_place: FloatArray, at: NDArray[np.intp]) -> CurveValues:
        return surge_curve(np.exp(log_b - log_place + to_place[at, None]), strengths[at, None])

    everything = np.arange(strengths.size)
    table = curves(places[:, None, None], everything).value
    squares = _squares(optima.log_lr[columns], table, weights)
    profile = _refined_minima(squares)
    cell = int(np.argmin(profile))
    at = int(np.argmin(squares[cell]))
    jacobian = -curves(places[cell], everything[[at]]).slope
    if 0 < at < strengths.size - 1:  # at an end of its range the strength is no parameter
        jacobian = np.vstack([jacobian, table[cell, at + 1] - table[cell, at - 1]])
    floor = SD_FLOOR**2 * float(np.median(weights))
    return _side(profile, places, 3, floor, weights, jacobian.T, columns)


def _steps_side(optima: Optima, places: FloatArray) -> _Side:
    columns = np.flatnonzero(np.isfinite(optima.log_steps))
    log_b, weights = np.log(optima.batch_sizes[columns].astype(float)), np.ones(columns.size)
    found = steps_curve(np.exp(log_b - places[:, None]), np.zeros(1))
    profile = _squares(optima.log_steps[columns], found.value, weights)
    jacobian = -found.slope[int(np.argmin(profile))][:, None]
    return _side(profile, places, 2, STEPS_SD_FLOOR**2, weights, jacobian, columns)


def _side(
    squares: FloatArray,
    places: FloatArray,
    parameters: int,
    floor: float,
    weights: FloatArray,
    jacobian: FloatArray,
    columns: NDArray[np.intp],
) -> _Side:
    """Scale the profile by the noise about its best curve; jacobian: (m, k), that by the place first."""
    free = columns.size - parameters
    noise = max(_refined_minimum(squares) / free, floor)
    cell = int(np.argmin(squares))
    root = np.sqrt(weights)
    design = np.column_stack([jacobian, np.ones(columns.size)]) * root[:, None]
    influence = np.linalg.pinv(design)[0] * root
    open_end = cell in (0, places.size - 1)
    variance = math.inf if open_end else noise * float(np.sum(influence**2 / weights))
    place = math.inf
    if not open_end:
        shift = parabola_peak(*(-squares[[cell + step]] for step in (-1, 0, 1)))
        place = float(places[cell] + _SPACING * shift[0])
    return _Side(squares / noise, place, variance, free, influence, columns)


def _squares(values: FloatArray, curves: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted sums of squares at the best levels, over the last axis."""
    residual = values - curves
    level = residual @ weights / weights.sum()
    return np.asarray(residual**2 @ weights - level**2 * weights.sum())


def _refined_minima(table: FloatArray) -> FloatArray:
    """(G,) minimum of each row of evenly spaced values, by the parabola through the three lowest neighbours."""
    rows, cell = np.arange(table.shape[0]), table.argmin(axis=1)
    middle = table[rows, cell]
    inner = np.clip(cell, 1, table.shape[1] - 2)
    left, right = table[rows, inner - 1], table[rows, inner + 1]
    bend = left - 2 * middle + right
    use = (inner == cell) & (bend > 0)
    dip = np.where(use, (left - right) ** 2 / (8 * np.where(use, bend, 1.0)), 0.0)
    return np.asarray(np.maximum(middle - dip, 0.0))


def _refined_minimum(values: FloatArray) -> float:
    return float(_refined_minima(values[None])[0])


def _shared_noise(optima: Optima, lr: _Side, steps: _Side) -> float:
    """Variance of the difference of the two places over the sum of their variances: 1 for independent errors."""
    draws = optima.draws[:, lr.columns], optima.log_steps_draws[:, steps.columns]
    whole = np.isfinite(draws[0]).all(axis=1) & np.isfinite(draws[1]).all(axis=1)
    if whole.sum() < 2 or not (math.isfinite(lr.variance) and math.isfinite(steps.variance)):
        return 1.0
    of_lr, of_steps = draws[0][whole] @ lr.influence, draws[1][whole] @ steps.influence
    apart = float(np.var(of_lr) + np.var(of_steps))
    if apart <= 0:
        return 1.0
    # As weighted by the residuals' noise, not by the draws': only the correlation is taken from the draws.
    spread = np.std(of_lr) * np.std(of_steps)
    correlation = float(np.cov(of_lr, of_steps)[0, 1] / spread) if spread > 0 else 0.0
    cross = 2 * correlation * math.sqrt(lr.variance * steps.variance) / (lr.variance + steps.variance)
    return max(1.0 - cross, 0.05)


def _welch(lr: _Side, steps: _Side) -> float:
    """Welch's degrees of freedom of a difference; those of one side alone where its place is open."""
    for side in (lr, steps):
        if not math.isfinite(side.variance):
            return float(side.free)
    total = lr.variance + steps.variance
    return total**2 / (lr.variance**2 / lr.free + steps.variance**2 / steps.free)
