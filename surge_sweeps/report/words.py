"""Plain words for what a fit found: verdicts, protocols, laws, intervals and slopes.

Nothing here decides anything: every sentence restates a field of the fit, and says so where the data cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from surge_sweeps.fitting.laws.curve_grid import KAPPA_MAX, KAPPA_MIN, PEAK_REACH, SCALE_REACH
from surge_sweeps.fitting.laws.law_class import law_rises, selected_law
from surge_sweeps.fitting.result import (
    Interval,
    LawFit,
    OptimalLR,
    TargetFit,
    VerdictName,
)
from surge_sweeps.report.numbers import count_text, lr_end, lr_text, size_text

CANNOT_TELL = "The data cannot tell"

#: Verdict -> its name and what it says about the optimal learning rate.
VERDICTS: dict[VerdictName, tuple[str, str]] = {
    "surge": ("Surge", "rises with the batch size, peaks, then falls"),
    "saturation": ("Saturation", "rises with the batch size, then levels off"),
    "power": ("Power law", "follows a power of the batch size"),
    "sqrt": ("Square-root law", "grows with the square root of the batch size"),
    "linear": ("Linear law", "grows in proportion to the batch size"),
    "constant": ("Constant", "is the same at every batch size"),
    "inconclusive": (CANNOT_TELL, "cannot be pinned to one law"),
}

#: Law -> its name, its formula and what its parameters mean; B is the batch size.
LAWS: dict[str, tuple[str, str]] = {
    "constant": ("Constant", "LR = a"),
    "sqrt": ("Square root", "LR = a √B"),
    "linear": ("Linear", "LR = a B"),
    "power": ("Power", "LR = a B^alpha"),
    "sgd_saturation": ("Saturation, SGD", "LR = eps_max / (1 + b_noise/B)"),
    "adam_saturation": ("Saturation, Adam", "LR = a / √(1 + b_s/B)"),
    "surge": ("Surge", "LR = 2 eps_max / (√(b_noise/B) + √(B/b_noise))"),
    "surge_plateau": ("Surge with plateau", "LR = a f / (1 + kappa f²), f = √(B/(B + b_s))"),
}


def law_title(name: str) -> str:
    """A law's name in words; a name this version does not know stands as it is."""
    return LAWS.get(name, (name, ""))[0]


def law_formula(law: LawFit, batch_sizes: Sequence[int]) -> str:
    """A law's formula with its fitted parameters; one that the search for it stopped is marked.

    Args:
        batch_sizes: those with an optimum, ascending; none where they are unknown, and then nothing is marked.

    >>> law_formula(LawFit(name="sqrt", parameters={"a": 0.00134}, aicc=None, weight=None), [4, 64])
    'LR = a √B, a = 0.00134'
    >>> far = LawFit(name="adam_saturation", parameters={"a": 3.0, "b_s": 64000.0}, aicc=None, weight=None)
    >>> law_formula(far, [4, 64])
    'LR = a / √(1 + b_s/B), a = 3, b_s = 64k (at the limit of the search)'
    """
    formula = LAWS.get(law.name, ("", law.name))[1]
    stuck = at_search_limit(law, batch_sizes)
    parts = [
        f"{name} = {parameter_text(name, value)}{' (at the limit of the search)' if name in stuck else ''}"
        for name, value in law.parameters.items()
    ]
    return ", ".join([formula, *parts])


def at_search_limit(law: LawFit, batch_sizes: Sequence[int]) -> set[str]:
    """The parameters of a law that lie at an end of the range in which they were sought: bounds, no estimates.

    >>> kappa = {"a": 1.0, "b_s": 64e3, "kappa": 1e5}
    >>> at_search_limit(LawFit(name="surge_plateau", parameters=kappa, aicc=None, weight=None), [4, 512])
    {'kappa'}
    """
    if not batch_sizes:
        return set()
    values, ends = law.parameters, (batch_sizes[0], batch_sizes[-1])
    stuck = set()
    kappa = values.get("kappa")
    if kappa is not None and (_reaches(kappa, KAPPA_MAX) or kappa <= 0.999 * KAPPA_MIN):
        stuck.add("kappa")
    for name in ("b_noise", "b_s"):
        # Beyond kappa = 1 the plateau law is sought by its peak, b_s/(kappa - 1).
        peaked = kappa is not None and kappa > 1 and name == "b_s"
        scale = values[name] / (kappa - 1) if peaked and kappa and name in values else values.get(name)
        reach = PEAK_REACH if peaked else SCALE_REACH
        if scale is not None and (_reaches(scale, ends[1] * reach) or _reaches(1 / scale, reach / ends[0])):
            stuck.add(name)
    return stuck


def _reaches(value: float, limit: float) -> bool:
    return value >= limit or math.isclose(value, limit, rel_tol=1e-3)


def parameter_text(name: str, value: float) -> str:
    """A law's parameter: batch sizes as counts, all else as a small number."""
    return count_text(value) if name.startswith("b_") else lr_text(value)


def leading_law(target: TargetFit) -> LawFit | None:
    """The law that stands for the verdict; for an inconclusive one the law with the largest weight."""
    if target.verdict == "inconclusive":
        return max(target.laws, key=lambda law: law.weight or 0.0, default=None)
    return selected_law(target.laws, _batch_sizes(target), target.verdict)


def _batch_sizes(target: TargetFit) -> np.ndarray:
    return np.array([point.batch_size for point in target.optimal_lr], dtype=float)


def behaviour(verdict: VerdictName, targets: Sequence[TargetFit]) -> str:
    """What a verdict says about the optimal learning rate at the targets that have it; a power by its exponents."""
    laws = _laws_of(verdict, targets)
    if verdict != "power" or not laws:
        return VERDICTS[verdict][1]
    rising = _directions(verdict, targets)
    if len(rising) > 1:
        return "follows a power of the batch size, rising at some losses and falling at others"
    powers = sorted({f"{law.parameters['alpha']:.2f}" for law in laws if law.name == "power"}, key=float)
    exponents = f", exponent {' to '.join(dict.fromkeys([powers[0], powers[-1]]))}" if powers else ""
    return f"{'rises' if rising == {True} else 'falls'} with the batch size as a power{exponents}"


def direction(verdict: VerdictName, targets: Sequence[TargetFit]) -> str:
    """Behind the name of a power law, the one verdict whose name leaves it open: whether it rises or falls."""
    rising = _directions(verdict, targets) if verdict == "power" else set()
    if len(rising) != 1:
        return ""
    return " (rising)" if True in rising else " (falling)"


def _directions(verdict: VerdictName, targets: Sequence[TargetFit]) -> set[bool]:
    """Whether the leading laws of the targets with a verdict rise."""
    with_verdict = [target for target in targets if target.verdict == verdict]
    return {law_rises(law, _batch_sizes(target)) for target in with_verdict if (law := leading_law(target))}


def _laws_of(verdict: VerdictName, targets: Sequence[TargetFit]) -> list[LawFit]:
    return [law for target in targets if target.verdict == verdict and (law := leading_law(target))]


def interval_text(interval: Interval) -> str:
    """A batch size with its interval, or the bound, or that it is unknown.

    >>> interval_text(Interval(estimate=74, low=40, high=130, status="identified", definition=""))
    '74 (40 to 130)'
    >>> interval_text(Interval(low=512, status="lower_bound", definition=""))
    'above 512'
    >>> interval_text(Interval(low=11.2, high=25, definition=""))
    'not established; if any, 11 to 25'
    >>> interval_text(Interval(definition=""))
    'not identified'
    """
    if interval.status == "identified" and interval.estimate is not None:
        return f"{count_text(interval.estimate)}{range_text(interval.low, interval.high, count_text)}"
    bound = bound_of(interval)
    if interval.status == "lower_bound" and bound is not None:
        return f"above {size_text(bound)}"
    if interval.status == "upper_bound" and bound is not None:
        return f"below {size_text(bound)}"
    if interval.low is not None and interval.high is not None:
        return f"not established; if any, {count_text(interval.low)} to {count_text(interval.high)}"
    return "not identified"


def bound_of(interval: Interval) -> float | None:
    """The number behind "above" or "below"; None where the interval is no bound."""
    if interval.status == "lower_bound":
        return interval.low if interval.low is not None else interval.estimate
    if interval.status == "upper_bound":
        return interval.high if interval.high is not None else interval.estimate
    return None


def range_text(low: float | None, high: float | None, text: Callable[[float], str] = lr_end) -> str:
    """The 95% interval behind an estimate, open ends in words; empty where both ends are unknown.

    >>> range_text(0.003, 0.005), range_text(0.003, None), range_text(None, None)
    (' (0.003 to 0.005)', ' (0.003 or more)', '')
    """
    if low is not None and high is not None:
        return f" ({text(low)} to {text(high)})"
    if low is not None:
        return f" ({text(low)} or more)"
    return "" if high is None else f" ({text(high)} or less)"


def optimum_text(optimum: OptimalLR) -> str:
    """An optimal learning rate with its interval, or what stands in its way.

    >>> common = {"batch_size": 8, "low": None, "high": None, "runs": 4, "flat_band": (None, None)}
    >>> optimum_text(OptimalLR(lr=0.1, status="edge_high", **common))
    '0.1 or more: edge of the grid'
    >>> optimum_text(OptimalLR(lr=None, status="too_few", **common))
    'too few runs'
    """
    if optimum.status == "diverged":
        return "every run diverged"
    if optimum.status == "too_few" or optimum.lr is None:
        return "not recorded" if optimum.status == "given" else "too few runs"
    if optimum.status in ("edge_low", "edge_high"):
        side = "less" if optimum.status == "edge_low" else "more"
        return f"{lr_text(optimum.lr)} or {side}: edge of the grid"
    return f"{lr_text(optimum.lr)}{range_text(optimum.low, optimum.high)}"
