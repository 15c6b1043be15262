"""From a fit to what its figures show: pure functions, one per figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from surge_sweeps.counting import counted
from surge_sweeps.errors import UnknownNameError
from surge_sweeps.fitting.result import GroupFit, Interval, LawFit, OptimalLR, ScheduleRecord, TargetFit
from surge_sweeps.report.families import Family, target_label
from surge_sweeps.report.infos import (
    Curve,
    Kind,
    LawsInfo,
    Missing,
    OptimaInfo,
    OptimaSeries,
    PhaseBar,
    Point,
    ScaleInfo,
    ScaleSeries,
    ScheduleInfo,
    TradeoffInfo,
    TradeoffSeries,
)
from surge_sweeps.report.numbers import batch_text, count_text, lr_text, percent_text, significant
from surge_sweeps.report.sentences import changes
from surge_sweeps.report.words import bound_of, interval_text, law_title, leading_law, optimum_text
from surge_sweeps.theory import LAWS

#: Points per curve; enough to look smooth, few enough to keep the page small.
CURVE_POINTS = 41
#: A law with a smaller Akaike weight is listed in the table and not drawn.
SMALLEST_DRAWN_WEIGHT = 0.02

#: Targets of one family with their shade: 0 for the highest loss to 1 for the lowest.
Shaded = Sequence[tuple[float, TargetFit]]

#: (batch size, largest learning rate that trains), in order of batch size.
Edge = tuple[tuple[float, float], ...]


def optima_info(family: Family, targets: Shaded, batch_unit: str) -> OptimaInfo | Missing:
    """Optimal learning rate against batch size for the (shade, target) pairs of one family."""
    series = tuple(
        OptimaSeries(target_label(target), shade, optimum_points(target), _leading_curve(target))
        for shade, target in targets
    )
    if not any(one.points for one in series):
        return Missing("No optimal learning rate was found at any batch size, so there is nothing to draw.")
    return OptimaInfo(family.title(), batch_unit, series)


def laws_info(
    shade: float, target: TargetFit, batch_unit: str, edge: Edge | None = None
) -> LawsInfo | Missing:
    """The candidate laws of one target that carry weight, over its points.

    Args:
        edge: the stability edge to draw; None takes the whole of it.
    """
    points = optimum_points(target)
    if not points:
        where = f" at {target_label(target)}" if target.loss is not None else " at any batch size"
        return Missing(f"No optimal learning rate was found{where}.")
    sizes = _batch_range(target.optimal_lr)
    lead = leading_law(target)
    drawn = [law for law in target.laws if law is lead or (law.weight or 0.0) >= SMALLEST_DRAWN_WEIGHT]
    selected = lead.name if lead and target.verdict != "inconclusive" else None
    curves = [law_curve(law, *sizes, selected=law.name == selected) for law in drawn]
    edge = stability_edge(target) if edge is None else edge
    peak = (target.b_peak.low, target.b_peak.high) if target.b_peak.status == "identified" else None
    return LawsInfo(target_label(target), shade, batch_unit, points, tuple(curves), edge, peak)


def optimum_points(target: TargetFit) -> tuple[Point, ...]:
    """The optima that are values or bounds, in order of batch size."""
    kinds: dict[str, Kind] = {"ok": "value", "given": "value", "edge_high": "above", "edge_low": "below"}
    return tuple(
        Point(
            float(optimum.batch_size),
            optimum.lr,
            optimum.low,
            optimum.high,
            kinds[optimum.status],
            f"batch size {batch_text(optimum.batch_size)}: LR {optimum_text(optimum)}, {counted(optimum.runs, 'run')}",
        )
        for optimum in sorted(target.optimal_lr, key=lambda one: one.batch_size)
        if optimum.lr is not None and optimum.status in kinds
    )


def stability_edge(target: TargetFit) -> Edge:
    """(batch size, largest learning rate that trains), in order of batch size."""
    return tuple(sorted((float(point.batch_size), point.lr) for point in target.stability_edge))


def law_curve(law: LawFit, smallest: float, largest: float, *, selected: bool) -> Curve:
    """A law over the batch sizes that were run.

    Raises:
        UnknownNameError: `law` is none of the laws of `theory`.
    """
    if law.name not in LAWS:
        raise UnknownNameError("law", law.name, LAWS)
    sizes = np.geomspace(smallest, largest, CURVE_POINTS)
    rates = np.broadcast_to(
        np.asarray(LAWS[law.name].evaluate(sizes, **law.parameters), dtype=float), sizes.shape
    )
    weight = "" if law.weight is None else f" {percent_text(law.weight)}"
    return Curve(law.name, f"{law_title(law.name)}{weight}", _rounded(sizes), _rounded(rates), selected)


def scale_info(
    name: str,
    quantity: Iterable[tuple[Family, TargetFit, Interval | None]],
    batch_sizes: Sequence[int],
    unit: str,
) -> ScaleInfo | Missing:
    """B_peak or B_crit against the loss; an interval is None where the protocol has no such quantity."""
    rows = [(family, target, interval) for family, target, interval in quantity if interval is not None]
    placed: dict[str, list[Point]] = {}
    for family, target, interval in rows:
        point = _scale_point(target, interval)
        if point is not None:
            placed.setdefault(family.title(), []).append(point)
    if not placed:
        return Missing(_why_no_scale(name, [target for _, target, _ in rows]))
    series = tuple(ScaleSeries(label, tuple(points)) for label, points in placed.items())
    return ScaleInfo(name, unit, (float(min(batch_sizes)), float(max(batch_sizes))), series)


def _scale_point(target: TargetFit, interval: Interval) -> Point | None:
    if target.loss is None:
        return None
    text = f"{target_label(target)}: {interval_text(interval)}"
    if interval.status == "identified" and interval.estimate is not None:
        return Point(target.loss, interval.estimate, interval.low, interval.high, "value", text)
    bound = bound_of(interval)
    if bound is None:
        return None
    return Point(
        target.loss, bound, None, None, "above" if interval.status == "lower_bound" else "below", text
    )


def _why_no_scale(name: str, targets: Sequence[TargetFit]) -> str:
    if not targets:
        return f"{name} needs runs that reach a loss at several batch sizes, and no target here has them."
    return f"The data does not fix {name} at any loss, not even from one side."


def tradeoff_info(targets: Shaded, batch_unit: str) -> TradeoffInfo | Missing:
    """Steps against examples, for the targets that count steps."""
    series = []
    for shade, target in targets:
        points = tuple(
            (significant(one.steps * one.batch_size, 5), significant(one.steps, 5), one.batch_size)
            for one in sorted(target.optimal_lr, key=lambda one: one.batch_size)
            if one.steps is not None
        )
        if points:
            series.append(TradeoffSeries(target_label(target), shade, points, *_hyperbola(target)))
    if not series:
        return Missing(
            "Steps against examples needs runs that reach a loss from scratch at several batch sizes."
        )
    end = "goal" if all(target.protocol == "steps" for _, target in targets) else "loss"
    return TradeoffInfo(batch_unit, end, tuple(series))


def _hyperbola(target: TargetFit) -> tuple[tuple[tuple[float, float], ...], tuple[float, float] | None]:
    """S = s_min + e_min / B over the batch sizes that were run, and its point at B_crit, as far as they are known."""
    fit = target.tradeoff
    if fit is None or not fit.s_min or not fit.e_min or fit.b_crit.status == "not_identified":
        return (), None
    sizes = np.geomspace(*_batch_range(target.optimal_lr), CURVE_POINTS)
    steps = fit.s_min + fit.e_min / sizes
    curve = tuple(zip(_rounded(steps * sizes), _rounded(steps), strict=True))
    known = fit.b_crit.status == "identified"
    return curve, (significant(2 * fit.e_min, 5), significant(2 * fit.s_min, 5)) if known else None


def schedule_info(schedule: ScheduleRecord | None, why_none: str) -> ScheduleInfo | Missing:
    """The phases with their ends; the last one is drawn on by a quarter of what came before."""
    if schedule is None or not schedule.phases:
        return Missing(why_none)
    if len(changes(schedule.phases)) == 1:
        return Missing("One batch size and one learning rate throughout: there is no change to draw.")
    starts = [phase.from_examples for phase in schedule.phases]
    ends = [*starts[1:], starts[-1] * 1.25]
    unit = schedule.batch_unit
    bars = (
        PhaseBar(
            start=phase.from_examples,
            end=end,
            batch_size=phase.batch_size,
            lr=phase.lr,
            lr_low=phase.lr_low,
            lr_high=phase.lr_high,
            measured=phase.status == "measured",
            text=f"from {count_text(phase.from_examples)} {unit}: batch size {batch_text(phase.batch_size)},"
            f" LR {lr_text(phase.lr)}, {phase.status}",
        )
        for phase, end in zip(schedule.phases, ends, strict=True)
    )
    return ScheduleInfo(unit, tuple(bars))


def group_batch_sizes(group: GroupFit) -> list[int]:
    """Every batch size of a group, ascending."""
    return sorted({optimum.batch_size for target in group.targets for optimum in target.optimal_lr})


def _leading_curve(target: TargetFit) -> Curve | None:
    law = leading_law(target)
    if law is None or not target.optimal_lr:
        return None
    return law_curve(law, *_batch_range(target.optimal_lr), selected=target.verdict != "inconclusive")


def _batch_range(optima: Sequence[OptimalLR]) -> tuple[float, float]:
    sizes = [optimum.batch_size for optimum in optima]
    return float(min(sizes)), float(max(sizes))


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(significant(float(value), 4) for value in values)
