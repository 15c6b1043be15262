"""Which class of verdict each fitted law speaks for, and how much Akaike weight each class has.

A law with more parameters can take the shape of a simpler one: a saturation that sets in far beyond the measured
batch sizes is a square root there. Such a fit is evidence for the simpler class, not against it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.fit_laws import LawFits
from surge_sweeps.fitting.result import LawFit, VerdictName
from surge_sweeps.theory import LAWS, peak_batch_size

FloatArray = NDArray[np.float64]

#: A law counts for a simpler class if it stays within this factor of it over the measured batch sizes.
SAME_WITHIN = 1.10

#: Slopes are taken over this factor in batch size.
_NEARBY = 1.01
#: A law this far behind in AICc is not taken for the sake of its name.
_FAR_BEHIND = 10.0

_SIMPLE: tuple[VerdictName, ...] = ("constant", "sqrt", "linear")


def law_class(fit: LawFit, batch_sizes: FloatArray) -> VerdictName:
    """The simplest class whose curve equals the fitted one within `SAME_WITHIN` at the measured batch sizes.

    A surge law that falls by less than `SAME_WITHIN` up to the largest batch size is a saturation there, as is one
    with kappa <= 1; one that rises by less than that from the smallest only falls, which is a power.

    >>> far = LawFit(name="adam_saturation", parameters={"a": 1.0, "b_s": 1e6}, aicc=0.0, weight=1.0)
    >>> law_class(far, np.array([4.0, 64.0, 512.0])), law_class(far, np.array([1e4, 1e6, 1e8]))
    ('sqrt', 'saturation')
    >>> early = LawFit(name="surge", parameters={"eps_max": 1.0, "b_noise": 4.0}, aicc=0.0, weight=1.0)
    >>> law_class(early, np.array([4.0, 64.0])), law_class(early, np.array([1.0, 4.0, 64.0]))
    ('power', 'surge')
    """
    curve = np.log(np.broadcast_to(LAWS[fit.name].evaluate(batch_sizes, **fit.parameters), batch_sizes.shape))
    for name in _SIMPLE:
        gap = curve - np.log(np.broadcast_to(LAWS[name].evaluate(batch_sizes, a=1.0), batch_sizes.shape))
        if np.ptp(gap) / 2 <= np.log(SAME_WITHIN):
            return name
    if LAWS[fit.name].verdict != "surge":
        return LAWS[fit.name].verdict
    peak = peak_batch_size(fit.name, fit.parameters)
    if peak is None or peak >= batch_sizes[-1]:
        return "saturation" if _levels_off(fit, batch_sizes) else "power"
    if peak <= batch_sizes[0]:
        return "power"
    top = np.log(float(LAWS[fit.name].evaluate(peak, **fit.parameters)))
    if top - curve[-1] <= np.log(SAME_WITHIN):
        return "saturation"
    return "power" if top - curve[0] <= np.log(SAME_WITHIN) else "surge"


def _levels_off(fit: LawFit, batch_sizes: FloatArray) -> bool:
    """Whether the curve rises less than half as steeply, in logs, at the largest batch size as at the smallest."""
    ends = np.array([batch_sizes[0], batch_sizes[0] * _NEARBY, batch_sizes[-1] / _NEARBY, batch_sizes[-1]])
    low, low_next, high_next, high = np.log(LAWS[fit.name].evaluate(ends, **fit.parameters))
    return bool(high - high_next < 0.5 * (low_next - low))


def law_rises(fit: LawFit, batch_sizes: FloatArray) -> bool:
    """Whether a law, taken for a power, rises from the smallest measured batch size to the largest.

    >>> law = LawFit(name="power", parameters={"a": 1.0, "alpha": -0.1}, aicc=None, weight=None)
    >>> law_rises(law, np.array([4.0, 64.0]))
    False
    """
    first, last = LAWS[fit.name].evaluate(batch_sizes[[0, -1]], **fit.parameters)
    return bool(last > first)


def class_weights(law_fits: LawFits) -> dict[VerdictName, float]:
    """Akaike weight of each class, the heaviest first; empty where no law has one."""
    totals: dict[VerdictName, float] = {}
    for fit in law_fits.fits:
        if fit.weight is not None:
            name = law_class(fit, law_fits.observed.batch_sizes)
            totals[name] = totals.get(name, 0.0) + fit.weight
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def selected_law(laws: Sequence[LawFit], batch_sizes: FloatArray, verdict: VerdictName) -> LawFit | None:
    """The law to go on with under a verdict: of its class, one of its own laws if there is one, by AICc.

    None where no law speaks for the verdict, as for an inconclusive one.
    """
    members = [fit for fit in laws if fit.aicc is not None and law_class(fit, batch_sizes) == verdict]
    best = min(members, key=lambda fit: fit.aicc or 0.0, default=None)
    if best is None:
        return None
    least = best.aicc or 0.0
    own = [
        fit
        for fit in members
        if LAWS[fit.name].verdict == verdict and (fit.aicc or 0.0) < least + _FAR_BEHIND
    ]
    return min(own, key=lambda fit: fit.aicc or 0.0, default=best)
