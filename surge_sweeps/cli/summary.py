"""What a report found, short enough for a terminal screen; the report itself has the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from surge_sweeps.counting import counted
from surge_sweeps.fitting import SurgeFit
from surge_sweeps.fitting.result import Interval, ProblemRecord, TargetFit
from surge_sweeps.report.advice import lacks, next_runs
from surge_sweeps.report.cards import definition_cards
from surge_sweeps.report.families import family_of, has_rates, target_label
from surge_sweeps.report.numbers import count_text, lr_text
from surge_sweeps.report.page import answer, group_problems, problems_of, scales_of
from surge_sweeps.report.page_infos import ProblemGroup, doubts_of
from surge_sweeps.report.sentences import advice, sentence
from surge_sweeps.report.words import VERDICTS, interval_text

#: Kinds of problems that are printed; more of them are counted.
MOST_PRINTED = 3


def print_summary(fit: SurgeFit, console: Console) -> None:
    """Per group: a row a target, how B_peak and B_crit move, and the recommendation.

    Where no loss could be evaluated, the verdict and what the runs lack. Few problems are printed, many counted.
    """
    told: list[ProblemRecord] = []
    for group in fit.groups:
        console.print(f"\n[bold]{escape(group.label())}[/]", highlight=False)
        if not group.targets:
            console.print(f"[bold]{escape(answer(group, fit.batch_unit)[1])}[/]", highlight=False)
            _print_list("Runs that would decide:", next_runs(group, fit.problems), console)
            told += lacks(group, fit.problems)
            continue
        for family, targets in groupby(group.targets, key=family_of):
            console.print(f"[italic]{escape(family.title())}[/]", highlight=False)
            console.print(_table(list(targets)))
        for card in definition_cards(group):
            console.print(f"{card.title}: {card.notes[0]}", markup=False, highlight=False)
        for part in scales_of(group, fit.batch_unit):
            console.print(" ".join((part.slope, *part.checks)), markup=False, highlight=False)
        text = advice(group, answer(group, fit.batch_unit)[2], fit.problems, fit.batch_unit)
        console.print(f"[bold]{escape(text)}[/]", highlight=False)
    kinds = group_problems([problem for problem in problems_of(fit) if problem not in told])
    doubts = doubts_of(kinds)
    others = [kind for kind in kinds if kind.what not in doubts]
    if not fit.groups or len(others) <= MOST_PRINTED:
        _print_list("\nProblems found:", [_in_words(kind) for kind in others], console)
    else:
        count = sum(kind.count for kind in kinds)
        console.print(f"\n{counted(count, 'problem')} found; the report lists them.")
    for doubt in doubts:
        console.print(f"[bold]Note first:[/] {escape(doubt)}", highlight=False)


def _print_list(heading: str, texts: Sequence[str], console: Console) -> None:
    """A heading with texts below it, their lines indented; nothing where there are none."""
    if not texts:
        return
    console.print(heading, highlight=False)
    for text in texts:
        row = Table.grid(padding=(0, 1))
        row.add_row("-", Text(text))
        console.print(row, highlight=False)


def _in_words(problem: ProblemGroup) -> str:
    runs = "" if not problem.runs else f" ({counted(len(problem.runs), 'run')})"
    return sentence(f"{problem.what}{runs}")


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
