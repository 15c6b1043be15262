"""What stands against a verdict other than a surge, in sentences; nothing of it may be left for the verdict to hold.

The laws must agree on a class, the optima must be values and not bounds where it matters, a test without laws must not
contradict it, a constant must be shown and not be left over, and the edge of stability must not have made it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.counting import counted
from surge_sweeps.fitting.batch_counts import COMFORTABLE, FOR_VERDICT
from surge_sweeps.fitting.laws.fit_laws import LawFits, fit_laws
from surge_sweeps.fitting.laws.law_class import class_weights, law_rises, selected_law
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.result import LawFit, VerdictName
from surge_sweeps.fitting.verdict.edge_artefact import pressed_by_edge
from surge_sweeps.fitting.verdict.surge_gates import SurgeEvidence, best_scatter

FloatArray = NDArray[np.float64]

MIN_CLASS_WEIGHT = 0.8
#: A constant is claimed only if the learning rate changes by at most this factor over the batch sizes (95%).
MOST_CHANGE_OF_CONSTANT = 2.0
#: Below this p-value of the test without laws, a monotone verdict contradicts the optima.
CONTRADICTION = 0.01

_LARGEST_LOG = 700.0


def find_obstacles(
    optima: Optima,
    law_fits: LawFits,
    evidence: SurgeEvidence,
    kappa: float | None,
    stability_edge: Mapping[float, float],
) -> list[str]:
    """What stands against the heaviest class as the verdict; empty where nothing does.

    Args:
        optima, law_fits, evidence: of one target. kappa: the weakest surge that its precision would show.
        stability_edge: as for `decide.decide`.
    """
    weights = class_weights(law_fits)
    obstacles = _obstacles(law_fits, evidence, weights)
    best = next(iter(weights), None)
    if obstacles or best is None:
        return obstacles
    return [
        *_too_coarse_for_constant(law_fits, best, kappa),
        *_limited_by_stability(optima, law_fits, best, stability_edge),
    ]


def law_of(law_fits: LawFits, name: VerdictName) -> LawFit:
    """The law selected within a class that has Akaike weight, and so at least one law."""
    law = selected_law(law_fits.fits, law_fits.observed.batch_sizes, name)
    if law is None:
        raise ValueError(f"no law is of the class {name!r}")
    return law


def rising_of(name: VerdictName, law: LawFit, batch_sizes: FloatArray) -> bool | None:
    """Whether a monotone verdict rises (True), falls (False) or does neither (None)."""
    if name == "constant":
        return None
    return name != "power" or law_rises(law, batch_sizes)


def _obstacles(law_fits: LawFits, evidence: SurgeEvidence, weights: dict[VerdictName, float]) -> list[str]:
    """What the laws, the grid's edges and the test without laws hold against the heaviest class."""
    observed = law_fits.observed
    n = observed.log_lr.size
    if law_fits.fit("surge").aicc is None:
        return [
            f"{counted(n, 'batch size')} with an optimum or a bound cannot tell the laws apart: {FOR_VERDICT} or more"
            f" are needed, {COMFORTABLE} are better."
        ]
    best, *others = weights
    found = []
    if best == "surge":
        failed = [gate.finding for gate in evidence.gates if not gate.passed]
        found.append(
            f"Most of the evidence is for a surge law, but a surge is not established. {' '.join(failed)}"
        )
    elif weights[best] < MIN_CLASS_WEIGHT:
        rivals = ", ".join(f"{name} {weights[name]:.0%}" for name in (best, *others[:2]))
        found.append(
            f"Several kinds of law describe the optima about equally well ({rivals} of the Akaike weight; a verdict "
            f"needs {MIN_CLASS_WEIGHT:.0%})."
        )
    else:
        edges = _deciding_edges(law_fits, best)
        if edges:
            sizes = ", ".join(f"{observed.batch_sizes[index]:g}" for index in edges)
            found.append(
                f"The best description is {best}, but the optimum at batch size {sizes} lies at an edge of the "
                "learning-rate grid, which could change that."
            )
        p = _contradicting_p(evidence, best, law_of(law_fits, best), observed.batch_sizes)
        if p < CONTRADICTION:
            found.append(
                f"The best description is {best}, but a test without laws contradicts it (p = {p:.3g}): the optima "
                "rise and fall more than their noise explains."
            )
    return found


def _too_coarse_for_constant(law_fits: LawFits, name: VerdictName, kappa: float | None) -> list[str]:
    """A constant has the fewest parameters and wins where the optima say nothing: it must be shown, not left over."""
    if name != "constant":
        return []
    b, exponent = law_fits.observed.batch_sizes, law_fits.exponent()
    most = max(abs(end) if end is not None else math.inf for end in (exponent.low, exponent.high))
    change = math.exp(min(most * math.log(b[-1] / b[0]), _LARGEST_LOG))
    if change <= MOST_CHANGE_OF_CONSTANT and kappa is not None:
        return []
    seen = f"by up to a factor of {change:.3g}" if math.isfinite(most) else "by any factor"
    weakest = "of any strength" if kappa is None else f"below kappa = {kappa:.2g}"
    return [
        f"A constant describes the optima, but they are too uncertain to say that: over the measured batch sizes the "
        f"learning rate could change {seen} (95%), and a surge {weakest} would not show."
    ]


def _limited_by_stability(
    optima: Optima, law_fits: LawFits, name: VerdictName, stability_edge: Mapping[float, float]
) -> list[str]:
    """Optima pressed against the edge of stability are lower limits: does the verdict stand with them as such?"""
    if name not in ("saturation", "constant", "power"):
        return []
    pressed = pressed_by_edge(law_fits.observed, best_scatter(law_fits), stability_edge)
    if not pressed:
        return []
    bounded = fit_laws(optima.as_lower_bounds(pressed))
    if bounded.fits and class_weights(bounded).get(name, 0.0) >= MIN_CLASS_WEIGHT:
        return []
    sizes = ", ".join(f"{b:g}" for b in sorted(pressed))
    return [
        f"The best description is {name}, but at batch size {sizes} the optimum lies at the largest learning rate "
        "that trains: it may be the edge of stability and not the law. With those optima as lower limits the data do "
        "not say which law holds. Longer warm-up or gradient clipping, at every batch size alike, would tell."
    ]


def _deciding_edges(law_fits: LawFits, name: VerdictName) -> list[int]:
    """Edges among the two largest batch sizes, and the two smallest unless the verdict is about the large end."""
    edge, n = law_fits.observed.side != 0, law_fits.observed.side.size
    ends = {n - 2, n - 1} if name == "saturation" else {0, 1, n - 2, n - 1}
    return [int(index) for index in np.flatnonzero(edge) if index in ends]


def _contradicting_p(
    evidence: SurgeEvidence, name: VerdictName, law: LawFit, batch_sizes: FloatArray
) -> float:
    if evidence.test is None:
        return 1.0
    rising = rising_of(name, law, batch_sizes)
    if rising is None:
        return min(evidence.test)
    return evidence.test.p_rising if rising else evidence.test.p_falling
