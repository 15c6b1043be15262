"""How a batch size moves as the loss falls, in words: the exponent, its interval, and what it was tested against."""

from __future__ import annotations

from surge_sweeps.fitting.result import GroupFit, Slope
from surge_sweeps.report.numbers import percent_text
from surge_sweeps.report.words import CANNOT_TELL

#: Exponent of B_crit ~ L**(-1/0.21) (Kaplan et al. 2020, arXiv 2001.08361).
_KAPLAN = "4.76"
#: A claim with a smaller p-value is called rejected.
REJECTED = 0.05
#: Akaike weight from which one of two descriptions is called better.
_BETTER = 0.9


def has_drift(group: GroupFit) -> bool:
    """Whether a movement with the loss can be asked for: it takes two losses."""
    return len({target.loss for target in group.targets if target.loss is not None}) > 1


def slope_text(slope: Slope, name: str) -> str:
    """Whether a batch size moves as the loss falls.

    >>> slope_text(Slope(exponent=1.2, low=0.4, high=2.0, p_value=0.004, status="identified"), "B_peak")
    'B_peak grows as the loss falls: B_peak ~ loss^-1.2 (95% interval -2 to -0.4; no movement: p = 0.004).'
    >>> slope_text(Slope(low=0.4, p_value=0.004, status="lower_bound"), "B_peak")
    'B_peak grows as the loss falls, faster than loss^-0.4 (95%; no movement: p = 0.004).'
    >>> slope_text(Slope(), "B_crit")
    'The data cannot tell whether B_crit moves as the loss falls.'
    """
    unknown = f"{CANNOT_TELL} whether {name} moves as the loss falls"
    no_movement = "" if slope.p_value is None else f"; no movement: {p_text(slope.p_value)}"
    if slope.exponent is None or slope.status != "identified":
        bound = {"lower_bound": slope.low, "upper_bound": slope.high}.get(slope.status)
        sign = 1 if slope.status == "lower_bound" else -1
        if bound is None or sign * bound <= 0:
            return f"{unknown}."
        moves = "grows" if sign > 0 else "shrinks"
        return f"{name} {moves} as the loss falls, faster than loss^{_signed(-bound)} (95%{no_movement})."
    ends = (
        f"95% interval {_signed(-slope.high)} to {_signed(-slope.low)}"
        if slope.low is not None and slope.high is not None
        else "interval of the exponent unknown"
    )
    power = f"{name} ~ loss^{_signed(-slope.exponent)} ({ends}{no_movement})"
    if slope.low is None or slope.high is None or slope.low <= 0 <= slope.high:
        return f"{unknown}: {power}."
    return f"{name} {'grows' if slope.exponent > 0 else 'shrinks'} as the loss falls: {power}."


def slope_checks(slope: Slope, name: str) -> tuple[str, ...]:
    """What the movement was compared with: the published exponent, and growth that levels off.

    >>> slope_checks(Slope(p_value_kaplan=0.2), "B_crit")
    ('The exponent of Kaplan et al. 2020 (loss^-4.76, arXiv 2001.08361) is not contradicted: p = 0.2.',)
    >>> slope_checks(Slope(saturating_weight=0.12), "B_crit")
    ('B_crit levelling off instead of following a power holds 12% of the Akaike weight: too close to call.',)
    """
    found = []
    if slope.p_value_kaplan is not None:
        ending = "is rejected" if slope.p_value_kaplan < REJECTED else "is not contradicted"
        found.append(
            f"The exponent of Kaplan et al. 2020 (loss^-{_KAPLAN}, arXiv 2001.08361) {ending}:"
            f" {p_text(slope.p_value_kaplan)}."
        )
    if slope.saturating_weight is not None:
        found.append(
            f"{name} levelling off instead of following a power holds {percent_text(slope.saturating_weight)} of the"
            f" Akaike weight: {_preferred(slope.saturating_weight)}."
        )
    return tuple(found)


def _preferred(weight: float) -> str:
    if weight >= _BETTER:
        return "levelling off describes the losses better"
    return "a power describes the losses better" if weight <= 1 - _BETTER else "too close to call"


def p_text(p_value: float) -> str:
    """A p-value, two digits; the default 2,000 draws go down to 2/2001 and no further.

    >>> p_text(0.148), p_text(0.2), p_text(0.0009)
    ('p = 0.15', 'p = 0.2', 'p < 0.001')
    """
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.2g}"


def _signed(value: float) -> str:
    return f"{value + 0.0:.2g}"
