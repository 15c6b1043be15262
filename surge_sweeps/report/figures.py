"""Plotly figures from infos; each comes with the legend that the page writes beside it.

Figures carry no title and no legend of their own: the page's legends wrap on a phone. Text in them is escaped, since
plotly reads a small HTML of its own in labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go

from surge_sweeps.report.axes import batch_axis, log_axis, new_figure
from surge_sweeps.report.infos import Curve, LawsInfo, OptimaInfo, Point, ScaleInfo, TradeoffInfo
from surge_sweeps.report.markers import add_points, extent
from surge_sweeps.report.numbers import batch_text, count_text, loss_text, lr_text
from surge_sweeps.report.palette import (
    BAND,
    CATEGORIES,
    DARK_THEME,
    FAINT,
    INK,
    MUTED,
    SHADE,
    SYMBOLS,
    Colour,
    loss_colour,
)
from surge_sweeps.report.words import LAWS

Dash = Literal["solid", "dash", "dot", "dashdot"]
Mark = Literal["line", "dash", "dot", "point", "hollow", "band", "ramp", "bound", "none"]

#: Neighbouring series are set apart by this factor on the batch axis, so that their intervals do not overlap.
DODGE = 1.035

#: A stability edge further above the points than this stays outside the figure of the laws.
EDGE_SHOWN_FACTOR = 3.0

#: An interval that reaches further than this factor beyond the points leaves the figure: it would flatten the rest.
FURTHEST_END = 30.0

_LAW_COLOURS = dict(zip(LAWS, (6, 1, 4, 3, 7, 2, 0, 5), strict=True))
_SOLID: tuple[Dash, Mark] = ("solid", "line")
_DASHES: tuple[tuple[Dash, Mark], ...] = (("dash", "dash"), ("dot", "dot"), ("dashdot", "dash"))


class LegendEntry(NamedTuple):
    """One line of the legend."""

    label: str
    colour: Colour
    mark: Mark


class Drawn(NamedTuple):
    """A figure and its legend."""

    figure: go.Figure
    legend: tuple[LegendEntry, ...]


BOUND = LegendEntry("bound: the truth lies on the arrow's side", Colour(MUTED, DARK_THEME[MUTED]), "bound")


def draw_optima(info: OptimaInfo) -> Drawn:
    """Optimal learning rate against batch size, log-log: points with intervals, and each loss's leading law."""
    figure = new_figure()
    legend = []
    sizes = [point.x for one in info.series for point in one.points]
    for place, series in enumerate(info.series):
        colour = loss_colour(series.shade)
        shift = DODGE ** (place - (len(info.series) - 1) / 2)
        if series.curve is not None:
            _add_curve(figure, series.curve, colour.light, "solid" if series.curve.selected else "dot", 1.6)
        add_points(figure, series.points, colour.light, series.label, shift=shift)
        alone = len(info.series) == 1 and "learning rate" not in series.label
        name = f"optimal learning rate, {series.label}" if alone else series.label
        legend.append(LegendEntry(name, colour, "point"))
    figure.update_xaxes(batch_axis(f"Batch size ({info.batch_unit})", sizes))
    figure.update_yaxes(_lr_axis([point for one in info.series for point in one.points]))
    return Drawn(figure, (*legend, *_optima_notes(info)))


def _optima_notes(info: OptimaInfo) -> list[LegendEntry]:
    ink = Colour(MUTED, DARK_THEME[MUTED])
    curves = [one.curve for one in info.series if one.curve is not None]
    notes = []
    if any(curve.selected for curve in curves):
        notes.append(LegendEntry("law of the verdict", ink, "line"))
    if any(not curve.selected for curve in curves):
        notes.append(LegendEntry("heaviest law, verdict open", ink, "dot"))
    if any(point.kind != "value" for one in info.series for point in one.points):
        notes.append(BOUND)
    return notes


def draw_laws(info: LawsInfo) -> Drawn:
    """The candidate laws at one loss, the selected one solid, over the points they were fitted to."""
    figure = new_figure()
    legend = []
    if info.peak is not None and info.peak[0] is not None and info.peak[1] is not None:
        figure.add_vrect(x0=info.peak[0], x1=info.peak[1], fillcolor=BAND, line_width=0, layer="below")
        legend.append(LegendEntry("95% interval of B_peak", Colour(BAND, DARK_THEME[BAND]), "band"))
    for place, curve in enumerate(info.curves):
        colour = CATEGORIES[_LAW_COLOURS[curve.name]]
        dash, mark = _SOLID if curve.selected else _DASHES[place % len(_DASHES)]
        _add_curve(figure, curve, colour.light, dash, 2.6 if curve.selected else 1.6)
        legend.append(LegendEntry(curve.label, colour, mark))
    top = extent(info.points)[1] * EDGE_SHOWN_FACTOR
    visible = [rate for _, rate in info.stability_edge if rate <= top]
    if visible:
        x, y = zip(*info.stability_edge, strict=True)
        hover = [f"batch size {batch_text(a)}: trains up to LR {lr_text(b)}" for a, b in info.stability_edge]
        figure.add_scatter(x=x, y=y, mode="lines", line={"color": FAINT, "width": 1.5, "dash": "dot"},
                           text=hover, hoverinfo="text")  # fmt: skip
        legend.append(
            LegendEntry("largest learning rate that trains", Colour(FAINT, DARK_THEME[FAINT]), "dot")
        )
    add_points(figure, info.points, INK, info.label)
    if any(point.kind != "value" for point in info.points):
        legend.append(BOUND)
    figure.update_xaxes(batch_axis(f"Batch size ({info.batch_unit})", [point.x for point in info.points]))
    figure.update_yaxes(_lr_axis(info.points, visible))
    return Drawn(figure, tuple(legend))


def draw_scale(info: ScaleInfo) -> Drawn:
    """B_peak or B_crit against the loss, which falls to the right as in training; the range that was run is shaded."""
    figure = new_figure()
    legend = []
    points = [point for series in info.series for point in series.points]
    figure.add_hrect(y0=info.measured[0], y1=info.measured[1], fillcolor=SHADE, line_width=0, layer="below")
    for place, series in enumerate(info.series):
        colour = CATEGORIES[place % len(CATEGORIES)]
        shift = DODGE ** (place - (len(info.series) - 1) / 2)
        add_points(
            figure,
            series.points,
            colour.light,
            series.label,
            shift=shift,
            symbol=SYMBOLS[place % len(SYMBOLS)],
        )
        legend.append(LegendEntry(series.label, colour, "point"))
    legend.append(LegendEntry("batch sizes that were run", Colour(SHADE, DARK_THEME[SHADE]), "band"))
    if any(point.kind != "value" for point in points):
        legend.append(BOUND)
    losses = [point.x for point in points]
    axis = log_axis("Loss (falls to the right)", min(losses), max(losses), loss_text, pad=0.12)
    figure.update_xaxes(axis | {"range": axis["range"][::-1]})
    ends = extent(points, info.measured)
    figure.update_yaxes(log_axis(f"{info.name} ({info.batch_unit})", *ends, count_text))
    return Drawn(figure, tuple(legend))


def draw_tradeoff(info: TradeoffInfo) -> Drawn:
    """Steps against examples, log-log, with the fitted hyperbolas and the point where both cost twice their least."""
    figure = new_figure()
    legend = []
    for series in info.series:
        colour = loss_colour(series.shade)
        if series.curve:
            x, y = zip(*series.curve, strict=True)
            figure.add_scatter(
                x=x, y=y, mode="lines", line={"color": colour.light, "width": 1.8}, hoverinfo="skip"
            )
        x, y, _ = zip(*series.points, strict=True)
        hover = [
            escape(
                f"{series.label}, batch size {batch_text(size)}: {count_text(b)} steps,"
                f" {count_text(a)} {info.batch_unit}"
            )
            for a, b, size in series.points
        ]
        figure.add_scatter(x=x, y=y, mode="markers", marker={"color": colour.light, "size": 7},
                           text=hover, hoverinfo="text")  # fmt: skip
        if series.corner is not None:
            _add_corner(figure, series.corner, colour, info)
        legend.append(LegendEntry(series.label, colour, "point"))
    ink = Colour(INK, DARK_THEME[INK])
    if any(series.curve for series in info.series):
        legend.append(LegendEntry("fitted trade-off", ink, "line"))
    if any(series.corner for series in info.series):
        legend.append(LegendEntry("B_crit: twice the fewest steps and examples", ink, "hollow"))
    everything = [(a, b) for one in info.series for a, b, _ in one.points]
    everything += [pair for one in info.series for pair in one.curve]
    examples, steps = zip(*everything, strict=True)
    title = "Examples" if info.batch_unit == "examples" else info.batch_unit.capitalize()
    figure.update_xaxes(log_axis(f"{title} to the {info.end}", min(examples), max(examples), count_text))
    figure.update_yaxes(log_axis(f"Optimizer steps to the {info.end}", min(steps), max(steps), count_text))
    return Drawn(figure, tuple(legend))


def _add_corner(figure: go.Figure, corner: tuple[float, float], colour: Colour, info: TradeoffInfo) -> None:
    size = corner[0] / corner[1]
    figure.add_scatter(
        x=[corner[0]],
        y=[corner[1]],
        mode="markers",
        marker={"symbol": "circle-open", "size": 15, "color": colour.light, "line": {"width": 2.5}},
        text=[f"B_crit {count_text(size)} {info.batch_unit}"],
        hoverinfo="text",
    )


def _add_curve(figure: go.Figure, curve: Curve, colour: str, dash: Dash, width: float) -> None:
    figure.add_scatter(
        x=curve.x,
        y=curve.y,
        mode="lines",
        line={"color": colour, "width": width, "dash": dash},
        text=[escape(curve.label)] * len(curve.x),
        hoverinfo="text",
    )


def _lr_axis(points: Sequence[Point], more: Sequence[float] = ()) -> dict[str, Any]:
    low, high = extent(points, more)
    values = [point.y for point in points]
    low, high = max(low, min(values) / FURTHEST_END), min(high, max(values) * FURTHEST_END)
    return log_axis("Optimal learning rate", low, high, lr_text)
