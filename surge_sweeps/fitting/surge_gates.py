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

from surge_sweeps.fitting.detectable import AICC_MARGIN
from surge_sweeps.fitting.laws import LawFits
from surge_sweeps.fitting.likelihood import SD_FLOOR, Observations
from surge_sweeps.fitting.monotonicity import MonotonicityTest, monotonicity_test
from surge_sweeps.fitting.optima import Optima
from surge_sweeps.fitting.result import LawFit
from surge_sweeps.theory import LAWS, peak_batch_size

FloatArray = NDArray[np.float64]

SIGNIFICANCE = 0.05
MIN_DROP = 0.10
MIN_EACH_SIDE = 2
_MIN_DRAWS = 40


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
    """The candidate, the test without laws, and the gates in order: laws, peak, model-free, edges, size."""

    candidate: SurgeCandidate
    test: MonotonicityTest | None
    gates: tuple[Gate, ...]

    @property
    def surge(self) -> bool:
        """Whether all gates passed."""
        return all(gate.passed for gate in self.gates)


def weigh_surge(optima: Optima, law_fits: LawFits, rng: np.random.Generator) -> SurgeEvidence:
    """Put the surge to its five tests. `law_fits` must hold fits."""
    candidate = surge_candidate(law_fits)
    test = _test_monotonicity(law_fits, rng)
    if candidate.peak is None:
        return SurgeEvidence(
            candidate, test, (Gate(False, "The best surge law does not fall at any batch size."),)
        )
    gates = (
        _laws_gate(candidate),
        _peak_gate(law_fits, candidate.peak),
        _model_free_gate(optima, law_fits, candidate, test, rng),
        _edges_gate(law_fits),
        _size_gate(law_fits.observed, candidate),
    )
    return SurgeEvidence(candidate, test, gates)


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


def _test_monotonicity(law_fits: LawFits, rng: np.random.Generator) -> MonotonicityTest | None:
    observed, use = law_fits.observed, law_fits.observed.values
    if use.sum() < 3:
        return None
    return monotonicity_test(observed.log_lr[use], observed.variance[use] + best_scatter(law_fits) ** 2, rng)


def _laws_gate(candidate: SurgeCandidate) -> Gate:
    if not math.isfinite(candidate.margin):
        return Gate(False, "There are too few batch sizes to compare a surge law with a monotone law.")
    finding = (
        f"The law {candidate.fit.name} is {'ahead of' if candidate.margin > 0 else 'behind'} the best law without "
        f"a peak ({candidate.rival}) by {abs(candidate.margin):.1f} in AICc; a surge needs more than "
        f"{AICC_MARGIN:g} ahead."
    )
    return Gate(candidate.margin > AICC_MARGIN, finding)


def _peak_gate(law_fits: LawFits, peak: float) -> Gate:
    b, interval = law_fits.observed.batch_sizes, law_fits.b_peak
    below, above = int(np.count_nonzero(b < peak)), int(np.count_nonzero(b > peak))
    low = f"below {b[0]:g}" if interval.low is None else f"{interval.low:.3g}"
    high = f"above {b[-1]:g}" if interval.high is None else f"{interval.high:.3g}"
    finding = (
        f"The 95% interval of B_peak runs from {low} to {high}, with {below} batch sizes below the peak and {above} "
        f"above it; a surge needs it inside the measured {b[0]:g} to {b[-1]:g} with {MIN_EACH_SIDE} on each side."
    )
    passed = interval.status == "identified" and min(below, above) >= MIN_EACH_SIDE
    return Gate(passed, finding)


def _model_free_gate(
    optima: Optima,
    law_fits: LawFits,
    candidate: SurgeCandidate,
    test: MonotonicityTest | None,
    rng: np.random.Generator,
) -> Gate:
    if test is None or candidate.peak is None:
        return Gate(False, "There are too few optima for a test without laws.")
    near, fall, low = fall_after_peak(optima, candidate.peak, best_scatter(law_fits), rng)
    finding = (
        f"Without any law: a curve that only rises fits with p = {test.p_rising:.3g}, one that only falls with "
        f"p = {test.p_falling:.3g} (both must be below {SIGNIFICANCE:g}), and the optimal learning rate at batch size "
        f"{near:g} is {math.exp(fall):.2f} times that at the largest, with {_factor(low)} as the low end of its 95% "
        "interval (it must be above 1)."
    )
    return Gate(max(test) < SIGNIFICANCE and low > 0, finding)


def fall_after_peak(
    optima: Optima, peak: float, scatter_sd: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Measured fall from the peak to the largest batch size.

    Returns:
        The batch size measured nearest the peak; log of its optimal LR over that at the largest batch size; and the
        2.5% point of that log over the draws, `scatter_sd` included.
    """
    known = np.flatnonzero(optima.known())
    b = optima.batch_sizes[known]
    near, last = known[np.argmin(np.abs(np.log(b / peak)))], known[-1]
    fall = float(optima.log_lr[near] - optima.log_lr[last])
    if near == last:
        return float(b[-1]), 0.0, -math.inf
    with np.errstate(invalid="ignore"):
        draws = optima.draws[:, near] - optima.draws[:, last]
    draws = draws[~np.isnan(draws)]
    if draws.size < _MIN_DRAWS:
        draws = fall + SD_FLOOR * math.sqrt(2) * rng.standard_normal(1000)
    draws = draws + scatter_sd * math.sqrt(2) * rng.standard_normal(draws.size)
    return float(optima.batch_sizes[near]), fall, float(np.quantile(draws, 0.025, method="lower"))


def _factor(log_ratio: float) -> str:
    return f"{math.exp(log_ratio):.2f}" if math.isfinite(log_ratio) else "an open value"


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
