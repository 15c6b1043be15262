"""First-screen sentences for what has no steps to losses behind it: tables with one number a run, final losses, gains.

No schedule follows from these: it takes the steps to several losses. What they do say stands in its place: the law of
the optimal learning rate for runs like these, or the critical batch size.
"""

from __future__ import annotations

from surge_sweeps.fitting.result import GroupFit, TargetFit
from surge_sweeps.report.families import from_table, has_rates
from surge_sweeps.report.numbers import batch_text
from surge_sweeps.report.words import bound_of, interval_text, law_formula, leading_law

#: A law with a smaller Akaike weight is not recommended, whatever class it speaks for.
SMALLEST_WEIGHT = 0.05

_FOR = {
    "final": "For a training of this length",
    "gain": "For steps from where these runs stand",
    "given": "For runs like those that were tuned",
    "steps": "To this goal",
    "reach": "To these losses",
}


def without_rates(group: GroupFit) -> bool:
    """Whether a group holds targets and not one learning rate was recorded: the trade-off alone can be asked for."""
    return bool(group.targets) and not any(has_rates(target) for target in group.targets)


def tradeoff_headline(group: GroupFit, unit: str) -> tuple[str, str, bool]:
    """The critical batch size as the answer: its name, one sentence, and whether the data fix it."""
    about = "No learning rates are recorded, so the question is how steps trade against examples"
    fits = [target.tradeoff for target in group.targets if target.tradeoff is not None]
    known = [fit.b_crit for fit in fits if fit.b_crit.status != "not_identified"]
    if not known:
        title = "Critical batch size not identified"
        return title, f"{about}, and these steps do not fix the critical batch size.", False
    found = interval_text(known[0])
    decided = known[0].status == "identified"
    return (
        f"B_crit {found.split(' (')[0]} {unit}",
        f"{about}: the critical batch size E_min/S_min is {found} {unit}.",
        decided,
    )


def advice_without_schedule(group: GroupFit, unit: str) -> str | None:
    """What to do where the observables cannot give a schedule; None where they could, had there been more data."""
    if not group.targets or any(target.protocol == "reach" for target in group.targets):
        return None
    if any(target.start == "checkpoint" for target in group.targets):
        return None
    advice = [] if without_rates(group) else [_rates_advice(target) for target in group.targets[:1]]
    if len(group.targets) > 1:
        advice = ["At each loss, take its optimal learning rates at the batch sizes that were measured."]
    advice += [text for target in group.targets if (text := _batch_advice(target, unit))]
    if all(from_table(target) for target in group.targets):
        ending = "One number a run gives no schedule over the training: that takes loss curves."
    else:
        ending = (
            "A schedule over the training follows from the steps to several losses: fit the same runs with"
            " --protocol reach."
        )
    return " ".join([*advice, ending])


def _rates_advice(target: TargetFit) -> str:
    sizes = sorted(one.batch_size for one in target.optimal_lr if one.lr is not None)
    if not sizes:
        return "No recommendation: no optimal learning rate was found at any batch size."
    law = leading_law(target)
    if target.verdict == "inconclusive" or law is None or (law.weight or 0.0) < SMALLEST_WEIGHT:
        open_law = target.verdict == "inconclusive" or law is None
        why = "no law is established between them" if open_law else "the law of the verdict fits them poorly"
        return (
            f"{_FOR[target.protocol]}, take the learning rates at the batch sizes that were measured: {why}."
        )
    return (
        f"{_FOR[target.protocol]}, take {law_formula(law, sizes)}, for batch sizes B from {batch_text(sizes[0])} to"
        f" {batch_text(sizes[-1])}."
    )


def _batch_advice(target: TargetFit, unit: str) -> str:
    if target.protocol != "steps":
        return ""
    if target.tradeoff is None:
        return "How far larger batches pay is open: too few batch sizes have steps."
    crit = target.tradeoff.b_crit
    if crit.status == "identified":
        return (
            f"Batch sizes up to about B_crit = {interval_text(crit)} {unit} trade well: at B_crit the goal takes twice"
            f" the fewest steps and twice the fewest {unit}; far beyond it larger batches save few steps."
        )
    if crit.status == "lower_bound" and bound_of(crit) is not None:
        return f"Larger batches pay at least up to B_crit, which lies {interval_text(crit)} {unit}."
    if crit.status == "upper_bound" and bound_of(crit) is not None:
        return f"B_crit lies {interval_text(crit)} {unit}: all but the smallest batch sizes here cost many {unit}."
    return "How far larger batches pay is open: these steps do not fix B_crit."
