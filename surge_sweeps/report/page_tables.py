"""The report's tables as words, shared by the page and its Markdown twin."""

from __future__ import annotations

from typing import NamedTuple

from surge_sweeps.fitting.result import GroupFit, ScheduleRecord, TargetFit
from surge_sweeps.report.numbers import batch_text, count_text, loss_text, lr_text, percent_text
from surge_sweeps.report.words import (
    VERDICTS,
    family_of,
    interval_text,
    law_formula,
    law_title,
    leading_law,
    optimum_text,
    range_text,
    target_label,
)


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
    label = target_label(target)
    return label[0].upper() + label[1:]


def laws_table(targets: list[TargetFit]) -> Table:
    """Every candidate law at every loss, the heaviest first."""
    rows = []
    for target in targets:
        lead = leading_law(target)
        sizes = sorted(
            one.batch_size for one in target.optimal_lr if one.status not in ("too_few", "diverged")
        )
        for law in sorted(target.laws, key=lambda one: -(one.weight or 0.0)):
            mark = " ←" if law is lead and target.verdict != "inconclusive" else ""
            weight = "unknown" if law.weight is None else percent_text(law.weight)
            aicc = "unknown" if law.aicc is None else f"{law.aicc:.1f}"
            rows.append(
                (target_label(target), f"{law_title(law.name)}{mark}", law_formula(law, sizes), aicc, weight)
            )
    return Table(("At", "Law", "Formula and parameters", "AICc", "Weight"), tuple(rows))


def scales_table(group: GroupFit) -> Table:
    """Verdict, B_peak, B_crit and B_noise of every target."""
    rows = [
        (
            family_of(target).title(),
            target_label(target),
            VERDICTS[target.verdict][0],
            interval_text(target.b_peak),
            interval_text(target.tradeoff.b_crit) if target.tradeoff else "not asked",
            interval_text(target.b_noise),
        )
        for target in group.targets
    ]
    return Table(("Best means", "At", "Verdict", "B_peak", "B_crit", "B_noise"), tuple(rows))


def schedule_table(schedule: ScheduleRecord) -> Table:
    """The phases of a schedule."""
    rows = [
        (
            f"{count_text(phase.from_examples)}",
            "beyond" if phase.loss is None else loss_text(phase.loss),
            batch_text(phase.batch_size),
            f"{lr_text(phase.lr)}{range_text(phase.lr_low, phase.lr_high)}",
            phase.status,
        )
        for phase in schedule.phases
    ]
    return Table(
        (f"From {schedule.batch_unit}", "Down to loss", "Batch size", "Learning rate", "Status"), tuple(rows)
    )
