"""The whole report as frozen values, in the order the page shows them; `page.report_info` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from surge_sweeps.curves import DOUBT
from surge_sweeps.report.cards import Card
from surge_sweeps.report.checks import Claim
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
from surge_sweeps.report.page_tables import Table

#: Problems that are shown beside the answer; the others are counted there.
MOST_DOUBTS = 3


class ScalePart(NamedTuple):
    """B_peak or B_crit against the loss: the figure, how it moves, and what the movement was compared with."""

    name: str
    info: ScaleInfo | Missing
    slope: str
    checks: tuple[str, ...]


class Reasons(NamedTuple):
    """Why one target got its verdict; `label` is empty for a target without a loss, which stands alone."""

    label: str
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class FamilyInfo(Info):
    """Everything about the targets that differ in their loss alone.

    `optima` is None and `laws` empty where no learning rate was recorded; `surfaces` is empty where they were tuned.
    """

    title: str
    verdicts: str
    optima: OptimaInfo | Missing | None
    laws: tuple[tuple[str, LawsInfo | Missing], ...]
    surfaces: tuple[tuple[str, SurfaceInfo | Missing], ...]
    table_heading: str
    optima_table: Table
    laws_table: Table
    reasons: tuple[Reasons, ...]


@dataclass(frozen=True)
class GroupInfo(Info):
    """Everything about one set of hyper-parameters, first screen first.

    What the observables cannot tell of is empty or None and gets no place on the page; `Missing` stands for what they
    could have told. Without `families` no loss could be evaluated, and the first screen is all there is. `advised`:
    whether `recommendation` says what to do, on a verdict (`decided`) or not.
    """

    label: str
    title: str
    sentence: str
    decided: bool
    recommendation: str
    advised: bool
    next_runs: tuple[str, ...]
    cards: tuple[Card, ...]
    families: tuple[FamilyInfo, ...]
    scales: tuple[ScalePart, ...]
    scales_table: Table
    definitions: tuple[str, ...]
    claims: tuple[Claim, ...]
    tradeoff: TradeoffInfo | Missing | None
    tradeoff_table: Table | None
    tradeoff_remarks: tuple[str, ...]
    schedule: ScheduleInfo | Missing | None
    schedule_table: Table | None
    assumptions: tuple[str, ...]

    @property
    def last_heading(self) -> str:
        """Over the trade-off and the schedule, as far as they are there."""
        if self.schedule is None:
            return "What larger batches cost"
        return (
            "What larger batches cost, and the schedule that follows"
            if self.tradeoff
            else "The schedule that follows"
        )


@dataclass(frozen=True)
class ProblemGroup(Info):
    """One kind of problem and the runs it concerns; no runs: it concerns all of them."""

    what: str
    runs: tuple[str, ...]
    count: int


def doubts_of(problems: Sequence[ProblemGroup]) -> tuple[str, ...]:
    """The first problems that put the whole result in doubt.

    >>> doubts_of([ProblemGroup("2 runs left out", (), 1), ProblemGroup("nothing confirms the step", (), 1)])
    ('nothing confirms the step',)
    """
    return tuple(one.what for one in problems if not one.runs and one.what.startswith(DOUBT))[:MOST_DOUBTS]


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

    @property
    def doubts(self) -> tuple[str, ...]:
        """What concerns all runs, and so the whole result: this belongs where the answer stands."""
        return doubts_of(self.problems)
