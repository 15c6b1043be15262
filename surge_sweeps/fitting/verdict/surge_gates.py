"""The five conditions a surge must meet, each with what was found in numbers.

A surge is a claim that the optimal learning rate rises and falls within the measured batch sizes. It takes the laws,
the place of the peak, the optima themselves without any law, the edges of the learning-rate grid and the size of the
fall to agree.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.counting import counted
from surge_sweeps.fitting.laws.fit_laws import LawFits
from surge_sweeps.fitting.laws.likelihood import Observations
from surge_sweeps.fitting.result import LawFit
from surge_sweeps.fitting.verdict.contrast import Contrast, contrasts_about_peak
from surge_sweeps.fitting.verdict.detectable import AICC_MARGIN
from surge_sweeps.fitting.verdict.monotone_null import monotone_p_value
from surge_sweeps.fitting.verdict.monotonicity import MonotonicityTest, monotonicity_test
from surge_sweeps.theory import LAWS, peak_batch_size

FloatArray = NDArray[np.float64]

SIGNIFICANCE = 0.05
MIN_DROP = 0.10
MIN_EACH_SIDE = 2
#: Significance that will do for the rise: it is short where B_peak is small, and most monotone laws rise as well.
RISE_SIGNIFICANCE = 0.075

_RISE_QUANTILE = 1.44  # of the normal distribution, one-sided, at `RISE_SIGNIFICANCE`
_ONE_SIDED_95 = 1.645
_MIN_FOR_SECOND_RISE = 4


class Gate(NamedTuple):
    """One condition: did it hold, and what was found, as a sentence."""

    passed: bool
    finding: str


class SurgeCandidate(NamedTuple):
    """The better surge law by AICc, its rival, and by how much AICc prefers it to the rival.

    `margin` is -inf where either AICc is undefined; `peak` is None where the law does not fall.
    """

    fit: LawFit
    peak: float | None
    rival: str
    margin: float


class SurgeEvidence(NamedTuple):
    """The candidate, the test without laws, and the gates in order: laws, peak, model-free, edges, size.

    `second_rise_p` is the p-value of "the optima do not rise again beyond the peak"; None where it cannot be tested.
    `rise_shown`: whether the 95% interval of the rise up to the peak, taken by itself, excludes no rise.
    """

    candidate: SurgeCandidate
    test: MonotonicityTest | None
    gates: tuple[Gate, ...]
    second_rise_p: float | None = None
    rise_shown: bool = False

    @property
    def surge(self) -> bool:
        """Whether all gates passed."""
        return all(gate.passed for gate in self.gates)


def weigh_surge(law_fits: LawFits, rng: np.random.Generator) -> SurgeEvidence:
    """Put the surge to its five tests. `law_fits` must hold fits."""
    candidate = surge_candidate(law_fits)
    test = _test_monotonicity(law_fits, rng)
    if candidate.peak is None:
        nowhere = Gate(False, "The best surge law does not fall at any batch size.")
        return SurgeEvidence(candidate, test, (nowhere,))
    others = (
        _peak_gate(law_fits, candidate.peak),
        _model_free_gate(law_fits, candidate, test),
        _edges_gate(law_fits),
        _size_gate(law_fits.observed, candidate),
    )
    p_value = None
    # The bootstrap only matters where nothing else stands against the surge.
    if -math.inf < candidate.margin <= AICC_MARGIN and all(gate.passed for gate in others):
        p_value = monotone_p_value(law_fits.observed, best_scatter(law_fits), rng)
    gates = (_laws_gate(candidate, p_value), *others)
    scatter_sd = _unbiased_scatter(law_fits)
    rise = contrasts_about_peak(law_fits.observed, candidate.fit, candidate.peak, scatter_sd).rise
    again = _second_rise_p(law_fits, candidate.peak, rng)
    return SurgeEvidence(candidate, test, gates, again, rise_shown=rise.low() > 0)


def surge_candidate(law_fits: LawFits) -> SurgeCandidate:
    """The surge law with a peak that has the lowest AICc, against the best law without one.

    The plateau law held to kappa <= 1 is among the rivals.
    """
    surges: dict[str, float] = {}
    rivals: dict[str, float] = {}
    for fit in law_fits.fits:
        falls = peak_batch_size(fit.name, fit.parameters) is not None
        (surges if falls else rivals)[fit.name] = math.inf if fit.aicc is None else fit.aicc
    held = law_fits.monotone_plateau_aicc
    if held is not None:
        rivals["surge_plateau held to kappa <= 1"] = held
    best, rival = min(surges, key=surges.__getitem__), min(rivals, key=rivals.__getitem__)
    margin = rivals[rival] - surges[best]
    fit = law_fits.fit(best)
    return SurgeCandidate(
        fit, peak_batch_size(best, fit.parameters), rival, margin if math.isfinite(margin) else -math.inf
    )


def best_scatter(law_fits: LawFits) -> float:
    """Extra scatter (sd of log LR) under the law with the lowest AICc, or the smallest where none is defined."""
    defined = [fit for fit in law_fits.fits if fit.aicc is not None]
    if not defined:
        return min(law_fits.scatter_sd.values())
    return law_fits.scatter_sd[min(defined, key=lambda fit: fit.aicc or 0.0).name]


def _unbiased_scatter(law_fits: LawFits) -> float:
    """`best_scatter` for tests: maximum likelihood divides by n, not by the degrees of freedom a curve leaves."""
    n = law_fits.observed.log_lr.size
    most = max(len(law.parameters) for law in LAWS.values())
    return best_scatter(law_fits) * math.sqrt(n / max(n - most, 1))


def _test_monotonicity(law_fits: LawFits, rng: np.random.Generator) -> MonotonicityTest | None:
    observed, use = law_fits.observed, law_fits.observed.values
    if use.sum() < 3:
        return None
    return monotonicity_test(observed.log_lr[use], observed.covariance(best_scatter(law_fits)), rng)


def _second_rise_p(law_fits: LawFits, peak: float, rng: np.random.Generator) -> float | None:
    """p-value of "from the peak on the optima only fall, or only rise" against "they fall, then rise"."""
    use = np.flatnonzero(law_fits.observed.values)
    beyond = law_fits.observed.batch_sizes[use] >= peak
    if beyond.sum() < _MIN_FOR_SECOND_RISE:
        return None
    covariance = law_fits.observed.covariance(best_scatter(law_fits))[np.ix_(beyond, beyond)]
    return max(monotonicity_test(-law_fits.observed.log_lr[use][beyond], covariance, rng))


def _laws_gate(candidate: SurgeCandidate, p_value: float | None) -> Gate:
    """A lead of `AICC_MARGIN`, or one that the best monotone law would hardly ever give by chance."""
    if not math.isfinite(candidate.margin):
        return Gate(False, "There are too few batch sizes to compare a surge law with a monotone law.")
    # Fitted with kappa <= 1, the plateau law is a rival, and its name alone would confuse.
    rival = (
        f"{candidate.rival}, which has none here" if candidate.rival == "surge_plateau" else candidate.rival
    )
    finding = (
        f"The law {candidate.fit.name} is {'ahead of' if candidate.margin > 0 else 'behind'} the best law without "
        f"a peak ({rival}) by {abs(candidate.margin):.1f} in AICc; a surge needs more than "
        f"{AICC_MARGIN:g} ahead"
    )
    if p_value is None:
        return Gate(candidate.margin > AICC_MARGIN, f"{finding}.")
    finding += (
        f", or a fit that a law without a peak would equal by chance in less than {SIGNIFICANCE:.0%} of such sweeps "
        f"(here {p_value:.2g})."
    )
    return Gate(p_value < SIGNIFICANCE, finding)


def _peak_gate(law_fits: LawFits, peak: float) -> Gate:
    b, interval = law_fits.observed.batch_sizes, law_fits.b_peak
    below, above = int(np.count_nonzero(b < peak)), int(np.count_nonzero(b > peak))
    low = f"below {b[0]:g}" if interval.low is None else f"{interval.low:.3g}"
    high = f"above {b[-1]:g}" if interval.high is None else f"{interval.high:.3g}"
    finding = (
        f"The 95% interval of B_peak runs from {low} to {high}, with {counted(below, 'batch size')} below the peak "
        f"and {above} above it; a surge needs it inside the measured {b[0]:g} to {b[-1]:g} with {MIN_EACH_SIDE} on "
        "each side."
    )
    passed = interval.status == "identified" and min(below, above) >= MIN_EACH_SIDE
    return Gate(passed, finding)


def _model_free_gate(law_fits: LawFits, candidate: SurgeCandidate, test: MonotonicityTest | None) -> Gate:
    if test is None or candidate.peak is None:
        return Gate(False, "There are too few optima for a test without laws.")
    scatter_sd = _unbiased_scatter(law_fits)
    rise, fall = contrasts_about_peak(law_fits.observed, candidate.fit, candidate.peak, scatter_sd)
    worst_fall = _fall_without_any(law_fits.observed, candidate.fit, candidate.peak, scatter_sd)
    rises = test.p_falling < RISE_SIGNIFICANCE or rise.low(_RISE_QUANTILE) > 0
    falls = test.p_rising < SIGNIFICANCE and fall.low() > 0
    finding = (
        f"Without any law: a curve that only rises fits with p = {test.p_rising:.3g} (must be below "
        f"{SIGNIFICANCE:g}) and one that only falls with p = {test.p_falling:.3g} (below {RISE_SIGNIFICANCE:g}, or a "
        f"clear rise). Up to the peak the optimal learning rate grows {_factor(rise)}; from the peak to the largest "
        f"batch size it falls {_factor(fall)}, which must be above 1 at the low end, as it must without any one of "
        f"the batch sizes (there {math.exp(worst_fall):.2f} or more, one-sided 95%)."
    )
    return Gate(rises and falls and worst_fall > 0, finding)


def _fall_without_any(observed: Observations, law: LawFit, peak: float, scatter_sd: float) -> float:
    """The least low end (one-sided 95%) of the log fall when one value is left out.

    A single wild optimum at the peak or at the largest batch size would make a surge of a monotone curve.
    """
    rests = [observed.without(int(index)) for index in np.flatnonzero(observed.values)]
    return min(contrasts_about_peak(rest, law, peak, scatter_sd).fall.low(_ONE_SIDED_95) for rest in rests)


def _factor(contrast: Contrast) -> str:
    if not math.isfinite(contrast.sd):
        return "by an unknown factor"
    low, middle, high = (math.exp(contrast.low(quantile)) for quantile in (1.96, 0.0, -1.96))
    return f"by a factor of {middle:.2f} (95% interval {low:.2f} to {high:.2f})"


def deciding_edges_of_surge(law_fits: LawFits) -> list[int]:
    """Indices into `observed` of optima at a grid edge that could undo a surge.

    An optimum above the grid away from the peak may be higher than the peak; one below the grid at the peak may be
    lower than its neighbours.
    """
    observed, peak = law_fits.observed, law_fits.b_peak
    low, high = peak.low or 0.0, math.inf if peak.high is None else peak.high
    at_peak = (observed.batch_sizes >= low) & (observed.batch_sizes <= high)
    return np.flatnonzero(np.where(at_peak, observed.side < 0, observed.side > 0)).tolist()


def _edges_gate(law_fits: LawFits) -> Gate:
    deciding = [f"{law_fits.observed.batch_sizes[index]:g}" for index in deciding_edges_of_surge(law_fits)]
    if not deciding:
        return Gate(True, "No optimum at an edge of the learning-rate grid could undo this.")
    return Gate(
        False, f"The optimum lies at an edge of the learning-rate grid at batch size {', '.join(deciding)}."
    )


def _size_gate(observed: Observations, candidate: SurgeCandidate) -> Gate:
    ends = np.array([candidate.peak, observed.batch_sizes[-1]], float)
    top, last = LAWS[candidate.fit.name].evaluate(ends, **candidate.fit.parameters)
    drop = 1 - float(last / top) if ends[0] < ends[1] else 0.0
    finding = (
        f"At batch size {ends[1]:g} the fitted optimal learning rate is {drop:.0%} below its peak; a surge needs more "
        f"than {MIN_DROP:.0%}."
    )
    return Gate(drop > MIN_DROP, finding)
