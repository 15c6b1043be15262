"""What holds for a report, as far as it concerns the observables that are in it."""

from __future__ import annotations

from collections.abc import Mapping

from surge_sweeps.fitting.result import SurgeFit
from surge_sweeps.report.families import family_of, has_rates, is_tuned

_FITTED = (
    "An optimal learning rate is the best point of a curve fitted through the runs at one batch size, not the best"
    " run; a batch size whose best learning rate lies at the edge of the grid gives a bound instead of a value."
)
_TUNED = (
    "Learning rates that were tuned before are taken as they are: how well they were tuned is not known, and no"
    " interval covers it."
)
_INTERVALS = (
    "Intervals are 95% intervals from resampling the seeds, or from the scatter about the fitted curves where each"
    " cell has one run. They cover the noise between runs and the doubt about the curve's shape, nothing else:"
    " another model, data set, optimizer setting or learning-rate schedule can move the optimum."
)
_REACH_AND_GAIN = (
    "“Fewest steps to a loss” and “largest loss decrease over the next steps” are different questions,"
    " and their optimal learning rates need not agree."
)
_FINAL = (
    "A lowest final loss is one for this length of training: with another budget or another learning-rate decay the"
    " optimal learning rate is another."
)
_GAIN = (
    "A largest loss decrease is one for this horizon and for where in training its runs stand: a longer horizon or a"
    " later start has another optimal learning rate."
)
_SCALES = (
    "B_peak (the batch size with the highest optimal learning rate), B_crit (where steps and examples both cost"
    " twice their minimum) and the noise scale B_noise inside a law are three separate quantities"
    " (McCandlish et al. 2018, arXiv 1812.06162; Li et al. 2024, arXiv 2405.14578)."
)
_CENSORED = "Runs that diverged or never reached a loss count as such; they are not left out."
_DIVERGED = "Runs that diverged count as such; they are not left out."


def read_as_sentence(read_as: Mapping[str, str]) -> str:
    """Under which names the runs were read; see `LossCurves.read_as`.

    >>> read_as_sentence({"names of": "Transformers", "loss": "eval/loss", "learning rate": "learning_rate"})
    'The runs were read under these names (those of Transformers): loss = eval/loss; learning rate = learning_rate.'
    """
    origin = read_as.get("names of", "")
    names = "; ".join(f"{part} = {name}" for part, name in read_as.items() if part != "names of")
    return f"The runs were read under these names{f' (those of {origin})' if origin else ''}: {names}."


def assumptions_of(fit: SurgeFit) -> tuple[str, ...]:
    """The assumptions behind the observables of a fit; those of loss curves where it holds nothing.

    >>> fit = SurgeFit(project="p", source="s", batch_unit="examples", problems=[], groups=[])
    >>> len(assumptions_of(fit))
    5
    """
    targets = [target for group in fit.groups for target in group.targets]
    protocols = {target.protocol for target in targets} or {"reach", "gain"}
    swept = not targets or any(not is_tuned(target) for target in targets)
    tuned = any(is_tuned(target) and has_rates(target) for target in targets)
    counted = not targets or any(family_of(target).counts_steps() for target in targets)
    found = {
        _FITTED: swept,
        _TUNED: tuned,
        _INTERVALS: True,
        _REACH_AND_GAIN: {"reach", "gain"} <= protocols,
        _FINAL: "final" in protocols,
        _GAIN: "gain" in protocols and "reach" not in protocols,
        _SCALES: True,
        _CENSORED: swept and counted,
        _DIVERGED: swept and not counted,
    }
    return tuple(text for text, holds in found.items() if holds)
