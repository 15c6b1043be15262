"""From a fit to the whole report as one frozen value: what every rendering (HTML, Markdown) shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from surge_sweeps.counting import counted
from surge_sweeps.fitting.result import GroupFit, ProblemRecord, SurgeFit, TargetFit
from surge_sweeps.report.advice import next_runs
from surge_sweeps.report.assumptions import assumptions_of, read_as_sentence
from surge_sweeps.report.build_infos import (
    group_batch_sizes,
    laws_info,
    optima_info,
    optimum_points,
    scale_info,
    schedule_info,
    tradeoff_info,
)
from surge_sweeps.report.cards import families_of, key_numbers, scale_interval
from surge_sweeps.report.checks import claims, tradeoff_remarks, tradeoff_table
from surge_sweeps.report.drift_words import has_drift, slope_checks, slope_text
from surge_sweeps.report.families import Family, family_of, has_rates, is_tuned, target_label
from surge_sweeps.report.infos import Missing, TradeoffInfo
from surge_sweeps.report.numbers import batch_text
from surge_sweeps.report.page_infos import FamilyInfo, GroupInfo, ProblemGroup, Reasons, ReportInfo, ScalePart
from surge_sweeps.report.page_tables import (
    laws_table,
    optima_table,
    scales_table,
    schedule_table,
    steps_table,
)
from surge_sweeps.report.sentences import (
    NO_RATES,
    advice,
    headline,
    sentence,
    speaks_of_schedule,
    verdict_counts,
)
from surge_sweeps.report.surfaces import check_cells, surface_info, tried_edge
from surge_sweeps.report.table_words import advice_without_schedule, tradeoff_headline, without_rates
from surge_sweeps.report.words import VERDICTS


def report_info(fit: SurgeFit, cells: pd.DataFrame, read_as: Mapping[str, str] | None = None) -> ReportInfo:
    """Everything the report shows.

    Args:
        fit: what was found.
        cells: one row per learning rate and batch size of a target; the columns of `surfaces.CELL_COLUMNS`.
        read_as: under which names the runs were read, see `LossCurves`; empty or None: nothing was chosen.

    Raises:
        SurgeError: `cells` lacks a column.
        UnknownNameError: the fit names a law that `theory` does not have.
    """
    check_cells(cells)
    groups = tuple(
        _group_info(group, cells[cells["group"] == index], fit) for index, group in enumerate(fit.groups)
    )
    sizes = sorted({size for group in fit.groups for size in group_batch_sizes(group)})
    facts = counted(len(groups), "group") if len(groups) > 1 else ""
    if sizes:
        ends = f"{batch_text(sizes[0])} to {batch_text(sizes[-1])}"
        span = f"{counted(len(sizes), 'batch size')} from {ends} {fit.batch_unit}"
        facts = f"{facts} · {span}" if facts else span
    problems = problems_of(fit)
    empty = "" if groups else "No run ended with a result, so there is nothing to fit."
    return ReportInfo(
        project=fit.project,
        source=fit.source,
        facts=facts,
        empty=empty,
        groups=groups,
        assumptions=(*([read_as_sentence(read_as)] if read_as else []), *assumptions_of(fit)),
        problems=group_problems(problems),
        problem_count=len(problems),
    )


def problems_of(fit: SurgeFit) -> list[ProblemRecord]:
    """What was found wrong, less what stands in a recommendation already: why a group has no schedule."""
    return [
        problem
        for problem in fit.problems
        if not any(speaks_of_schedule(group, problem) for group in fit.groups)
    ]


def group_problems(problems: Sequence[ProblemRecord]) -> tuple[ProblemGroup, ...]:
    """Problems of the same kind together, in the order first met.

    >>> group_problems([ProblemRecord(run="a", what="diverged"), ProblemRecord(run="b", what="diverged")])
    (ProblemGroup(what='diverged', runs=('a', 'b'), count=2),)
    """
    kinds: dict[str, list[ProblemRecord]] = {}
    for problem in problems:
        kinds.setdefault(problem.what, []).append(problem)
    return tuple(
        ProblemGroup(what, tuple(one.run for one in found if one.run is not None), len(found))
        for what, found in kinds.items()
    )


def _group_info(group: GroupFit, cells: pd.DataFrame, fit: SurgeFit) -> GroupInfo:
    unit = fit.batch_unit
    families = families_of(group)
    title, words, decided = answer(group, unit)
    text = advice(group, decided, fit.problems, unit)
    instead = advice_without_schedule(group, unit) is not None
    targets = group.targets
    return GroupInfo(
        label=group.label(),
        title=title,
        sentence=words,
        decided=decided,
        recommendation=text,
        advised=group.schedule is not None or (instead and decided),
        next_runs=tuple(next_runs(group, fit.problems)),
        cards=key_numbers(group),
        families=tuple(_family_info(family, rows, cells, unit) for family, rows in families.items()),
        scales=scales_of(group, unit),
        scales_table=scales_table([target for target in targets if has_rates(target)]),
        definitions=_definitions([target for target in targets if has_rates(target)]),
        claims=claims(targets),
        tradeoff=_tradeoff(targets, unit),
        tradeoff_table=tradeoff_table(targets, unit),
        tradeoff_remarks=tradeoff_remarks(targets),
        schedule=schedule_info(group.schedule, text) if targets and (group.schedule or not instead) else None,
        schedule_table=schedule_table(group.schedule, targets) if group.schedule else None,
        assumptions=tuple(group.schedule.assumptions) if group.schedule else (),
    )


def answer(group: GroupFit, unit: str) -> tuple[str, str, bool]:
    """The verdict over all targets of a group, or its critical batch size where it holds no learning rates.

    Returns:
        Its name, one sentence, and whether the data decided at all.
    """
    return tradeoff_headline(group, unit) if without_rates(group) else headline(group)


def scales_of(group: GroupFit, unit: str) -> tuple[ScalePart, ...]:
    """B_peak and B_crit against the loss, as far as the observables have them; none at a single loss."""
    if not has_drift(group):
        return ()
    rated = any(map(has_rates, group.targets))
    counted = any(family_of(target).counts_steps() for target in group.targets)
    return tuple(
        _scale_part(group, name, unit) for name, asked in (("B_peak", rated), ("B_crit", counted)) if asked
    )


def _tradeoff(targets: list[TargetFit], unit: str) -> TradeoffInfo | Missing | None:
    """Steps against examples; None where no target counts steps, so that there is nothing to miss."""
    counted = [target for target in targets if family_of(target).counts_steps()]
    return tradeoff_info(_shaded(counted), unit) if counted else None


def _shaded(targets: list[TargetFit]) -> list[tuple[float, TargetFit]]:
    ordered = sorted(targets, key=lambda target: -(target.loss or 0.0))
    last = len(ordered) - 1
    return [(place / last if last else 0.5, target) for place, target in enumerate(ordered)]


def _family_info(
    family: Family, rows: list[tuple[int, TargetFit]], cells: pd.DataFrame, unit: str
) -> FamilyInfo:
    targets = [target for _, target in rows]
    rated, tuned = any(map(has_rates, targets)), all(map(is_tuned, targets))
    points = [point for target in targets for point in optimum_points(target)]
    intervals = any(point.kind == "value" and (point.low or point.high) for point in points)
    brackets = ", 95% intervals in brackets" if intervals else ""
    table, heading = optima_table(targets), f"Optimal learning rates{brackets}"
    if family.protocol == "steps" and tuned:
        table, heading = steps_table(targets[0], unit), "Steps to the goal"
    elif tuned:
        heading = "The tuned learning rates"
    own = {index: cells[cells["target"] == index] for index, _ in rows}
    shades = {id(target): shade for shade, target in _shaded(targets)}
    return FamilyInfo(
        title=family.title(),
        verdicts=verdict_counts(targets),
        optima=optima_info(family, _shaded(targets), unit) if rated else None,
        laws=tuple(
            (
                target_label(target),
                laws_info(shades[id(target)], target, unit, tried_edge(target, own[index])),
            )
            for index, target in rows
            if rated
        ),
        surfaces=tuple(
            (target_label(target), surface_info(target, own[index], unit))
            for index, target in rows
            if not tuned
        ),
        table_heading=heading,
        optima_table=table,
        laws_table=laws_table(targets),
        reasons=tuple(map(_reasons, targets)),
    )


def _reasons(target: TargetFit) -> Reasons:
    verdict = VERDICTS[target.verdict][0] if has_rates(target) else NO_RATES
    label = target_label(target) if target.loss is not None else ""
    return Reasons(label, verdict, tuple(map(sentence, target.reasons)))


def _definitions(targets: list[TargetFit]) -> tuple[str, ...]:
    """What B_peak, B_crit and B_noise mean in this fit, each definition once."""
    found = [
        (name, interval)
        for name in ("B_peak", "B_crit", "B_noise")
        for target in targets
        if (interval := scale_interval(target, name)) is not None
    ]
    texts = (
        interval.definition if interval.definition.startswith(name) else f"{name}: {interval.definition}"
        for name, interval in found
    )
    return tuple(dict.fromkeys(map(sentence, texts)))


def _scale_part(group: GroupFit, name: str, unit: str) -> ScalePart:
    rows = [(family_of(target), target, scale_interval(target, name)) for target in group.targets]
    slope = group.drift.b_peak if name == "B_peak" else group.drift.b_crit
    info = scale_info(name, rows, group_batch_sizes(group), unit)
    return ScalePart(name, info, slope_text(slope, name), slope_checks(slope, name))
