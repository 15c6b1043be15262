"""What a report found, short enough for a terminal screen; the report itself has the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from surge_sweeps.counting import counted
from surge_sweeps.fitting import SurgeFit
from surge_sweeps.fitting.result import Interval, TargetFit
from surge_sweeps.report.cards import definition_cards
from surge_sweeps.report.families import family_of, has_rates, target_label
from surge_sweeps.report.numbers import count_text, lr_text
from surge_sweeps.report.page import group_problems, problems_of, scales_of
from surge_sweeps.report.page_infos import doubts_of
from surge_sweeps.report.sentences import advice
from surge_sweeps.report.words import VERDICTS, interval_text


def print_summary(fit: SurgeFit, console: Console) -> None:
    """Per group: a row a target, how B_peak and B_crit move, and the recommendation."""
    for group in fit.groups:
        console.print(f"\n[bold]{escape(group.label())}[/]", highlight=False)
        for family, targets in groupby(group.targets, key=family_of):
            console.print(f"[italic]{escape(family.title())}[/]", highlight=False)
            console.print(_table(list(targets)))
        for card in definition_cards(group):
            console.print(f"{card.title}: {card.notes[0]}", markup=False, highlight=False)
        for part in scales_of(group, fit.batch_unit):
            console.print(" ".join((part.slope, *part.checks)), markup=False, highlight=False)
        text = advice(group, bool(group.targets), fit.problems, fit.batch_unit)
        console.print(f"[bold]{escape(text)}[/]", highlight=False)
    count = len(problems_of(fit))
    if count:
        console.print(f"\n{counted(count, 'problem')} found; the report lists them.")
    if fit.groups:
        for doubt in doubts_of(group_problems(problems_of(fit))):
            console.print(f"[bold]Note first:[/] {escape(doubt)}", highlight=False)
    else:
        for problem in fit.problems:
            console.print(f"  {escape(problem.what)}", highlight=False)


def _table(targets: Sequence[TargetFit]) -> Table:
    """A row a target; columns of which these targets know nothing are left out, long words go on the next line."""
    sizes = sorted({point.batch_size for target in targets for point in target.optimal_lr})
    ends = sizes[:1] + sizes[1:][-1:]
    rated = not targets or any(has_rates(target) for target in targets)
    counted = any(target.tradeoff for target in targets)
    # Both B_crit and B_noise do not fit 80 columns; where they are known together they are compared in the report.
    noted = not counted and any(target.b_noise.status != "not_identified" for target in targets)
    columns = {
        "at": any(target.loss is not None for target in targets),
        "verdict": rated,
        **{f"LR at B {size}": rated for size in ends},
        "B_peak": rated,
        "B_crit": counted,
        "B_noise": noted,
    }
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, shown in columns.items():
        if shown:
            table.add_column(column, overflow="fold")
    for target in targets:
        cells = (
            target_label(target),
            "cannot tell" if target.verdict == "inconclusive" else VERDICTS[target.verdict][0],
            *(_rate(target, size) for size in ends),
            _peak(target.b_peak),
            interval_text(target.tradeoff.b_crit) if target.tradeoff else "",
            interval_text(target.b_noise),
        )
        table.add_row(*(cell for cell, shown in zip(cells, columns.values(), strict=True) if shown))
    return table


def _peak(interval: Interval) -> str:
    if interval.status == "not_identified" and interval.low is not None and interval.high is not None:
        return f"{count_text(interval.low)} to {count_text(interval.high)}, if any"
    return interval_text(interval)


def _rate(target: TargetFit, batch_size: int) -> str:
    for point in target.optimal_lr:
        if point.batch_size == batch_size and point.lr is not None:
            bound = {"edge_low": "≤ ", "edge_high": "≥ "}.get(point.status, "")
            return f"{bound}{lr_text(point.lr)}"
    return "unknown"
