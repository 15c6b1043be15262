"""A fit and its report as one value that a tracker can show: `trackers.publication.Publication`.

The words are the report's own. Of the numbers, those that the data identify go out under their names; a bound is called
one (`b_peak_at_least`, `b_peak_at_most`), and what the data cannot fix is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting.result import GroupFit, ScheduleRecord, SurgeFit, TargetFit
from surge_sweeps.report.cards import families_of, scale_interval
from surge_sweeps.report.families import has_rates, target_label
from surge_sweeps.report.headline import headline_of
from surge_sweeps.report.markdown import first_screens, markdown_table, plain
from surge_sweeps.report.numbers import loss_text
from surge_sweeps.report.page import report_info
from surge_sweeps.report.page_infos import ReportInfo
from surge_sweeps.report.sentences import changes
from surge_sweeps.report.static_figures import FigureSet, static_figures
from surge_sweeps.report.tables import optimal_lr_table
from surge_sweeps.report.words import bound_of
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.publication import METRIC_PREFIX, Publication, PublishedTable, RunNames

PREFIX = METRIC_PREFIX.rstrip("/")

#: Axes of the scatter chart. Trackers' ready charts have linear axes, and both quantities go in octaves or decades.
LOG_BATCH, LOG_LR = "log2 batch size", "log10 learning rate"

#: Statuses of an optimal learning rate that is a value and no bound.
FOUND = ("ok", "given")


def publication_of(
    fit: SurgeFit,
    cells: pd.DataFrame,
    paths: Sequence[Path],
    *,
    scope: str = "",
    runs: RunNames | None = None,
    draw: bool = False,
) -> Publication:
    """What is published of a fit.

    Args:
        fit: what was found. cells: as for `write_report`.
        paths: the report's files, as `write_report` returned them; a schedule that holds none is left out.
        scope: which part of a project was read; empty for all of it.
        runs: the names that the runs use on the tracker, None where they are not on it.
        draw: also draw still figures, for a tracker that shows pictures; this needs matplotlib.

    Raises:
        SurgeError: a file of the report is gone.
        MissingExtraError: figures are asked for and matplotlib is not installed.
    """
    info = report_info(fit, cells)
    drawn = static_figures(info) if draw else FigureSet((), 0)
    left_out = f"\nFigures of the first groups stand here; report.html has those of the other {drawn.left_out} too.\n"
    return Publication(
        title=f"{info.project or 'Report'}: optimal learning rate against batch size",
        scope=scope,
        answer=first_screens(info),
        details=_optima(info) + (left_out if drawn.left_out else ""),
        scalars=key_results(fit),
        optima=_plain_table(optimal_lr_table(fit)),
        chart=_chart(fit),
        files=_files(fit, paths),
        headline=headline_of(info),
        curves=curves_of(fit),
        figures=drawn.figures,
        runs=runs,
    )


def key_results(fit: SurgeFit) -> dict[str, Scalar]:
    """Verdicts and numbers by metric name, `surge/GROUP/TARGET/NAME`; letters, digits, dashes, underscores alone.

    >>> from surge_sweeps.fitting.result import DriftFit, Slope
    >>> group = GroupFit(group={"optimizer": "adamw"}, targets=[], drift=DriftFit(b_peak=Slope(), b_crit=Slope()))
    >>> key_results(SurgeFit(project="p", source="s", batch_unit="examples", problems=[], groups=[group]))
    {'surge/groups': 1, 'surge/problems': 0}
    """
    found: dict[str, Scalar] = {f"{PREFIX}/groups": len(fit.groups), f"{PREFIX}/problems": len(fit.problems)}
    for place, group, targets in _named(fit):
        found.update(_of_schedule(f"{place}/schedule", group.schedule))
        for part, target in targets:
            found.update(_of_target(f"{place}/{part}", target, group))
    return found


def curves_of(fit: SurgeFit) -> dict[str, tuple[tuple[int, float], ...]]:
    """What changes along the batch size or the loss, by metric name; bounds are no points.

    `surge/GROUP/TARGET/optimal_lr_by_batch_size` has the batch size as its step. `loss_by_rank`, `b_peak_by_rank` and
    `b_crit_by_rank` under `surge/GROUP/drift` have the rank of the loss, 1 for the highest, so that a chart can put one
    over the other.
    """
    found: dict[str, tuple[tuple[int, float], ...]] = {}
    for name, group, targets in _named(fit):
        for part, target in targets:
            known = [one for one in target.optimal_lr if one.lr is not None and one.status in FOUND]
            ordered = sorted(known, key=lambda one: one.batch_size)
            found[f"{name}/{part}/optimal_lr_by_batch_size"] = tuple(
                (one.batch_size, float(one.lr)) for one in ordered if one.lr is not None
            )
        found |= _drift_curves(f"{name}/drift", group)
    return {metric: points for metric, points in found.items() if len(points) > 1}


def _drift_curves(place: str, group: GroupFit) -> dict[str, tuple[tuple[int, float], ...]]:
    """B_peak and B_crit of the family with the most losses, and those losses."""
    families = [
        [target for _, target in rows if target.loss is not None] for rows in families_of(group).values()
    ]
    targets = max(families, key=len, default=[])
    found: dict[str, list[tuple[int, float]]] = {"loss": [], "b_peak": [], "b_crit": []}
    for rank, target in enumerate(targets, start=1):
        found["loss"].append((rank, float(target.loss or 0.0)))
        for name in ("B_peak", "B_crit"):
            interval = scale_interval(target, name)
            if interval is not None and interval.status == "identified" and interval.estimate is not None:
                found[name.lower()].append((rank, interval.estimate))
    if not found["b_peak"] and not found["b_crit"]:
        return {}
    return {f"{place}/{name}_by_rank": tuple(points) for name, points in found.items()}


def _named(fit: SurgeFit) -> Iterator[tuple[str, GroupFit, list[tuple[str, TargetFit]]]]:
    """Every group with its place among the metrics, and its targets with theirs."""
    labels = [group.label() if group.group else "all" for group in fit.groups]
    for name, group in zip(_unique(map(metric_part, labels)), fit.groups, strict=True):
        parts = _unique(map(target_part, group.targets))
        yield f"{PREFIX}/{name}", group, list(zip(parts, group.targets, strict=True))


def metric_part(text: str) -> str:
    """A name as one part of a metric name.

    >>> metric_part("optimizer adamw, N 1.5e8"), metric_part("../<b>")
    ('optimizer-adamw-N-1_5e8', 'b')
    """
    return re.sub(r"[^A-Za-z0-9_]+", "-", text.replace(".", "_")).strip("-_")[:60].rstrip("-_") or "unnamed"


def target_part(target: TargetFit) -> str:
    """A target's part of a metric name: its protocol, then horizon, start and loss as far as it has them."""
    horizon = f"{target.horizon_steps}-steps" if target.horizon_steps is not None else ""
    start = f"from-{target.start}" if target.start not in (None, "scratch") else ""
    loss = f"loss-{loss_text(target.loss)}" if target.loss is not None else ""
    return metric_part("-".join(part for part in (target.protocol, horizon, start, loss) if part))


def _of_target(place: str, target: TargetFit, group: GroupFit) -> Iterator[tuple[str, Scalar]]:
    if has_rates(target):
        yield f"{place}/verdict", target.verdict
    for name in ("B_peak", "B_crit", "B_noise"):
        interval = scale_interval(target, name)
        if interval is None:
            continue
        metric, bound = f"{place}/{name.lower()}", bound_of(interval)
        if interval.status == "identified" and interval.estimate is not None:
            ends = (("_low", interval.low), ("_high", interval.high))
            yield metric, interval.estimate
            yield from ((f"{metric}{end}", value) for end, value in ends if value is not None)
        elif bound is not None:
            yield f"{metric}_{'at_least' if interval.status == 'lower_bound' else 'at_most'}", bound
    sizes = _recommended_sizes(target, group.schedule)
    for one in target.optimal_lr:
        if sizes == {one.batch_size} and one.lr is not None and one.status in FOUND:
            yield f"{place}/recommended_batch_size", one.batch_size
            yield f"{place}/optimal_lr", one.lr


def _recommended_sizes(target: TargetFit, schedule: ScheduleRecord | None) -> set[int]:
    """The batch sizes that a schedule takes on the way down to a target's loss."""
    if schedule is None or target.loss is None:
        return set()
    return {phase.batch_size for phase in schedule.phases if phase.loss == target.loss}


def _of_schedule(place: str, schedule: ScheduleRecord | None) -> Iterator[tuple[str, Scalar]]:
    if schedule is None or not schedule.phases:
        return
    phases = changes(schedule.phases)
    for name, phase in (("first", phases[0]), ("last", phases[-1])):
        yield f"{place}/{name}_batch_size", phase.batch_size
        yield f"{place}/{name}_lr", phase.lr
    yield f"{place}/last_from_{schedule.batch_unit}", phases[-1].from_examples


def _unique(names: Iterable[str]) -> list[str]:
    """Names told apart by a number where they are the same."""
    found: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in found:
            number, candidate = number + 1, f"{name}-{number}"
        found.append(candidate)
    return found


def _optima(info: ReportInfo) -> str:
    lines: list[str] = []
    for group in info.groups:
        for family in group.families:
            lines += [f"### {plain(group.label)}: {plain(family.title)}", "", f"{family.table_heading}:", ""]
            lines += markdown_table(family.optima_table)
    return "\n".join(lines).rstrip() + "\n"


def _plain_table(table: pd.DataFrame) -> PublishedTable:
    rows = tuple(tuple(map(_plain_value, row)) for row in table.itertuples(index=False))
    return PublishedTable(tuple(table.columns), rows)


def _plain_value(value: object) -> Scalar | None:
    """A cell as Python has it: columns of whole numbers with gaps give numpy's own, which JSON refuses."""
    if pd.isna(value):  # type: ignore[call-overload]
        return None
    return cast(Scalar, value.item() if isinstance(value, np.generic) else value)


def _chart(fit: SurgeFit) -> PublishedTable:
    """The optima that were found, and nothing that is only a bound."""
    rows = tuple(
        (math.log2(one.batch_size), math.log10(one.lr), group.label(), target_label(target))
        for group in fit.groups
        for target in group.targets
        for one in target.optimal_lr
        if one.lr is not None and one.status in FOUND
    )
    return PublishedTable((LOG_BATCH, LOG_LR, "group", "target"), rows)


def _files(fit: SurgeFit, paths: Sequence[Path]) -> dict[str, bytes]:
    empty = not any(group.schedule for group in fit.groups)
    try:
        return {
            path.name: path.read_bytes() for path in paths if not (empty and path.name == "schedule.yaml")
        }
    except OSError as error:
        raise SurgeError(
            f"{error.filename!r}, a file of the report, cannot be read: {error.strerror or error}.",
            "Make the report again.",
        ) from error
