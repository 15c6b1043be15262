"""Steps against examples: the critical batch size B_crit from the steps to a target at each batch size.

At constant batch size the paper's hyperbola (eq 20, arXiv 2405.14578) is S = S_min (1 + B_crit/B), fitted by
unweighted least squares in log S over all batch sizes. Intervals are, at each end, the wider of the bootstrap over
seeds and a profile of the residuals with n - 2 degrees of freedom, which also sees how far the optima miss the
hyperbola. Other definitions of a critical batch size are converted from B_crit, each with its formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.profile import CONFIDENCE, Ends, around, exp_ends, interval
from surge_sweeps.fitting.result import BatchUnit, Interval, TradeoffFit, UShape
from surge_sweeps.fitting.tradeoff.hyperbola import (
    MIN_BATCH_SIZES,
    HyperbolaEnds,
    fit_hyperbola,
    fit_hyperbola_draws,
    hyperbola_ends,
    hyperbola_grid,
)
from surge_sweeps.fitting.tradeoff.tradeoff_checks import (
    exponent_warning,
    find_u_shape,
    hyperbola_exponent,
    u_shape_warning,
)
from surge_sweeps.theory import half_gain_batch, overhead_batch, paper_critical_batch

FloatArray = NDArray[np.float64]

#: The batch sizes must reach this factor below and above B_crit for it to be identified.
STRADDLE = 3.0

_OVERHEAD = 0.2
_LARGEST_LOG = 700.0  # an end of an interval beyond exp(700) is open


@dataclass(frozen=True, eq=False)
class TradeoffDetails:
    """A trade-off fit and what it rests on.

    Attributes:
        fit: the result.
        warning: a sentence where the examples turn up again at small batch sizes, else where the interval of the
            exponent excludes 1; empty where the hyperbola holds.
    """

    fit: TradeoffFit
    warning: str


def fit_tradeoff(
    batch_sizes: FloatArray, log_steps: FloatArray, log_steps_draws: FloatArray, batch_unit: BatchUnit
) -> TradeoffFit | None:
    """Fit S_min, E_min and B_crit; None with fewer than three batch sizes of known steps.

    Args:
        batch_sizes: (n,), in `batch_unit`. log_steps: (n,) log of the steps to the target at the optimal learning
            rate, NaN where unknown. log_steps_draws: (n_draws, n) bootstrap draws of it; may have no rows.

    >>> b = np.array([8.0, 32.0, 128.0, 512.0, 2048.0])
    >>> fit = fit_tradeoff(b, np.log(50 * (1 + 100 / b)), np.empty((0, 5)), "examples")
    >>> round(fit.b_crit.estimate, 1), round(fit.s_min, 1), round(fit.e_min)
    (100.0, 50.0, 5000)
    """
    details = analyse_tradeoff(batch_sizes, log_steps, log_steps_draws, batch_unit)
    return None if details is None else details.fit


def analyse_tradeoff(
    batch_sizes: FloatArray, log_steps: FloatArray, log_steps_draws: FloatArray, batch_unit: BatchUnit
) -> TradeoffDetails | None:
    """As `fit_tradeoff`, with what the checks of the hyperbola say.

    >>> b = np.array([8.0, 32.0, 128.0, 512.0, 2048.0])
    >>> analyse_tradeoff(b, np.log(50 * (1 + (100 / b) ** 0.5)), np.empty((0, 5)), "examples").warning
    'Steps fall with the batch size more slowly than the hyperbola: its exponent is 0.50 (0.47 to 0.53), not 1.'
    """
    known = np.isfinite(log_steps)
    b, y = np.asarray(batch_sizes, float)[known], log_steps[known]
    if b.size < MIN_BATCH_SIZES:
        return None
    draws = log_steps_draws[:, known]
    fit = _fit(b, y, draws, batch_unit)
    exponent, u_shape = hyperbola_exponent(b, y), _u_shape(b, y, draws, batch_unit)
    fit = fit.model_copy(
        update={
            "exponent": exponent,
            "paper_b_crit": paper_critical_batch(b, np.exp(y)),
            "definitions": _other_definitions(fit.b_crit, float(b.min()), batch_unit),
            "u_shape": u_shape,
        }
    )
    warning = u_shape_warning(u_shape, fit.b_crit) if u_shape else exponent_warning(exponent)
    return TradeoffDetails(fit, warning)


def _fit(b: FloatArray, y: FloatArray, draws: FloatArray, batch_unit: BatchUnit) -> TradeoffFit:
    grid = hyperbola_grid(b)
    found = fit_hyperbola(b, y, grid)
    log_b, log_s = fit_hyperbola_draws(draws, grid)
    profile = hyperbola_ends(b, y, grid, found)
    with np.errstate(invalid="ignore"):
        log_e = log_s + log_b
    ends = HyperbolaEnds(
        _widened(profile.log_b_crit, log_b), _widened(profile.log_s_min, log_s), _widened(profile.log_e_min, log_e)
    )  # fmt: skip
    return _tradeoff_fit(b, y, found.log_b_crit, ends, batch_unit)


def _widened(ends: Ends, draws: FloatArray) -> Ends:
    """The wider, at each end, of a profile interval and the central 95% of the draws."""
    draws = draws[~np.isnan(draws)]
    if not draws.size:
        return ends
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, tail, method="lower"), np.quantile(draws, 1 - tail, method="higher")
    return Ends(
        None if ends.low is None or not np.isfinite(low) else min(ends.low, float(low)),
        None if ends.high is None or not np.isfinite(high) else max(ends.high, float(high)),
    )


def _tradeoff_fit(
    b: FloatArray, y: FloatArray, log_b_crit: float, ends: HyperbolaEnds, batch_unit: BatchUnit
) -> TradeoffFit:
    definition = (
        f"B_crit = E_min/S_min in {batch_unit}: the batch size at which reaching the target takes twice the fewest "
        "steps and twice the fewest examples"
    )
    from_below = math.log(b.min()) < log_b_crit - math.log(STRADDLE)
    from_above = math.log(b.max()) > log_b_crit + math.log(STRADDLE)
    low, high = ends.log_b_crit
    b_ends = exp_ends(Ends(low if from_below else None, high if from_above else None))
    estimate = math.exp(log_b_crit) if from_below and from_above else None
    b_crit = interval(estimate, around(b_ends, estimate), definition)
    log_s = log_e = None
    if math.isfinite(log_b_crit):
        log_s = float((y - np.logaddexp(0.0, log_b_crit - np.log(b))).mean())
        log_e = log_s + log_b_crit
    s_min, s_low, s_high = _quantity(log_s if from_above else None, ends.log_s_min, low_known=from_above)
    e_min, e_low, e_high = _quantity(log_e if from_below else None, ends.log_e_min, low_known=from_below)
    return TradeoffFit(
        s_min=s_min,
        s_min_low=s_low,
        s_min_high=s_high,
        e_min=e_min,
        e_min_low=e_low,
        e_min_high=e_high,
        b_crit=b_crit,
    )


def _quantity(log_estimate: float | None, ends: Ends, *, low_known: bool) -> tuple[float | None, ...]:
    """Estimate, low, high of S_min or E_min; where the data do not reach its regime only its high end is known."""
    beyond_numbers = ends.high is not None and ends.high > _LARGEST_LOG
    low, high = exp_ends(Ends(ends.low if low_known else None, None if beyond_numbers else ends.high))
    if log_estimate is None:
        return None, None, high
    estimate = math.exp(log_estimate)
    return (estimate, *around(Ends(low, high), estimate))


def _u_shape(b: FloatArray, y: FloatArray, draws: FloatArray, batch_unit: BatchUnit) -> UShape | None:
    """The hyperbola refitted from the batch size with the fewest examples on, where E(B) turns up below it."""
    found = find_u_shape(b, y)
    if found is None:
        return None
    p_value, least = found
    definition = f"B_crit = E_min/S_min in {batch_unit}, fitted to the batch sizes from {b[least]:g} on alone"
    b_crit = Interval(definition=definition)
    if b.size - least >= MIN_BATCH_SIZES:
        trimmed = _fit(b[least:], y[least:], draws[:, least:], batch_unit)
        b_crit = trimmed.b_crit.model_copy(update={"definition": definition})
    return UShape(p_value=p_value, from_batch_size=round(b[least]), b_crit=b_crit)


def _other_definitions(b_crit: Interval, base: float, batch_unit: BatchUnit) -> list[Interval]:
    """Critical batch sizes by other definitions, with the interval of B_crit converted end by end."""
    texts = (
        f"20% more examples than at B -> 0, in {batch_unit}: 0.2 B_crit",
        f"20% more steps than linear scaling from the smallest measured batch size B0 = {base:g}, in {batch_unit}: "
        "1.2 B0 + 0.2 B_crit (H. Zhang et al. 2024, arXiv 2410.21676)",
        f"half-gain batch, in {batch_unit}: the loss decrease per optimal step is half its largest; equal to B_crit "
        "under the hyperbola",
    )
    conversions: tuple[Callable[[float], float], ...] = (
        partial(overhead_batch, overhead=_OVERHEAD),
        partial(overhead_batch, overhead=_OVERHEAD, base=base),
        half_gain_batch,
    )
    return [
        Interval(
            **{
                name: None if value is None else convert(value)
                for name, value in (("estimate", b_crit.estimate), ("low", b_crit.low), ("high", b_crit.high))
            },
            status=b_crit.status,
            definition=text,
        )
        for text, convert in zip(texts, conversions, strict=True)
    ]
