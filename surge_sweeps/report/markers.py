"""Estimates with their intervals on a plot: filled markers for values, hollow carets with an arrow for bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from surge_sweeps.report.infos import Point
from surge_sweeps.report.palette import PAPER

#: How far an arrow reaches where an interval is open, as a factor.
ARROW_REACH = 1.6


def add_points(
    figure: go.Figure,
    points: Sequence[Point],
    colour: str,
    label: str,
    *,
    shift: float = 1.0,
    symbol: str = "circle",
) -> None:
    """Filled markers with intervals for values, hollow carets with an arrow for bounds and open ends."""
    values = [point for point in points if point.kind == "value"]
    figure.add_scatter(
        x=[point.x * shift for point in values],
        y=[point.y for point in values],
        mode="markers",
        marker={"color": colour, "size": 8, "symbol": symbol, "line": {"color": PAPER, "width": 1}},
        error_y=_error_bars(values, colour),
        text=[
            escape(f"{label}, {point.text}" if not point.text.startswith(label) else point.text)
            for point in values
        ],
        hoverinfo="text",
    )
    bounds = [point for point in points if point.kind != "value"]
    figure.add_scatter(
        x=[point.x * shift for point in bounds],
        y=[point.y for point in bounds],
        mode="markers",
        marker={
            "color": colour,
            "size": 10,
            "symbol": [
                "triangle-up-open" if point.kind == "above" else "triangle-down-open" for point in bounds
            ],
            "line": {"width": 2},
        },
        text=[
            escape(f"{label}, {point.text}" if not point.text.startswith(label) else point.text)
            for point in bounds
        ],
        hoverinfo="text",
    )
    _add_arrows(figure, points, colour, shift)


def _error_bars(points: Sequence[Point], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if point.high is None else point.high - point.y for point in points],
        "arrayminus": [0 if point.low is None else point.y - point.low for point in points],
        "color": colour,
        "thickness": 1.5,
        "width": 0,
    }


def _add_arrows(figure: go.Figure, points: Iterable[Point], colour: str, shift: float) -> None:
    arrows = [(point.x * shift, point.y, end) for point in points for end in open_ends(point)]
    if not arrows:
        return
    figure.add_scatter(
        x=[coordinate for x, _, _ in arrows for coordinate in (x, x, None)],
        y=[coordinate for _, start, end in arrows for coordinate in (start, end, None)],
        mode="lines+markers",
        line={"color": colour, "width": 1.5},
        marker={
            "symbol": "arrow",
            "angleref": "previous",
            "size": [0, 9, 0] * len(arrows),
            "color": colour,
            "line": {"width": 0},
        },
        hoverinfo="skip",
    )


def open_ends(point: Point) -> list[float]:
    """Where arrows end: a bound has one, a value one per open end of an interval that is known on the other side."""
    up, down = point.y * ARROW_REACH, point.y / ARROW_REACH
    if point.kind != "value":
        return [up if point.kind == "above" else down]
    half_open = (point.low is None) != (point.high is None)
    return [] if not half_open else [up if point.high is None else down]


def extent(points: Sequence[Point], more: Iterable[float] = ()) -> tuple[float, float]:
    """The range that holds every point, interval and arrow."""
    found = list(more)
    for point in points:
        found += [point.y, *open_ends(point)]
        found += [end for end in (point.low, point.high) if end is not None and end > 0]
    return min(found), max(found)
