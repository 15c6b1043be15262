"""The key numbers of the first screen: learning rates at both ends, B_peak and B_crit, each with its interval."""

from __future__ import annotations

from typing import NamedTuple

from surge_sweeps.fitting.result import GroupFit, Interval, Slope, TargetFit
from surge_sweeps.report.numbers import batch_text, lr_end
from surge_sweeps.report.words import Family, family_of, interval_text, optimum_text, slope_text, target_label


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
    """B_peak or B_crit of a target; None where its protocol has none."""
    if name == "B_peak":
        return target.b_peak
    return target.tradeoff.b_crit if target.tradeoff else None


def key_numbers(group: GroupFit) -> tuple[Card, ...]:
    """The cards of one group: learning rates, B_peak, B_crit."""
    peak_meaning = "Batch size with the highest optimal learning rate."
    crit_meaning = (
        "Batch size where steps and examples both cost twice their least; beyond it larger ones save little."
    )
    cards = [_rates_card(group)] if any(target.optimal_lr for target in group.targets) else []
    cards.append(_scale_card(group, "B_peak", group.drift.b_peak, peak_meaning))
    cards.append(_scale_card(group, "B_crit", group.drift.b_crit, crit_meaning))
    return tuple(cards)


def _rates_card(group: GroupFit) -> Card:
    """The optimal learning rates at the ends of the batch range, at the lowest loss that has the most of them."""
    known = [
        [o for o in target.optimal_lr if o.status in ("ok", "given") and o.lr] for target in group.targets
    ]
    best = max(range(len(known)), key=lambda index: (len(known[index]), -(group.targets[index].loss or 0.0)))
    target, optima = group.targets[best], sorted(known[best], key=lambda one: one.batch_size)
    meaning = "At the smallest and the largest batch size where one was found, 95% intervals in brackets."
    if not optima:
        return Card("Optimal learning rate", "not found", (), meaning)
    ends = [optima[0], optima[-1]] if len(optima) > 1 else optima
    value = " → ".join(lr_end(one.lr or 0.0) for one in ends)
    notes = [f"batch size {batch_text(one.batch_size)}: {optimum_text(one)}" for one in ends]
    return Card("Optimal learning rate", value, (*notes, _where(group, target)), meaning)


def _scale_card(group: GroupFit, name: str, slope: Slope, meaning: str) -> Card:
    rows = [
        (target, interval)
        for target in group.targets
        if (interval := scale_interval(target, name)) is not None
    ]
    ranks = {"identified": 0, "lower_bound": 1, "upper_bound": 1, "not_identified": 2}
    rows.sort(key=lambda row: (ranks[row[1].status], row[0].loss or 0.0))
    if not rows or rows[0][1].status == "not_identified":
        return Card(
            name, "not identified", (slope_text(slope, name).split(":")[0].rstrip(".") + ".",), meaning
        )
    target, interval = rows[0]
    same = [row for row in rows if ranks[row[1].status] == 0 and family_of(row[0]) == family_of(target)]
    place = _where(group, target)
    notes = [f"{interval_text(interval)} {place}" if interval.status == "identified" else place]
    if len(same) > 1:
        notes.append(f"{interval_text(same[-1][1])} at {target_label(same[-1][0])}")
    notes.append(slope_text(slope, name).split(":")[0].rstrip(".") + ".")
    return Card(name, interval_text(interval).split(" (")[0], tuple(notes), meaning)


def _where(group: GroupFit, target: TargetFit) -> str:
    """At which loss, and by which protocol where the group has several."""
    place = f"at {target_label(target)}"
    if len(families_of(group)) == 1:
        return place
    family = family_of(target)
    return f"{place} ({family.response()}{', from scratch' if family.start == 'scratch' else ''})"
