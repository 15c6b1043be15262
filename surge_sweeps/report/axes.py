"""Axes and layout that all figures share: transparent ground, quiet grid, round ticks on log axes, units in titles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from surge_sweeps.report.numbers import batch_text, log_ticks
from surge_sweeps.report.palette import GRID, INK, MUTED, PAPER

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

#: Batch sizes labelled on an axis; more would touch on a phone.
MOST_BATCH_LABELS = 8


def new_figure(**layout: Any) -> go.Figure:
    """An empty figure in the page's look, without a title: the page writes titles, where they wrap."""
    figure = go.Figure(
        layout=go.Layout(
            template=go.layout.Template(),
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"family": FONT, "size": 13, "color": INK},
            margin={"l": 8, "r": 12, "t": 12, "b": 8},
            showlegend=False,
            hovermode="closest",
            hoverlabel={
                "bgcolor": PAPER,
                "bordercolor": MUTED,
                "font": {"color": INK, "size": 13},
                "align": "left",
            },
            dragmode=False,
        )
    )
    figure.update_layout(**layout)
    return figure


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"color": MUTED, "size": 13}, "standoff": 8},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
        "tickfont": {"color": MUTED, "size": 12},
        "fixedrange": True,
    } | more


def log_axis(
    title: str, low: float, high: float, text: Callable[[float], str], *, pad: float = 0.06
) -> dict[str, Any]:
    """A log axis from `low` to `high` (both > 0), widened by `pad` of its length, with round labelled ticks."""
    start, end = math.log10(low), math.log10(high)
    margin = max((end - start) * pad, 0.04)
    ticks = log_ticks(10 ** (start - margin), 10 ** (end + margin))
    return _axis(
        title,
        type="log",
        range=[round(start - margin, 4), round(end + margin, 4)],
        tickvals=ticks,
        ticktext=[text(tick) for tick in ticks],
    )


def batch_axis(title: str, batch_sizes: Iterable[float], *, pad: float = 0.06) -> dict[str, Any]:
    """A log axis whose ticks are batch sizes that were run, thinned where there are many."""
    sizes = sorted(set(batch_sizes))
    shown = thinned(sizes, MOST_BATCH_LABELS)
    start, end = math.log10(sizes[0]), math.log10(sizes[-1])
    margin = max((end - start) * pad, 0.08)
    return _axis(
        title,
        type="log",
        range=[round(start - margin, 4), round(end + margin, 4)],
        tickvals=shown,
        ticktext=[batch_text(size) for size in shown],
    )


def linear_axis(title: str, **more: Any) -> dict[str, Any]:
    """A linear axis, by default with ticks of plotly's choice."""
    return _axis(title, **more)


def thinned(values: Sequence[float], most: int) -> list[float]:
    """Ascending values > 0 from the first on, without those too close, in the log, for `most` of them on an axis.

    >>> thinned([4, 8, 16, 32, 64], 3), thinned([16, 24, 32, 64], 3)
    ([4, 16, 64], [16, 32, 64])
    """
    step = math.log(values[-1] / values[0]) / most
    kept = [values[0]]
    for value in values[1:]:
        if math.log(value / kept[-1]) >= step * 0.999:
            kept.append(value)
    return kept
