"""What a report found, short enough for a terminal screen; the report itself has the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from surge_sweeps.fitting import SurgeFit
from surge_sweeps.fitting.result import Interval, TargetFit
from surge_sweeps.report.numbers import count_text, lr_text
from surge_sweeps.report.sentences import recommendation, why_no_schedule
from surge_sweeps.report.words import VERDICTS, family_of, interval_text, slope_text, target_label


def print_summary(fit: SurgeFit, console: Console) -> None:
    """Per group: a row a target, how B_peak and B_crit move, and the recommendation."""
    for group in fit.groups:
        console.print(f"\n[bold]{escape(group.label())}[/]", highlight=False)
        for family, targets in groupby(group.targets, key=family_of):
            console.print(f"[italic]{escape(family.title())}[/]", highlight=False)
            console.print(_table(list(targets)))
        for name, slope in (("B_peak", group.drift.b_peak), ("B_crit", group.drift.b_crit)):
            console.print(slope_text(slope, name), markup=False, highlight=False)
        advice = (
            recommendation(group.schedule)
            if group.schedule
            else why_no_schedule(group, bool(group.targets), fit.problems)
        )
        console.print(f"[bold]{escape(advice)}[/]", highlight=False)
    if fit.problems:
        count = len(fit.problems)
        console.print(f"\n{count} {'problem' if count == 1 else 'problems'} found; the report lists them.")
    if not fit.groups:
        for problem in fit.problems:
            console.print(f"  {escape(problem.what)}", highlight=False)


def _table(targets: Sequence[TargetFit]) -> Table:
    """A row a target; narrow enough for 80 columns."""
    sizes = sorted({point.batch_size for target in targets for point in target.optimal_lr})
    ends = sizes[:1] + sizes[1:][-1:]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("at", "verdict", *(f"LR at B {size}" for size in ends), "B_peak", "B_crit"):
        table.add_column(column, no_wrap=True)
    for target in targets:
        verdict = "cannot tell" if target.verdict == "inconclusive" else VERDICTS[target.verdict][0]
        b_crit = interval_text(target.tradeoff.b_crit) if target.tradeoff else ""
        rates = [_rate(target, size) for size in ends]
        table.add_row(target_label(target), verdict, *rates, _peak(target.b_peak), b_crit)
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
