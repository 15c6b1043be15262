"""Still figures (PNG) of what a report found, for places that show pictures and run no script.

They draw the infos that the page's figures draw, see `infos`; a bound is drawn as a bound here too. A report of many
groups has figures of the first ones alone, which `FigureSet.left_out` counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from surge_sweeps.report.figures import DODGE
from surge_sweeps.report.infos import (
    Info,
    Missing,
    OptimaInfo,
    ScaleInfo,
    SurfaceInfo,
    TradeoffInfo,
)
from surge_sweeps.report.numbers import batch_text, count_text, loss_text
from surge_sweeps.report.page_infos import FamilyInfo, GroupInfo, ReportInfo
from surge_sweeps.report.palette import CATEGORIES, INK, MUTED, SHADE, loss_colour
from surge_sweeps.report.static_canvas import (
    SIZE,
    batch_ticks,
    draw_curve,
    draw_points,
    key_bound,
    key_line,
    key_shade,
    label_axes,
    legend_below,
    log_range,
    lr_range,
    new_canvas,
    png,
    safe,
    shade,
)
from surge_sweeps.report.static_surface import draw_schedule, draw_surface
from surge_sweeps.trackers.publication import PublishedFigure

#: Groups that get figures.
MOST_GROUPS = 8

_MARKERS = ("o", "D", "s", "p", "h", "*")


class FigureSet(NamedTuple):
    """The figures, and how many groups have none here because they are too many."""

    figures: tuple[PublishedFigure, ...]
    left_out: int


def static_figures(info: ReportInfo) -> FigureSet:
    """Every group's figures, the optimal learning rates first; what is missing in the report is missing here.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    found = []
    for index, group in enumerate(info.groups[:MOST_GROUPS]):
        front = f"g{index + 1}-" if len(info.groups) > 1 else ""
        for name, caption, draw in _of_group(group):
            title = f"{group.label}: {caption}" if len(info.groups) > 1 else caption[:1].upper() + caption[1:]
            found.append(PublishedFigure(f"{front}{name}.png", title, png(draw(title))))
    return FigureSet(tuple(found), max(0, len(info.groups) - MOST_GROUPS))


def _of_group(group: GroupInfo) -> list[tuple[str, str, Callable[[str], Any]]]:
    """(file stem, caption, what draws it under a title) of each figure of a group."""
    found: list[tuple[str, str, Callable[[str], Any]]] = []
    several = len(group.families) > 1

    def add(name: str, caption: str, info: Info | None, draw: Callable[[Any, str], Any]) -> None:
        if info is not None and not isinstance(info, Missing):
            found.append((name, caption, lambda title, info=info, draw=draw: draw(info, title)))  # type: ignore[misc]

    for place, family in enumerate(group.families):
        mark, of = (f"-{place + 1}", f" ({_lower(family.title)})") if several else ("", "")
        add(f"optimal_lr{mark}", f"optimal learning rate against batch size{of}", family.optima, draw_optima)
    scales = tuple(part.info for part in group.scales if isinstance(part.info, ScaleInfo))
    if scales:
        names = " and ".join(scale.name for scale in scales)
        found.append(("drift", f"{names} against the loss", lambda title: draw_scales(scales, title)))
    add("tradeoff", "steps against examples", group.tradeoff, draw_tradeoff)
    add("schedule", "the recommended schedule", group.schedule, draw_schedule)
    for place, family in enumerate(group.families):
        mark = f"-{place + 1}" if several else ""
        surface = _lowest_surface(family)
        if surface is not None:
            of = f", {surface.label}" if surface.label != surface.response else ""
            add(f"surface{mark}", f"{surface.response} of every run{of}", surface, draw_surface)
    return found


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _lowest_surface(family: FamilyInfo) -> SurfaceInfo | None:
    """The surface that the page shows first: the lowest loss that has one."""
    found = [info for _, info in family.surfaces if isinstance(info, SurfaceInfo)]
    return found[-1] if found else None


def draw_optima(info: OptimaInfo, title: str) -> Any:
    """Optimal learning rate against batch size, log-log: points with intervals, and each loss's leading law."""
    figure, (axes,) = new_canvas(title)
    points = [point for one in info.series for point in one.points]
    for place, series in enumerate(info.series):
        colour = loss_colour(series.shade).light
        if series.curve is not None:
            draw_curve(axes, series.curve, colour)
        draw_points(
            axes, series.points, colour, series.label, shift=DODGE ** (place - (len(info.series) - 1) / 2)
        )
    curves = [one.curve for one in info.series if one.curve is not None]
    if any(curve.selected for curve in curves):
        key_line(axes, "law of the verdict", color=MUTED, linestyle="-")
    if any(not curve.selected for curve in curves):
        key_line(axes, "heaviest law, verdict open", color=MUTED, linestyle=":")
    key_bound(axes, points)
    sizes = [point.x for point in points]
    log_range(axes.xaxis, min(sizes), max(sizes), batch_text)
    batch_ticks(axes.xaxis, sizes)
    lr_range(axes.yaxis, points)
    label_axes(axes, f"Batch size ({info.batch_unit})", "Optimal learning rate")
    legend_below(figure, axes)
    return figure


def draw_scales(infos: Sequence[ScaleInfo], title: str) -> Any:
    """B_peak and B_crit against the loss, which falls to the right; the batch sizes that were run are shaded."""
    figure, panels = new_canvas(title, len(infos), size=(SIZE[0] if len(infos) > 1 else 5.6, SIZE[1]))
    for axes, info in zip(panels, infos, strict=True):
        points = [point for series in info.series for point in series.points]
        axes.axhspan(*info.measured, color=shade(SHADE), linewidth=0, zorder=0)
        for place, series in enumerate(info.series):
            colour, marker = CATEGORIES[place % len(CATEGORIES)].light, _MARKERS[place % len(_MARKERS)]
            shift = DODGE ** (place - (len(info.series) - 1) / 2)
            draw_points(axes, series.points, colour, series.label, shift=shift, marker=marker)
        losses = [point.x for point in points]
        log_range(axes.xaxis, min(losses), max(losses), loss_text)
        axes.invert_xaxis()
        ends = [point.y for point in points] + [
            end for point in points for end in (point.low, point.high) if end
        ]
        middle = [*(point.y for point in points), *info.measured]
        low, high = max(min(ends), min(middle) / 30), min(max(ends), max(middle) * 30)
        log_range(axes.yaxis, min(low, info.measured[0]), max(high, info.measured[1]) * 1.3, count_text)
        label_axes(axes, "Loss (falls to the right)", f"{info.name} ({info.batch_unit})")
    labels = {label for axes in panels for label in axes.get_legend_handles_labels()[1]}
    for axes in panels[:1]:
        for label in sorted(labels - set(axes.get_legend_handles_labels()[1])):
            key_line(axes, label, linestyle="", marker="o", color=MUTED)
        key_shade(axes, "batch sizes that were run")
        key_bound(axes, [point for info in infos for series in info.series for point in series.points])
    legend_below(figure, panels[0], columns=2)
    return figure


def draw_tradeoff(info: TradeoffInfo, title: str) -> Any:
    """Steps against examples, log-log, with the fitted hyperbolas and the point where both cost twice their least."""
    figure, (axes,) = new_canvas(title)
    pairs: list[tuple[float, float]] = []
    for series in info.series:
        colour = loss_colour(series.shade).light
        if series.curve:
            axes.plot(*zip(*series.curve, strict=True), color=colour, linewidth=1.6, zorder=2)
        x, y, _ = zip(*series.points, strict=True)
        axes.plot(x, y, "o", color=colour, markersize=6, label=safe(series.label), zorder=3)
        if series.corner is not None:
            axes.plot(*series.corner, "o", color=colour, markersize=13, fillstyle="none", markeredgewidth=2)
        pairs += [*series.curve, *zip(x, y, strict=True)]
    if any(series.curve for series in info.series):
        key_line(axes, "fitted trade-off", color=INK, linewidth=1.6)
    if any(series.corner for series in info.series):
        key_line(
            axes,
            "B_crit: twice the fewest steps and examples",
            color=INK,
            marker="o",
            linestyle="",
            markersize=10,
            fillstyle="none",
        )
    examples, steps = zip(*pairs, strict=True)
    log_range(axes.xaxis, min(examples), max(examples), count_text)
    log_range(axes.yaxis, min(steps), max(steps), count_text)
    label_axes(
        axes, f"{info.batch_unit.capitalize()} to the {info.end}", f"Optimizer steps to the {info.end}"
    )
    legend_below(figure, axes)
    return figure
