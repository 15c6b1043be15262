"""The key numbers of the first screen: learning rates at both ends, B_peak and B_crit, each with its interval."""

from __future__ import annotations

from typing import NamedTuple

from surge_sweeps.fitting.result import GroupFit, Interval, TargetFit, TradeoffFit
from surge_sweeps.report.drift_words import has_drift, slope_text
from surge_sweeps.report.families import Family, family_of, has_rates, is_tuned, target_label
from surge_sweeps.report.numbers import batch_text, lr_end
from surge_sweeps.report.words import bound_of, interval_text, optimum_text


class Card(NamedTuple):
    """A key number of the first screen: its name, its value, what else belongs to it, and what it means."""

    title: str
    value: str
    notes: tuple[str, ...]
    meaning: str


def families_of(group: GroupFit) -> dict[Family, list[tuple[int, TargetFit]]]:
    """Family -> its (place in the group, target), the highest loss first."""
    found: dict[Family, list[tuple[int, TargetFit]]] = {}
    for index, target in enumerate(group.targets):
        found.setdefault(family_of(target), []).append((index, target))
    return {family: sorted(rows, key=lambda row: -(row[1].loss or 0.0)) for family, rows in found.items()}


def scale_interval(target: TargetFit, name: str) -> Interval | None:
    """B_peak, B_crit or B_noise of a target; None where its observable has none."""
    if name in ("B_peak", "B_noise"):
        found = target.b_peak if name == "B_peak" else target.b_noise
        return found if has_rates(target) else None
    return target.tradeoff.b_crit if target.tradeoff else None


def key_numbers(group: GroupFit) -> tuple[Card, ...]:
    """The cards of one group: learning rates, B_peak, B_crit, B_noise; those that its observables can tell of."""
    peak_meaning = "Batch size with the highest optimal learning rate."
    crit_meaning = (
        "Batch size where steps and examples both cost twice their least; beyond it larger ones save little."
    )
    rated = not group.targets or any(has_rates(target) for target in group.targets)
    counted = not group.targets or any(family_of(target).counts_steps() for target in group.targets)
    cards = [_rates_card(group)] if rated and any(target.optimal_lr for target in group.targets) else []
    if rated:
        cards.append(_scale_card(group, "B_peak", peak_meaning))
    if counted:
        cards.append(_scale_card(group, "B_crit", crit_meaning))
    if any(target.b_noise.status != "not_identified" for target in group.targets):
        meaning = next(t.b_noise.definition for t in group.targets if t.b_noise.status != "not_identified")
        cards.append(_scale_card(group, "B_noise", f"{meaning[:1].upper()}{meaning[1:]}."))
    return (*cards, *definition_cards(group))


def definition_cards(group: GroupFit) -> list[Card]:
    """Critical batch sizes by other definitions, where the trade-off is all there is."""
    fits = [target.tradeoff for target in group.targets if target.tradeoff is not None]
    if len(fits) != 1 or any(has_rates(target) for target in group.targets):
        return []
    crit = fits[0].b_crit
    others = [
        one for one in fits[0].definitions if one.status == "identified" and one.estimate != crit.estimate
    ]
    cards = []
    for one in others:
        name, _, formula = one.definition.partition(": ")
        name = name.split(", in ")[0]
        meaning = f"The critical batch size by another definition{': ' if formula else ''}{formula}."
        cards.append(Card(name, _short(one), (interval_text(one),), meaning))
    return cards


def _rates_card(group: GroupFit) -> Card:
    """The optimal learning rates at the ends of the batch range, at the lowest loss that has the most of them."""
    known = [
        [o for o in target.optimal_lr if o.status in ("ok", "given") and o.lr] for target in group.targets
    ]
    best = max(range(len(known)), key=lambda index: (len(known[index]), -(group.targets[index].loss or 0.0)))
    target, optima = group.targets[best], sorted(known[best], key=lambda one: one.batch_size)
    title = "Tuned learning rate" if is_tuned(target) else "Optimal learning rate"
    intervals = ", 95% intervals in brackets" if any(one.low or one.high for one in optima) else ""
    meaning = f"At the smallest and the largest batch size where one was found{intervals}."
    if not optima:
        return Card(title, "not found", (), meaning)
    ends = [optima[0], optima[-1]] if len(optima) > 1 else optima
    value = " → ".join(lr_end(one.lr or 0.0) for one in ends)
    notes = [f"batch size {batch_text(one.batch_size)}: {optimum_text(one)}" for one in ends]
    return Card(title, value, (*notes, *_places(group, target)), meaning)


def _scale_card(group: GroupFit, name: str, meaning: str) -> Card:
    rows = [
        (target, interval)
        for target in group.targets
        if (interval := scale_interval(target, name)) is not None
    ]
    ranks = {"identified": 0, "lower_bound": 1, "upper_bound": 1, "not_identified": 2}
    rows.sort(key=lambda row: (ranks[row[1].status], not _closed(row[1]), row[0].loss or 0.0))
    drift = _drift(group, name)
    if not rows or rows[0][1].status == "not_identified":
        if rows and _closed(rows[0][1]):
            note = _joined(interval_text(rows[0][1]), *_places(group, rows[0][0]))
            return Card(name, "not established", (note, *drift), meaning)
        return Card(name, "not identified", drift, meaning)
    apart = _bounds_apart(rows)
    if apart:
        notes = [_joined(interval_text(found), *_places(group, target)) for target, found in apart]
        return Card(name, "no single value", (*notes, *drift), meaning)
    target, interval = rows[0]
    same = [row for row in rows if ranks[row[1].status] == 0 and family_of(row[0]) == family_of(target)]
    first = _joined(
        interval_text(interval) if interval.status == "identified" else "",
        *_places(group, target),
        _doubt(name, target),
    )
    notes = [first] if first else []
    if len(same) > 1:
        last = same[-1][0]
        place = f"{interval_text(same[-1][1])} at {target_label(last)}"
        notes.append(_joined(place, _doubt(name, last)))
    return Card(name, _short(interval), (*notes, *drift), meaning)


def _drift(group: GroupFit, name: str) -> tuple[str, ...]:
    """In a few words whether it moves with the loss; nothing where there is one loss, and nothing is fitted to it."""
    slopes = {"B_peak": group.drift.b_peak, "B_crit": group.drift.b_crit}
    if name not in slopes or not has_drift(group):
        return ()
    text = slope_text(slopes[name], name)
    return (text.split(":")[0].split(", faster")[0].rstrip(".") + ".",)


def _short(interval: Interval) -> str:
    return interval_text(interval).split(" (")[0]


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _closed(interval: Interval) -> bool:
    return interval.low is not None and interval.high is not None


def _bounds_apart(rows: list[tuple[TargetFit, Interval]]) -> list[tuple[TargetFit, Interval]]:
    """The furthest lower and upper bounds where there are only bounds and no value can meet them all; else none."""
    bounds = [(bound, row) for row in rows if (bound := bound_of(row[1])) is not None]
    above = [one for one in bounds if one[1][1].status == "lower_bound"]
    below = [one for one in bounds if one[1][1].status == "upper_bound"]
    if any(row[1].status == "identified" for row in rows) or not above or not below:
        return []
    most, least = max(above, key=lambda one: one[0]), min(below, key=lambda one: one[0])
    return [most[1], least[1]] if most[0] > least[0] else []


def _doubt(name: str, target: TargetFit) -> str:
    return "(the hyperbola fits poorly)" if name == "B_crit" and _misfit(target.tradeoff) else ""


def _misfit(fit: TradeoffFit | None) -> bool:
    """Whether the steps do not follow the hyperbola: its exponent is not 1, or the examples turn up again."""
    if fit is None:
        return False
    exponent = fit.exponent
    off = exponent is not None and ((exponent.low or 0.0) > 1 or (exponent.high or 1.0) < 1)
    return off or fit.u_shape is not None


def _places(group: GroupFit, target: TargetFit) -> tuple[str, ...]:
    """At which loss, and by which protocol where the group has several; nothing where there is one target."""
    if len(group.targets) == 1 and target.loss is None:
        return ()
    place = f"at {target_label(target)}"
    if len(families_of(group)) == 1:
        return (place,)
    family = family_of(target)
    return (f"{place} ({family.response()}{', from scratch' if family.start == 'scratch' else ''})",)
