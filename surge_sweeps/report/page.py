"""The whole report as one frozen value: what every rendering (HTML, Markdown) shows, in the order it shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from surge_sweeps.fitting.result import GroupFit, ProblemRecord, SurgeFit, TargetFit
from surge_sweeps.report.advice import next_runs
from surge_sweeps.report.build_infos import (
    group_batch_sizes,
    laws_info,
    optima_info,
    scale_info,
    schedule_info,
    tradeoff_info,
)
from surge_sweeps.report.cards import Card, families_of, key_numbers, scale_interval
from surge_sweeps.report.infos import (
    Info,
    LawsInfo,
    Missing,
    OptimaInfo,
    ScaleInfo,
    ScheduleInfo,
    SurfaceInfo,
    TradeoffInfo,
)
from surge_sweeps.report.numbers import batch_text, plural
from surge_sweeps.report.page_tables import (
    Table,
    laws_table,
    optima_table,
    scales_table,
    schedule_table,
)
from surge_sweeps.report.sentences import headline, recommendation, sentence, verdict_counts, why_no_schedule
from surge_sweeps.report.surfaces import check_cells, surface_info
from surge_sweeps.report.words import (
    VERDICTS,
    Family,
    family_of,
    slope_text,
    target_label,
)


class Reasons(NamedTuple):
    """Why one target got its verdict."""

    label: str
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class FamilyInfo(Info):
    """Everything about the targets that differ in their loss alone."""

    title: str
    verdicts: str
    optima: OptimaInfo | Missing
    laws: tuple[tuple[str, LawsInfo | Missing], ...]
    surfaces: tuple[tuple[str, SurfaceInfo | Missing], ...]
    optima_table: Table
    laws_table: Table
    reasons: tuple[Reasons, ...]


@dataclass(frozen=True)
class GroupInfo(Info):
    """Everything about one set of hyper-parameters, first screen first."""

    label: str
    title: str
    sentence: str
    decided: bool
    recommendation: str
    has_schedule: bool
    next_runs: tuple[str, ...]
    cards: tuple[Card, ...]
    families: tuple[FamilyInfo, ...]
    b_peak: ScaleInfo | Missing
    b_peak_slope: str
    b_crit: ScaleInfo | Missing
    b_crit_slope: str
    scales_table: Table
    definitions: tuple[str, ...]
    tradeoff: TradeoffInfo | Missing
    schedule: ScheduleInfo | Missing
    schedule_table: Table | None
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class ProblemGroup(Info):
    """One kind of problem and the runs it concerns; no runs: it concerns all of them."""

    what: str
    runs: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class ReportInfo(Info):
    """The page."""

    project: str
    source: str
    facts: str
    empty: str
    groups: tuple[GroupInfo, ...]
    assumptions: tuple[str, ...]
    problems: tuple[ProblemGroup, ...]
    problem_count: int


#: What holds for every report.
ASSUMPTIONS = (
    "An optimal learning rate is the best point of a curve fitted through the runs at one batch size, not the best"
    " run; a batch size whose best learning rate lies at the edge of the grid gives a bound instead of a value.",
    "Intervals are 95% intervals from resampling the seeds. They cover the noise between runs and the doubt about "
    "the curve's shape, nothing else:"
    " another model, data set, optimizer setting or learning-rate schedule can move the optimum.",
    "“Fewest steps to a loss” and “largest loss decrease over the next steps” are different questions,"
    " and their optimal learning rates need not agree.",
    "B_peak (the batch size with the highest optimal learning rate), B_crit (where steps and examples both cost"
    " twice their minimum) and the noise scale B_noise inside a law are three separate quantities"
    " (McCandlish et al. 2018, arXiv 1812.06162; Li et al. 2024, arXiv 2405.14578).",
    "Runs that diverged or never reached a loss count as such; they are not left out.",
)


def report_info(fit: SurgeFit, cells: pd.DataFrame) -> ReportInfo:
    """Everything the report shows.

    Args:
        fit: what was found.
        cells: one row per learning rate and batch size of a target; the columns of `surfaces.CELL_COLUMNS`.

    Raises:
        SurgeError: `cells` lacks a column.
        UnknownNameError: the fit names a law that `theory` does not have.
    """
    check_cells(cells)
    groups = tuple(
        _group_info(group, cells[cells["group"] == index], fit.batch_unit, fit.problems)
        for index, group in enumerate(fit.groups)
    )
    sizes = sorted({size for group in fit.groups for size in group_batch_sizes(group)})
    facts = plural(len(groups), "group") if len(groups) > 1 else ""
    if sizes:
        ends = f"{batch_text(sizes[0])} to {batch_text(sizes[-1])}"
        span = f"{plural(len(sizes), 'batch size')} from {ends} {fit.batch_unit}"
        facts = f"{facts} · {span}" if facts else span
    empty = "" if groups else "No run ended with a result, so there is nothing to fit."
    return ReportInfo(
        project=fit.project,
        source=fit.source,
        facts=facts,
        empty=empty,
        groups=groups,
        assumptions=ASSUMPTIONS,
        problems=group_problems(fit.problems),
        problem_count=len(fit.problems),
    )


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


def _group_info(
    group: GroupFit, cells: pd.DataFrame, unit: str, problems: Sequence[ProblemRecord]
) -> GroupInfo:
    families = families_of(group)
    title, sentence, decided = headline(group)
    runs = tuple(next_runs(group))
    advice = recommendation(group.schedule) if group.schedule else why_no_schedule(group, decided, problems)
    return GroupInfo(
        label=group.label(),
        title=title,
        sentence=sentence,
        decided=decided,
        recommendation=advice,
        has_schedule=group.schedule is not None,
        next_runs=runs,
        cards=key_numbers(group, problems),
        families=tuple(_family_info(family, targets, cells, unit) for family, targets in families.items()),
        b_peak=_scale(group, "B_peak", unit),
        b_peak_slope=slope_text(group.drift.b_peak, "B_peak"),
        b_crit=_scale(group, "B_crit", unit),
        b_crit_slope=slope_text(group.drift.b_crit, "B_crit"),
        scales_table=scales_table(group),
        definitions=_definitions(group),
        tradeoff=tradeoff_info(_shaded([t for t in group.targets if t.protocol in ("reach", "steps")]), unit),
        schedule=schedule_info(group.schedule, advice),
        schedule_table=schedule_table(group.schedule) if group.schedule else None,
        assumptions=tuple(group.schedule.assumptions) if group.schedule else (),
    )


def _shaded(targets: list[TargetFit]) -> list[tuple[float, TargetFit]]:
    ordered = sorted(targets, key=lambda target: -(target.loss or 0.0))
    last = len(ordered) - 1
    return [(place / last if last else 0.5, target) for place, target in enumerate(ordered)]


def _family_info(
    family: Family, rows: list[tuple[int, TargetFit]], cells: pd.DataFrame, unit: str
) -> FamilyInfo:
    targets = [target for _, target in rows]
    shaded = _shaded(targets)
    surfaces = [
        (target_label(target), surface_info(target, cells[cells["target"] == index], unit))
        for index, target in rows
    ]
    return FamilyInfo(
        title=family.title(),
        verdicts=verdict_counts(targets),
        optima=optima_info(family, shaded, unit),
        laws=tuple((target_label(target), laws_info(shade, target, unit)) for shade, target in shaded),
        surfaces=tuple(surfaces),
        optima_table=optima_table(targets),
        laws_table=laws_table(targets),
        reasons=tuple(
            Reasons(target_label(target), VERDICTS[target.verdict][0], tuple(map(sentence, target.reasons)))
            for target in targets
        ),
    )


def _definitions(group: GroupFit) -> tuple[str, ...]:
    """What B_peak, B_crit and B_noise mean in this fit, each definition once."""
    found = [
        (name, interval)
        for name in ("B_peak", "B_crit", "B_noise")
        for target in group.targets
        if (interval := target.b_noise if name == "B_noise" else scale_interval(target, name)) is not None
    ]
    texts = (
        interval.definition if interval.definition.startswith(name) else f"{name}: {interval.definition}"
        for name, interval in found
    )
    return tuple(dict.fromkeys(map(sentence, texts)))


def _scale(group: GroupFit, name: str, unit: str) -> ScaleInfo | Missing:
    rows = [(family_of(target), target, scale_interval(target, name)) for target in group.targets]
    return scale_info(name, rows, group_batch_sizes(group), unit)
