"""Sentences for someone who trains models: how precise the optima are, what is missing, which runs would decide."""

from __future__ import annotations

import math

from surge_sweeps.fitting.batch_counts import COMFORTABLE, too_few_batch_sizes
from surge_sweeps.fitting.laws.fit_laws import LawFits
from surge_sweeps.fitting.laws.likelihood import SD_FLOOR
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.result import LawFit
from surge_sweeps.fitting.verdict.detectable import AICC_MARGIN
from surge_sweeps.fitting.verdict.surge_gates import SurgeEvidence, best_scatter
from surge_sweeps.theory import peak_to_plateau

_MOST_SEEDS = 16


def precision(law_fits: LawFits, minimum_kappa: float | None) -> str:
    """The achieved noise of the optima and the weakest surge it would show."""
    sd, scatter = law_fits.observed.median_sd(), best_scatter(law_fits)
    seeds = (
        f"a median standard deviation of {sd:.2g} in log (about {math.expm1(sd):.0%})"
        if sd > SD_FLOOR
        else f"no known noise (at least {SD_FLOOR:g} in log is assumed)"
    )
    noise = f"The optimal learning rates have {seeds} and {scatter:.2g} more around the best law."
    if minimum_kappa is None:
        return f"{noise} That is too coarse, or the batch sizes too few, to show a surge of any strength."
    return (
        f"{noise} The weakest surge this would show has kappa = {minimum_kappa:.2g}, a peak "
        f"{float(peak_to_plateau(minimum_kappa)):.2f} times its plateau."
    )


def missing_optima(optima: Optima) -> list[str]:
    """One sentence for each reason why batch sizes have no optimum."""
    reasons = {
        "too_few": "has too few usable learning rates for an optimum: add learning rates there",
        "diverged": "diverged at every learning rate: add smaller ones there",
    }
    sentences = []
    for status, what in reasons.items():
        sizes = [
            f"{b:g}" for b, found in zip(optima.batch_sizes, optima.status, strict=True) if found == status
        ]
        if sizes:
            sentences.append(f"Batch size {', '.join(sizes)} {what}.")
    return sentences


def more_learning_rates(law_fits: LawFits) -> list[str]:
    """Where to extend the learning-rate grid, one sentence for each side."""
    observed = law_fits.observed
    sentences = []
    for side, word in ((1, "above"), (-1, "below")):
        at = [f"{b:g}" for b in observed.batch_sizes[observed.side == side]]
        if at:
            sentences.append(
                f"Add learning rates {word} those run at batch size {', '.join(at)}: the optimum may lie there."
            )
    return sentences


def runs_for_laws(optima: Optima, law_fits: LawFits) -> list[str]:
    """The runs that would give laws to fit, where there are too few optima for any."""
    few = too_few_batch_sizes([round(size) for size in optima.batch_sizes], counts_steps=False)
    more = [f"{few[0].upper()}{few[1:]}, each with five or more learning rates."] if few else []
    return more_learning_rates(law_fits) + missing_optima(optima) + more


def next_runs(optima: Optima, law_fits: LawFits, evidence: SurgeEvidence) -> list[str]:
    """The runs most likely to settle an open verdict."""
    observed, peak = law_fits.observed, evidence.candidate.peak
    sentences = more_learning_rates(law_fits) + missing_optima(optima)
    b_min, b_max = float(observed.batch_sizes[0]), float(observed.batch_sizes[-1])
    if law_fits.b_peak.high is None:
        sentences.append(f"Add batch sizes above {b_max:g}, such as {2 * b_max:g} and {4 * b_max:g}.")
    elif law_fits.b_peak.low is None and b_min > 1:
        sentences.append(f"Add batch sizes below {b_min:g}.")
    if observed.log_lr.size < COMFORTABLE and peak is not None:
        sentences.append(
            f"Add batch sizes in between: {observed.log_lr.size} are few to tell eight laws apart."
        )
    sentences.append(_more_seeds(law_fits, evidence))
    return sentences


def _more_seeds(law_fits: LawFits, evidence: SurgeEvidence) -> str:
    sd, margin = law_fits.observed.median_sd(), evidence.candidate.margin
    # The smallest of all laws: what a simple law misses of the curve is no scatter, and more seeds would show it.
    scatter = min(law_fits.scatter_sd[fit.name] for fit in _comparable(law_fits))
    if scatter > sd:
        return (
            f"More seeds alone are unlikely to settle it: the optima scatter by {scatter:.2g} in log or more "
            f"about every law, beyond the {sd:.2g} that the seeds explain. Add batch sizes and learning rates in "
            "between."
        )
    if 0 < margin <= AICC_MARGIN:
        factor = _seed_factor(sd, scatter, 1.5 * AICC_MARGIN / margin)
        if factor is None:
            return (
                "More seeds alone are unlikely to settle whether the learning rate falls again: add batch sizes and "
                "learning rates in between."
            )
        return f"Add seeds: about {factor} times as many may settle whether the learning rate falls again."
    return f"Add seeds: four times as many would bring the standard deviation in log from {sd:.2g} to {sd / 2:.2g}."


def _comparable(law_fits: LawFits) -> list[LawFit]:
    """The laws with an AICc; all of them where none has one."""
    return [fit for fit in law_fits.fits if fit.aicc is not None] or list(law_fits.fits)


def _seed_factor(sd: float, scatter: float, gain: float) -> int | None:
    """How many times the seeds raise the AICc margin, which goes as 1/variance, by `gain`; None above 16 times.

    The variance about a law is sd^2/k + scatter^2 with k times the seeds.
    """
    left = (sd**2 + scatter**2) / gain - scatter**2
    factor = math.ceil(sd**2 / left) if left > 0 else math.inf
    return int(factor) if factor <= _MOST_SEEDS else None
