"""The report's tables as words, shared by the page and its Markdown twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from surge_sweeps.fitting.result import PhaseRecord, ScheduleRecord, TargetFit
from surge_sweeps.report.families import family_of, target_label
from surge_sweeps.report.numbers import batch_text, count_text, loss_text, lr_text, percent_text
from surge_sweeps.report.words import (
    VERDICTS,
    interval_text,
    law_formula,
    law_title,
    leading_law,
    optimum_text,
    range_text,
)
from surge_sweeps.schedule import lowered_optimum

#: The left-out error is the root mean square in log LR, so 0.1 is about 10%.
LAWS_HEAD = (
    "At", "Law", "Formula and parameters", "AICc", "Akaike weight", "Left-out error", "Bootstrap selection"
)  # fmt: skip


_WEIGHED = {
    "AICc": "AICc weighs fit against the number of parameters, lower is better.",
    "Akaike weight": "Akaike weight: how probable a law is among these, from AICc.",
    "Left-out error": "Left-out error: how far off, in log LR (0.1 is about 10%), a law predicts a batch size that was"
    " left out of its fit.",
    "Bootstrap selection": "Bootstrap selection: in which share of the resamplings a law's AICc is the lowest.",
}


class Table(NamedTuple):
    """Column heads and rows of equal length, all of them words."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def optima_table(targets: list[TargetFit]) -> Table:
    """Optimal learning rates: one row per batch size, one column per loss."""
    sizes = sorted({optimum.batch_size for target in targets for optimum in target.optimal_lr})
    columns = [{optimum.batch_size: optimum for optimum in target.optimal_lr} for target in targets]
    rows = [
        (
            batch_text(size),
            *(optimum_text(column[size]) if size in column else "not run" for column in columns),
            _runs_text([column[size].runs for column in columns if size in column]),
        )
        for size in sizes
    ]
    return Table(("Batch size", *(_head(target) for target in targets), "Runs"), tuple(rows))


def _runs_text(runs: list[int]) -> str:
    return f"{min(runs)}" if min(runs) == max(runs) else f"{min(runs)} to {max(runs)}"


def _head(target: TargetFit) -> str:
    label = target_label(target) if target.loss is not None else "learning rate"
    return label[0].upper() + label[1:]


def steps_table(target: TargetFit, unit: str) -> Table:
    """Steps and examples to the goal: one row per batch size, with its learning rate where one is recorded."""
    rates = any(one.lr is not None for one in target.optimal_lr)
    rows = [
        (
            batch_text(one.batch_size),
            *((optimum_text(one),) if rates else ()),
            "unknown" if one.steps is None else f"{one.steps:,.0f}",
            "unknown" if one.steps is None else count_text(one.steps * one.batch_size),
            f"{one.runs}",
        )
        for one in sorted(target.optimal_lr, key=lambda one: one.batch_size)
    ]
    heads = ("Batch size", *(("Learning rate",) if rates else ()), "Steps to the goal", unit.capitalize())
    return Table((*heads, "Runs"), tuple(rows))


def laws_table(targets: list[TargetFit]) -> Table:
    """Every candidate law at every loss, the heaviest first; the three ways to weigh them side by side.

    A column that no law fills is left out.
    """
    rows = []
    for target in targets:
        lead = leading_law(target)
        sizes = sorted(
            one.batch_size for one in target.optimal_lr if one.status not in ("too_few", "diverged")
        )
        for law in sorted(target.laws, key=lambda one: -(one.weight or 0.0)):
            mark = " ←" if law is lead and target.verdict != "inconclusive" else ""
            rows.append(
                (
                    target_label(target) if target.loss is not None else "",
                    f"{law_title(law.name)}{mark}",
                    law_formula(law, sizes),
                    "unknown" if law.aicc is None else f"{law.aicc:.1f}",
                    "unknown" if law.weight is None else percent_text(law.weight),
                    "" if law.left_out_error is None else f"{law.left_out_error:.2g}",
                    "" if law.selection_frequency is None else percent_text(law.selection_frequency),
                )
            )
    return _without_empty(Table(LAWS_HEAD, tuple(rows)))


def laws_note(table: Table) -> str:
    """What the columns of `laws_table` mean, those that are there.

    >>> laws_note(Table(("Law", "AICc"), ()))
    'AICc weighs fit against the number of parameters, lower is better.'
    """
    return " ".join(text for head, text in _WEIGHED.items() if head in table.head)


def _without_empty(table: Table) -> Table:
    """The table without the columns in which no row says anything."""
    kept = [place for place in range(len(table.head)) if any(row[place] for row in table.rows)]
    return Table(
        tuple(table.head[place] for place in kept),
        tuple(tuple(row[place] for place in kept) for row in table.rows),
    )


def scales_table(targets: list[TargetFit]) -> Table:
    """Verdict, B_peak, B_crit and B_noise of every target; "At" is left out where no target has a loss."""
    named = any(target.loss is not None for target in targets)
    rows = [
        (
            family_of(target).title(),
            target_label(target) if named else "",
            VERDICTS[target.verdict][0],
            interval_text(target.b_peak),
            interval_text(target.tradeoff.b_crit) if target.tradeoff else "",
            interval_text(target.b_noise),
        )
        for target in targets
    ]
    return _without_empty(Table(("Best means", "At", "Verdict", "B_peak", "B_crit", "B_noise"), tuple(rows)))


def schedule_table(schedule: ScheduleRecord, targets: Sequence[TargetFit] = ()) -> Table:
    """The phases of a schedule; an interval stands behind the number that it belongs to."""
    rows = [
        (
            f"{count_text(phase.from_examples)}",
            "beyond" if phase.loss is None else loss_text(phase.loss),
            batch_text(phase.batch_size),
            _phase_lr(phase, targets),
            phase.status,
        )
        for phase in schedule.phases
    ]
    return Table(
        (f"From {schedule.batch_unit}", "Down to loss", "Batch size", "Learning rate", "Status"), tuple(rows)
    )


def _phase_lr(phase: PhaseRecord, targets: Sequence[TargetFit]) -> str:
    optimum = lowered_optimum(phase, targets)
    if optimum is not None:
        return f"{lr_text(phase.lr)}, below the optimum {optimum_text(optimum)}"
    return f"{lr_text(phase.lr)}{range_text(phase.lr_low, phase.lr_high)}"
