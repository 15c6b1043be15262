"""The two figures that are no scatter plots: the loss surface and the schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from surge_sweeps.report.axes import linear_axis, log_axis, new_figure, thinned
from surge_sweeps.report.figures import Drawn, LegendEntry
from surge_sweeps.report.infos import Cell, PhaseBar, ScheduleInfo, SurfaceInfo
from surge_sweeps.report.numbers import batch_text, log_ticks, lr_text, significant
from surge_sweeps.report.palette import ACCENT, BAND, DARK_THEME, INK, MUTED, SHADE, SURFACE_SCALE, Colour

MOST_BATCH_LABELS = 8

#: Stands out on every colour of the surface and on both papers.
EDGE = "#e64980"


def draw_surface(info: SurfaceInfo) -> Drawn:
    """The response by learning rate and batch size, bright where it is best at that batch size, the optima on top.

    Batch sizes may have different learning rates, so each column is cut where its own cells end.
    """
    figure = new_figure()
    figure.add_trace(_heat_map(info))
    _add_empty_cells(figure, [cell for cell in info.cells if cell.response is None])
    if info.stability_edge:
        x, y = zip(*info.stability_edge, strict=True)
        figure.add_scatter(
            x=[_round(math.log2(size)) for size in x],
            y=[_round(math.log10(rate)) for rate in y],
            mode="lines",
            line={"color": EDGE, "width": 2.5, "dash": "dot"},
            text=[f"trains up to LR {lr_text(rate)}" for rate in y],
            hoverinfo="text",
        )
    for kind, symbol in (("value", "circle"), ("above", "triangle-up"), ("below", "triangle-down")):
        points = [point for point in info.optima if point.kind == kind]
        figure.add_scatter(
            x=[_round(math.log2(point.x)) for point in points],
            y=[_round(math.log10(point.y)) for point in points],
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 10,
                "color": "#fefefe",
                "line": {"color": "#101010", "width": 1.8},
            },
            text=[escape(f"optimum, {point.text}") for point in points],
            hoverinfo="text",
        )
    _surface_axes(figure, info)
    muted = Colour(MUTED, DARK_THEME[MUTED])
    legend = [LegendEntry(f"{info.best} (bright) to {info.worst} (dark)", muted, "ramp")]
    if info.optima:
        legend.append(LegendEntry("optimal learning rate", muted, "hollow"))
    if info.stability_edge:
        legend.append(LegendEntry("largest learning rate that trains", Colour(EDGE, EDGE), "dot"))
    if any(cell.response is None for cell in info.cells):
        why = "diverged, or never got there" if info.counts_steps else "diverged"
        legend.append(LegendEntry(f"× no value: {why}", muted, "none"))
    return Drawn(figure, tuple(legend))


def _heat_map(info: SurfaceInfo) -> go.Heatmap:
    columns = surface_columns(info.cells)
    sizes = sorted(columns)
    x_edges = edges([math.log2(size) for size in sizes])
    row_edges = {size: edges([math.log10(cell.lr) for cell in columns[size]]) for size in sizes}
    y_edges = sorted({edge for row in row_edges.values() for edge in row})
    middles = (np.asarray(y_edges[1:]) + np.asarray(y_edges[:-1])) / 2
    z: list[list[float | None]] = [[None] * len(sizes) for _ in middles]
    text = [[""] * len(sizes) for _ in middles]
    for place, size in enumerate(sizes):
        rows = np.searchsorted(row_edges[size], middles) - 1
        for row, cell_place in enumerate(rows):
            if 0 <= cell_place < len(columns[size]):
                cell = columns[size][cell_place]
                z[row][place] = cell.score
                text[row][place] = escape(cell.text)
    return go.Heatmap(
        x=x_edges,
        y=y_edges,
        z=z,
        text=text,
        hoverinfo="text",
        hoverongaps=False,
        zmin=info.worst_score,
        zmax=1.0,
        colorscale=SURFACE_SCALE,
        showscale=False,
    )


def surface_columns(cells: Sequence[Cell]) -> dict[int, list[Cell]]:
    """Batch size -> its cells, both ascending."""
    found: dict[int, list[Cell]] = {}
    for cell in sorted(cells, key=lambda one: (one.batch_size, one.lr)):
        found.setdefault(cell.batch_size, []).append(cell)
    return found


def edges(centres: Sequence[float]) -> list[float]:
    """Cell borders half-way between ascending centres; the outer ones as far out as the inner ones are in.

    >>> edges([1.0, 2.0, 4.0])
    [0.5, 1.5, 3.0, 5.0]
    >>> edges([1.0])
    [0.5, 1.5]
    """
    if len(centres) == 1:
        return [_round(centres[0] - 0.5), _round(centres[0] + 0.5)]
    inner = [(a + b) / 2 for a, b in pairwise(centres)]
    outer = (centres[0] - (inner[0] - centres[0]), centres[-1] + (centres[-1] - inner[-1]))
    return [_round(edge) for edge in (outer[0], *inner, outer[1])]


def _add_empty_cells(figure: go.Figure, cells: Sequence[Cell]) -> None:
    figure.add_scatter(
        x=[_round(math.log2(cell.batch_size)) for cell in cells],
        y=[_round(math.log10(cell.lr)) for cell in cells],
        mode="markers",
        marker={"symbol": "x-thin", "size": 6, "line": {"color": MUTED, "width": 1.2}},
        text=[escape(cell.text) for cell in cells],
        hoverinfo="text",
    )


def _surface_axes(figure: go.Figure, info: SurfaceInfo) -> None:
    sizes = sorted({cell.batch_size for cell in info.cells})
    shown = thinned(sizes, MOST_BATCH_LABELS)
    rates = [cell.lr for cell in info.cells]
    ticks = log_ticks(min(rates), max(rates)) or [min(rates)]
    figure.update_xaxes(
        linear_axis(
            f"Batch size ({info.batch_unit})",
            tickvals=[_round(math.log2(size)) for size in shown],
            ticktext=[batch_text(size) for size in shown],
            showgrid=False,
        )
    )
    figure.update_yaxes(
        linear_axis(
            "Learning rate",
            tickvals=[_round(math.log10(tick)) for tick in ticks],
            ticktext=[lr_text(tick) for tick in ticks],
            showgrid=False,
        )
    )


def _round(value: float) -> float:
    return significant(value, 6)


def draw_schedule(info: ScheduleInfo) -> Drawn:
    """Batch size above, learning rate with its interval below, against the examples seen; measured part shaded."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, figure=new_figure())
    banded = [phase for phase in info.phases if phase.lr_low is not None and phase.lr_high is not None]
    for phase in banded:
        figure.add_shape(type="rect", x0=phase.start, x1=phase.end, y0=phase.lr_low, y1=phase.lr_high,
                         fillcolor=BAND, line_width=0, row=2, col=1)  # fmt: skip
    _add_steps(figure, info.phases, [float(phase.batch_size) for phase in info.phases], row=1)
    _add_steps(figure, info.phases, [phase.lr for phase in info.phases], row=2)
    # Plotly leaves out shapes on a subplot that holds no trace yet, so these come after the lines.
    measured = [phase for phase in info.phases if phase.measured]
    for phase in measured:
        for row in (1, 2):
            figure.add_vrect(
                x0=phase.start, x1=phase.end, fillcolor=SHADE, line_width=0, layer="below", row=row, col=1
            )
    sizes = [float(phase.batch_size) for phase in info.phases]
    rates = [rate for phase in info.phases for rate in (phase.lr, phase.lr_low, phase.lr_high) if rate]
    figure.update_yaxes(log_axis("Batch size", min(sizes), max(sizes), batch_text, pad=0.15), row=1, col=1)
    shown = thinned(sorted(set(sizes)), MOST_BATCH_LABELS)
    figure.update_yaxes(tickvals=shown, ticktext=[batch_text(size) for size in shown], row=1, col=1)
    figure.update_yaxes(log_axis("Learning rate", min(rates), max(rates), lr_text, pad=0.1), row=2, col=1)
    figure.update_xaxes(linear_axis("", rangemode="tozero", nticks=6), row=1, col=1)
    title = f"{info.batch_unit.capitalize()} seen"
    figure.update_xaxes(linear_axis(title, rangemode="tozero", nticks=6), row=2, col=1)
    ink = Colour(ACCENT, DARK_THEME[ACCENT])
    legend = [LegendEntry("schedule", ink, "line")]
    if len(measured) < len(info.phases):
        legend.append(LegendEntry("beyond what was measured", ink, "dot"))
    if measured:
        legend.append(LegendEntry("measured range", Colour(SHADE, DARK_THEME[SHADE]), "band"))
    if banded:
        legend.append(
            LegendEntry("95% interval of the learning rate", Colour(BAND, DARK_THEME[BAND]), "band")
        )
    return Drawn(figure, tuple(legend))


def _add_steps(figure: go.Figure, phases: Sequence[PhaseBar], values: Sequence[float], *, row: int) -> None:
    """One horizontal stroke per phase, joined by thin risers; dotted where nothing was measured."""
    for phase, value in zip(phases, values, strict=True):
        figure.add_scatter(
            x=[phase.start, (phase.start + phase.end) / 2, phase.end],
            y=[value] * 3,
            mode="lines",
            line={"color": ACCENT, "width": 3, "dash": "solid" if phase.measured else "dot"},
            text=[escape(phase.text)] * 3,
            hoverinfo="text",
            row=row,
            col=1,
        )
    figure.add_scatter(
        x=[x for phase in phases[1:] for x in (phase.start, phase.start, None)],
        y=[y for before, after in pairwise(values) for y in (before, after, None)],
        mode="lines",
        line={"color": INK, "width": 0.8},
        hoverinfo="skip",
        row=row,
        col=1,
    )
