"""The key numbers of the first screen: learning rates at both ends, B_peak and B_crit, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from surge_sweeps.fitting.result import GroupFit, Interval, ProblemRecord, Slope, TargetFit
from surge_sweeps.fitting.targets import Target
from surge_sweeps.report.numbers import batch_text, lr_end
from surge_sweeps.report.words import (
    Family,
    bound_of,
    family_of,
    interval_text,
    optimum_text,
    slope_text,
    target_label,
)


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


def key_numbers(group: GroupFit, problems: Sequence[ProblemRecord] = ()) -> tuple[Card, ...]:
    """The cards of one group: learning rates, B_peak, B_crit.

    Args:
        problems: of the whole fit; B_crit is marked where they say that the hyperbola does not hold.
    """
    peak_meaning = "Batch size with the highest optimal learning rate."
    crit_meaning = (
        "Batch size where steps and examples both cost twice their least; beyond it larger ones save little."
    )
    cards = [_rates_card(group)] if any(target.optimal_lr for target in group.targets) else []
    cards.append(_scale_card(group, "B_peak", group.drift.b_peak, peak_meaning, ()))
    cards.append(_scale_card(group, "B_crit", group.drift.b_crit, crit_meaning, _misfits(group, problems)))
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


def _scale_card(group: GroupFit, name: str, slope: Slope, meaning: str, misfits: Sequence[str]) -> Card:
    rows = [
        (target, interval)
        for target in group.targets
        if (interval := scale_interval(target, name)) is not None
    ]
    ranks = {"identified": 0, "lower_bound": 1, "upper_bound": 1, "not_identified": 2}
    rows.sort(key=lambda row: (ranks[row[1].status], not _closed(row[1]), row[0].loss or 0.0))
    drift = slope_text(slope, name).split(":")[0].rstrip(".") + "."
    if not rows or rows[0][1].status == "not_identified":
        if rows and _closed(rows[0][1]):
            note = f"{interval_text(rows[0][1])} {_where(group, rows[0][0])}"
            return Card(name, "not established", (note, drift), meaning)
        return Card(name, "not identified", (drift,), meaning)
    apart = _bounds_apart(rows)
    if apart:
        notes = [f"{interval_text(found)} {_where(group, target)}" for target, found in apart]
        return Card(name, "no single value", (*notes, drift), meaning)
    target, interval = rows[0]
    same = [row for row in rows if ranks[row[1].status] == 0 and family_of(row[0]) == family_of(target)]
    place = _where(group, target)
    poor = " (the hyperbola fits poorly)"
    notes = [f"{interval_text(interval)} {place}" if interval.status == "identified" else place]
    notes[0] += poor if _misfit(target, misfits) else ""
    if len(same) > 1:
        last = same[-1][0]
        notes.append(
            f"{interval_text(same[-1][1])} at {target_label(last)}{poor if _misfit(last, misfits) else ''}"
        )
    return Card(name, interval_text(interval).split(" (")[0], (*notes, drift), meaning)


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


def _misfits(group: GroupFit, problems: Sequence[ProblemRecord]) -> list[str]:
    """The problems of this group that say that its steps do not follow the hyperbola, the group's name taken off."""
    start = f"{group.label()}: " if group.group else ""
    return [
        problem.what.removeprefix(start)
        for problem in problems
        if problem.run is None and problem.what.startswith(start) and "than the hyperbola" in problem.what
    ]


def _misfit(target: TargetFit, misfits: Sequence[str]) -> bool:
    """Whether one of the misfits is of this target, by the name the fit gives it."""
    if target.protocol != "reach" or target.loss is None or target.tradeoff is None:
        return False
    return any(text.startswith(f"{Target('reach', target.loss).label()}: ") for text in misfits)


def _where(group: GroupFit, target: TargetFit) -> str:
    """At which loss, and by which protocol where the group has several."""
    place = f"at {target_label(target)}"
    if len(families_of(group)) == 1:
        return place
    family = family_of(target)
    return f"{place} ({family.response()}{', from scratch' if family.start == 'scratch' else ''})"
