"""The two still figures that are no scatter plots: the loss surface and the schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from surge_sweeps.report.infos import PhaseBar, ScheduleInfo, SurfaceInfo
from surge_sweeps.report.numbers import batch_text, count_text, log_ticks, lr_text
from surge_sweeps.report.palette import ACCENT, BAND, INK, MUTED, SHADE
from surge_sweeps.report.static_canvas import (
    batch_ticks,
    key_line,
    key_shade,
    label_axes,
    legend_below,
    log_range,
    new_canvas,
    shade,
)
from surge_sweeps.report.surface_figures import EDGE, edges, surface_columns

_MARKERS = {"value": "o", "above": "^", "below": "v"}


def draw_surface(info: SurfaceInfo, title: str) -> Any:
    """The response by learning rate and batch size, bright where it is best at that batch size, the optima on top."""
    figure, (axes,) = new_canvas(title)
    axes.grid(False)
    columns = surface_columns(info.cells)
    x_edges = edges([math.log2(size) for size in columns])
    for (left, right), cells in zip(pairwise(x_edges), columns.values(), strict=True):
        y_edges = edges([math.log10(cell.lr) for cell in cells])
        scores = [[math.nan if cell.score is None else cell.score] for cell in cells]
        axes.pcolormesh(
            [left, right], y_edges, scores, cmap="viridis", vmin=info.worst_score, vmax=1.0, zorder=1
        )
    empty = [cell for cell in info.cells if cell.response is None]
    axes.plot(
        [math.log2(one.batch_size) for one in empty],
        [math.log10(one.lr) for one in empty],
        "x",
        color=MUTED,
        markersize=4,
        zorder=2,
    )
    if info.stability_edge:
        x, y = zip(*info.stability_edge, strict=True)
        axes.plot(
            [math.log2(one) for one in x],
            [math.log10(one) for one in y],
            ":",
            color=EDGE,
            linewidth=2.4,
            label="largest learning rate that trains",
            zorder=3,
        )
    for kind, marker in _MARKERS.items():
        points = [point for point in info.optima if point.kind == kind]
        label = "optimal learning rate" if kind == "value" else "_"
        axes.plot(
            [math.log2(one.x) for one in points],
            [math.log10(one.y) for one in points],
            marker,
            color="#fefefe",
            markeredgecolor="#101010",
            markeredgewidth=1.5,
            markersize=8,
            label=label,
            zorder=4,
        )
    key_line(axes, f"bright: {info.best}; dark: {info.worst}", linestyle="", marker="s", color="#3b528b")
    if empty:
        why = "diverged, or never got there" if info.counts_steps else "diverged"
        key_line(axes, f"no value: {why}", linestyle="", marker="x", color=MUTED)
    _size_ticks(axes, list(columns))
    rates = [cell.lr for cell in info.cells]
    ticks = log_ticks(min(rates), max(rates)) or [min(rates)]
    axes.set_yticks([math.log10(tick) for tick in ticks], [lr_text(tick) for tick in ticks])
    label_axes(axes, f"Batch size ({info.batch_unit})", "Learning rate")
    legend_below(figure, axes, columns=2)
    return figure


def _size_ticks(axes: Any, sizes: Sequence[int]) -> None:
    """Ticks at batch sizes on an axis of their binary logarithm."""
    step = math.ceil(len(sizes) / 8)
    shown = list(sizes)[::step]
    axes.set_xticks([math.log2(size) for size in shown], [batch_text(size) for size in shown])


def draw_schedule(info: ScheduleInfo, title: str) -> Any:
    """Batch size and learning rate with its interval against the examples seen; the measured part is shaded."""
    figure, panels = new_canvas(title, 2)
    phases = info.phases
    for axes, values in zip(
        panels, ([float(one.batch_size) for one in phases], [one.lr for one in phases]), strict=True
    ):
        for phase, value in zip(phases, values, strict=True):
            if phase.measured:
                axes.axvspan(phase.start, phase.end, color=shade(SHADE), linewidth=0, zorder=0)
            axes.plot(
                [phase.start, phase.end],
                [value, value],
                color=ACCENT,
                linewidth=3,
                solid_capstyle="butt",
                linestyle="-" if phase.measured else ":",
                zorder=3,
            )
        for phase, (before, after) in zip(phases[1:], pairwise(values), strict=True):
            axes.plot([phase.start, phase.start], [before, after], color=INK, linewidth=0.8, zorder=2)
        axes.set_xlim(0, phases[-1].end)
    _schedule_axes(panels, phases, info.batch_unit)
    key_line(panels[0], "schedule", color=ACCENT, linewidth=3)
    if not all(phase.measured for phase in phases):
        key_line(panels[0], "beyond what was measured", color=ACCENT, linewidth=3, linestyle=":")
    if any(phase.measured for phase in phases):
        key_shade(panels[0], "measured range")
    if any(phase.lr_low is not None and phase.lr_high is not None for phase in phases):
        key_shade(panels[0], "95% interval of the learning rate", BAND)
    legend_below(figure, panels[0], columns=4)
    return figure


def _schedule_axes(panels: Sequence[Any], phases: Sequence[PhaseBar], unit: str) -> None:
    sizes = [float(phase.batch_size) for phase in phases]
    log_range(panels[0].yaxis, min(sizes), max(sizes), batch_text, pad=0.15)
    batch_ticks(panels[0].yaxis, sizes)
    for phase in phases:
        if phase.lr_low is not None and phase.lr_high is not None:
            x, low, high = [phase.start, phase.end], [phase.lr_low] * 2, [phase.lr_high] * 2
            panels[1].fill_between(x, low, high, color=shade(BAND), linewidth=0, zorder=1)
    rates = [rate for phase in phases for rate in (phase.lr, phase.lr_low, phase.lr_high) if rate]
    log_range(panels[1].yaxis, min(rates), max(rates), lr_text)
    for axes, name in zip(panels, ("Batch size", "Learning rate"), strict=True):
        axes.xaxis.set_major_formatter(lambda value, _: count_text(value) if value else "0")
        axes.locator_params(axis="x", nbins=5)
        label_axes(axes, f"{unit.capitalize()} seen", name)
