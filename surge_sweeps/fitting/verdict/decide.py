"""The verdict on one target: which kind of law the optimal learning rate follows, or that the data do not say.

A surge has five gates to pass. Anything else needs an Akaike weight of 0.8 for its class, after every fitted law has
been counted for the simplest class that it equals over the measured batch sizes. Reasons are written for someone who
trains models: what was found, how precise it is, what failed and which runs would decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.fitting.laws.fit_laws import LawFits
from surge_sweeps.fitting.laws.law_class import class_weights, law_rises
from surge_sweeps.fitting.laws.surge_family import B_PEAK
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.result import Interval, LawFit, VerdictName
from surge_sweeps.fitting.verdict.advice import next_runs, precision, runs_for_laws
from surge_sweeps.fitting.verdict.detectable import minimum_detectable_kappa
from surge_sweeps.fitting.verdict.edge_artefact import edge_artefact
from surge_sweeps.fitting.verdict.obstacles import find_obstacles, law_of, rising_of
from surge_sweeps.fitting.verdict.surge_gates import SIGNIFICANCE, SurgeEvidence, best_scatter, weigh_surge

FloatArray = NDArray[np.float64]

_NO_B_NOISE = "B_noise: defined only under a saturation or surge law"
_WORDS: dict[VerdictName, str] = {
    "surge": "The optimal learning rate rises, then falls with the batch size",
    "saturation": "The optimal learning rate rises with the batch size and levels off",
    "sqrt": "The optimal learning rate grows as the square root of the batch size",
    "linear": "The optimal learning rate grows in proportion to the batch size",
    "constant": "The optimal learning rate does not change with the batch size",
}


@dataclass(frozen=True)
class Verdict:
    """What the optima of one target say.

    Attributes:
        name: the verdict. reasons: sentences, the most important first. law: the law selected within the verdict,
            None when inconclusive. b_peak, b_noise: 95% intervals. minimum_detectable_kappa: the weakest surge that
            this precision would show; None if none would.
    """

    name: VerdictName
    reasons: tuple[str, ...]
    law: str | None
    b_peak: Interval
    b_noise: Interval
    minimum_detectable_kappa: float | None


def decide(
    optima: Optima,
    law_fits: LawFits,
    rng: np.random.Generator,
    stability_edge: Mapping[float, float] | None = None,
) -> Verdict:
    """Judge one target.

    Args:
        optima, law_fits: the optima and the laws fitted to them (`fit_laws(optima)`). rng: of the bootstrap tests.
        stability_edge: batch size -> log of the largest learning rate that trains there, where a larger one was tried
            and diverged. A fall, or a levelling off, that may be this edge is not called a law.

    >>> from surge_sweeps.fitting.laws.fit_laws import fit_laws
    >>> none = np.full((0, 1), np.nan)
    >>> optima = Optima(np.array([8.0]), np.log([0.1]), ("ok",), none, np.full(1, np.nan), none, (5,))
    >>> decide(optima, fit_laws(optima), np.random.default_rng(0)).name
    'inconclusive'
    """
    if not law_fits.fits:
        reasons = (law_fits.reason, *runs_for_laws(optima, law_fits))
        return Verdict(
            "inconclusive", reasons, None, Interval(definition=B_PEAK), Interval(definition=_NO_B_NOISE), None
        )
    evidence = weigh_surge(law_fits, rng)
    kappa = minimum_detectable_kappa(law_fits.observed, best_scatter(law_fits))
    if evidence.surge:
        artefact = _at_the_edge(law_fits, evidence, stability_edge or {}, rng)
        if artefact is None:
            return _surge(law_fits, evidence, kappa)
        return _inconclusive(optima, law_fits, evidence, [artefact], kappa)
    weights = class_weights(law_fits)
    best = next(iter(weights), None)
    obstacles = find_obstacles(optima, law_fits, evidence, kappa, stability_edge or {})
    if best is None or obstacles:
        return _inconclusive(optima, law_fits, evidence, obstacles, kappa)
    return _monotone(law_fits, evidence, best, weights[best], kappa)


def _surge(law_fits: LawFits, evidence: SurgeEvidence, kappa: float | None) -> Verdict:
    b_peak, law = law_fits.b_peak, evidence.candidate.fit.name
    headline = (
        f"The optimal learning rate rises up to a batch size of about {b_peak.estimate:.3g} (95% interval "
        f"{b_peak.low:.3g} to {b_peak.high:.3g}) and falls beyond it."
    )
    if not evidence.rise_shown:
        headline += " The fall is clear; by themselves the optima below the peak would also fit a flat start."
    reasons = (
        headline,
        *(gate.finding for gate in evidence.gates),
        *_second_rise(evidence),
        *_exact_form(law_fits),
        precision(law_fits, kappa),
    )
    return Verdict("surge", reasons, law, b_peak, law_fits.b_noise(law), kappa)


def _at_the_edge(
    law_fits: LawFits,
    evidence: SurgeEvidence,
    stability_edge: Mapping[float, float],
    rng: np.random.Generator,
) -> str | None:
    peak = evidence.candidate.peak
    if peak is None:
        return None
    return edge_artefact(law_fits.observed, peak, best_scatter(law_fits), stability_edge, rng)


def _second_rise(evidence: SurgeEvidence) -> list[str]:
    """An alarm where the optima fall from the peak and rise again: no candidate law can do that."""
    p = evidence.second_rise_p
    if p is None or p >= SIGNIFICANCE:
        return []
    return [
        f"Beyond the peak the optimal learning rate falls and then rises again (p = {p:.2g}, without any law). Layers "
        "or coordinates with very different signal-to-noise ratios do that, and no law here describes it: do not "
        "extrapolate to larger batch sizes."
    ]


def _exact_form(law_fits: LawFits) -> list[str]:
    peak, exact = law_fits.b_peak.estimate, law_fits.b_peak_erf()
    if peak is None or exact is None:
        return []
    return [
        f"With the exact (error-function) form of the surge law B_peak would be {exact:.3g} instead of {peak:.3g}: "
        "so much depends on the form of the law."
    ]


def _monotone(
    law_fits: LawFits, evidence: SurgeEvidence, name: VerdictName, weight: float, kappa: float | None
) -> Verdict:
    b = law_fits.observed.batch_sizes
    law = law_of(law_fits, name)
    what = _power(law_fits, law) if name == "power" else _WORDS[name]
    headline = (
        f"{what}, from {b[0]:g} to {b[-1]:g}: such laws hold {weight:.0%} of the Akaike weight, and "
        f"{law.name} is the best of them."
    )
    reasons = (headline, *_why_no_surge(evidence), *_if_any_peak(law_fits), precision(law_fits, kappa))
    rising = rising_of(name, law, b)
    b_peak = _peak_without_surge(law_fits, low=rising, high=rising is False)
    b_noise = law_fits.b_noise(law.name) if name == "saturation" else Interval(definition=_NO_B_NOISE)
    return Verdict(name, reasons, law.name, b_peak, b_noise, kappa)


def _power(law_fits: LawFits, law: LawFit) -> str:
    pace = "rises" if law_rises(law, law_fits.observed.batch_sizes) else "falls"
    found = law_fits.exponent()
    ends = (
        f" (95% interval {found.low:.2g} to {found.high:.2g})"
        if found.low is not None and found.high is not None
        else ""
    )
    exponent = f"exponent {law_fits.fit('power').parameters['alpha']:.2f}{ends}"
    if law.name != "power":
        return (
            f"The optimal learning rate {pace} with the batch size throughout, about as a power, {exponent}"
        )
    return f"The optimal learning rate {pace} with the batch size as a power, {exponent}"


def _inconclusive(
    optima: Optima, law_fits: LawFits, evidence: SurgeEvidence, obstacles: list[str], kappa: float | None
) -> Verdict:
    failed = [gate.finding for gate in evidence.gates if not gate.passed]
    told = not failed or any(failed[0] in obstacle for obstacle in obstacles)
    reasons = (
        *obstacles,
        *([] if told else _why_no_surge(evidence)),
        *_second_rise(evidence),
        *_if_any_peak(law_fits),
        precision(law_fits, kappa),
        *next_runs(optima, law_fits, evidence),
    )
    b_peak = _peak_without_surge(law_fits, low=True, high=True)
    return Verdict(
        "inconclusive", tuple(dict.fromkeys(reasons)), None, b_peak, Interval(definition=_NO_B_NOISE), kappa
    )


def _why_no_surge(evidence: SurgeEvidence) -> list[str]:
    failed = [gate.finding for gate in evidence.gates if not gate.passed]
    return [f"No surge is claimed: {failed[0]}"] if failed else []


def _if_any_peak(law_fits: LawFits) -> list[str]:
    """What a closed interval of B_peak is worth without a surge."""
    b_peak = law_fits.b_peak
    if b_peak.low is None or b_peak.high is None:
        return []
    return [
        f"If there is a peak, it lies between {b_peak.low:.3g} and {b_peak.high:.3g} (95%); that there is one is not "
        "established."
    ]


def _peak_without_surge(law_fits: LawFits, *, low: bool | None, high: bool | None) -> Interval:
    """B_peak without a surge: a bound where the profile sets one on the side asked for.

    Where the profile is closed both ends are kept, but they hold only if there is a peak: not identified.
    """
    b_peak = law_fits.b_peak
    if b_peak.low is not None and b_peak.high is not None:
        return Interval(low=b_peak.low, high=b_peak.high, definition=B_PEAK)
    if low and b_peak.low is not None:
        return Interval(low=b_peak.low, status="lower_bound", definition=B_PEAK)
    if high and b_peak.high is not None:
        return Interval(high=b_peak.high, status="upper_bound", definition=B_PEAK)
    return Interval(definition=B_PEAK)
