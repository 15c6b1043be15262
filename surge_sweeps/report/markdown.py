"""The page's Markdown twin: the same words and tables, aligned so that a terminal shows them readably too."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from surge_sweeps.report.cards import Card
from surge_sweeps.report.infos import Missing
from surge_sweeps.report.page_infos import FamilyInfo, GroupInfo, ReportInfo
from surge_sweeps.report.page_tables import Table, laws_note

#: Names of runs listed with one problem; report.html lists them all.
MOST_NAMES = 12


def markdown_page(info: ReportInfo) -> str:
    """The whole report as Markdown; names are escaped, so that none can add markup."""
    lines = [f"# {plain(info.project) or 'Report'}: optimal learning rate against batch size", ""]
    lines += [
        plain(
            " · ".join(
                part for part in (info.facts, f"read from {info.source}" if info.source else "") if part
            )
        ),
        "",
    ]
    if info.empty:
        lines += [f"**No result.** {info.empty} The problems found stand below.", ""]
    lines += _doubts(info)
    for group in info.groups:
        lines += _first_screen(group)
    for group in info.groups:
        lines += _details(group) if group.families else []
    lines += ["## What was assumed", "", *_bullets(info.assumptions)]
    for group in info.groups:
        if group.assumptions:
            lines += [f"The schedule for {plain(group.label)}:", "", *_bullets(group.assumptions)]
    lines += ["## Problems found", "", *(_problems(info) or ["None.", ""])]
    return "\n".join(lines).rstrip() + "\n"


def first_screens(info: ReportInfo) -> str:
    """The answer alone, as Markdown: verdict, recommendation and key numbers of every group."""
    lines = [f"**No result.** {info.empty}"] if info.empty else []
    lines += _doubts(info)
    for group in info.groups:
        lines += _first_screen(group)
    return "\n".join(lines).rstrip() + "\n"


def plain(text: str) -> str:
    """One line of Markdown that shows `text` and nothing else.

    >>> plain("a|b <script> *c*")
    'a\\\\|b &lt;script&gt; \\\\*c\\\\*'
    """
    one_line = "".join(" " if unicodedata.category(letter).startswith("C") else letter for letter in text)
    escaped = re.sub(r"([\\`*|\[\]]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(table: Table) -> list[str]:
    """A table with columns of even width.

    >>> print("\\n".join(markdown_table(Table(("B", "LR"), (("4", "0.001"),)))))
    | B | LR    |
    |---|-------|
    | 4 | 0.001 |
    <BLANKLINE>
    """
    rows = [[plain(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:], ""]


def _bullets(texts: Iterable[str]) -> list[str]:
    return [*(f"- {plain(text)}" for text in texts), ""]


def _doubts(info: ReportInfo) -> list[str]:
    """What concerns all runs, and may make all of the answer wrong; nothing where there is no answer."""
    if info.empty or not info.doubts:
        return []
    return ["**Note first:**", "", *_bullets(info.doubts)]


def _first_screen(group: GroupInfo) -> list[str]:
    lines = [f"## {plain(group.label)}: {group.title}", "", plain(group.sentence), ""]
    if group.families:
        lines += _bullets(f"{family.title}: {family.verdicts}." for family in group.families)
    lines += [f"**Recommendation.** {plain(group.recommendation)}", ""]
    lines += _bullets(_card(card) for card in group.cards)
    if group.next_runs:
        heading = "Runs that would sharpen this:" if group.decided else "Runs that would decide:"
        lines += [heading, "", *_bullets(group.next_runs)]
    return lines


def _card(card: Card) -> str:
    """One key number as a line: figures first, then what is said about them."""
    figures = [note for note in card.notes if not note.endswith(".")]
    if not (figures and figures[0].startswith(card.value)):
        figures = [card.value, *figures]
    remarks = [note for note in card.notes if note.endswith(".")]
    return f"{card.title}: {' '.join(('; '.join(figures) + '.', *remarks))}"


def _details(group: GroupInfo) -> list[str]:
    lines = [f"## {plain(group.label)} in detail", ""]
    for family in group.families:
        lines += _family(family)
    if group.scales or group.scales_table.rows:
        lines += ["### Peak and critical batch size", ""]
    for part in group.scales:
        lines += [*(plain(text) for text in (part.slope, *part.checks)), ""]
    if group.scales_table.rows:
        lines += [*markdown_table(group.scales_table), *_bullets(group.definitions)]
    if group.claims:
        lines += ["### Claims of the theory, put to these runs", ""]
        for claim in group.claims:
            lines += [plain(f"{claim.name}. {claim.found}"), "", *_bullets(claim.statements)]
    if group.tradeoff_table is not None or group.tradeoff_remarks:
        lines += ["### What larger batches cost", ""]
        lines += markdown_table(group.tradeoff_table) if group.tradeoff_table is not None else []
        lines += _bullets(group.tradeoff_remarks) if group.tradeoff_remarks else []
    if group.schedule_table is not None:
        lines += ["### Schedule", "", *markdown_table(group.schedule_table)]
    return lines


def _family(family: FamilyInfo) -> list[str]:
    lines = [f"### {plain(family.title)}", ""]
    lines += [f"{plain(family.verdicts)}.", ""]
    if isinstance(family.optima, Missing):
        lines += [plain(family.optima.why), ""]
    lines += [f"{family.table_heading}:", "", *markdown_table(family.optima_table)]
    lines += _bullets(
        " ".join((f"{reason.label}: {reason.verdict}.".removeprefix(": "), *reason.reasons))
        for reason in family.reasons
    )
    if family.laws_table.rows:
        lines += [
            "Candidate laws (B is the batch size; ← stands for the verdict):",
            "",
            *markdown_table(family.laws_table),
            plain(laws_note(family.laws_table)),
            "",
        ]
    return lines


def _problems(info: ReportInfo) -> list[str]:
    lines = []
    for problem in info.problems:
        names = ", ".join(plain(run) for run in problem.runs[:MOST_NAMES])
        more = len(problem.runs) - MOST_NAMES
        if more > 0:
            names += f" and {more} more, all in report.html"
        count = f" ({problem.count} times)" if problem.count > 1 else ""
        lines.append(f"- {plain(problem.what)}{count}" + (f": {names}" if names else ""))
    return [*lines, ""] if lines else []
