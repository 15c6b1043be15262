"""What a report found, short enough for a terminal screen; the report itself has the reasons."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from surge_sweeps.fitting import SurgeFit
from surge_sweeps.fitting.result import GroupFit, TargetFit
from surge_sweeps.fitting.summary import target_label
from surge_sweeps.report.numbers import batch_text, lr_text
from surge_sweeps.report.sentences import recommendation, why_no_schedule
from surge_sweeps.report.words import VERDICTS, interval_text, slope_text


def print_summary(fit: SurgeFit, console: Console) -> None:
    """Per group: a row a target, how B_peak and B_crit move, and the recommendation."""
    for group in fit.groups:
        console.print(f"\n[bold]{escape(group.label())}[/]", highlight=False)
        if group.targets:
            console.print(_table(group))
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


def _table(group: GroupFit) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("best for", "verdict", "optimal LR", "B_peak", "B_crit"):
        table.add_column(column)
    for target in group.targets:
        verdict = "data cannot tell" if target.verdict == "inconclusive" else VERDICTS[target.verdict][0]
        b_crit = interval_text(target.tradeoff.b_crit) if target.tradeoff else ""
        table.add_row(target_label(target), verdict, _rates(target), interval_text(target.b_peak), b_crit)
    return table


def _rates(target: TargetFit) -> str:
    """The optimum at the smallest and the largest batch size where one was found."""
    found = [point for point in target.optimal_lr if point.status in ("ok", "given") and point.lr is not None]
    ends = found[:1] + found[1:][-1:]
    return " to ".join(f"{lr_text(point.lr or 0.0)} (B {batch_text(point.batch_size)})" for point in ends)
