"""What the still figures share: a white canvas of one size, the page's axes and markers, and the bytes of a PNG.

matplotlib draws them, which comes with the extra `mlflow`. No state of `pyplot` is touched, and the same values give
the same bytes.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from surge_sweeps.extras import require
from surge_sweeps.report.axes import MOST_BATCH_LABELS, thinned
from surge_sweeps.report.figures import FURTHEST_END
from surge_sweeps.report.infos import Curve, Point
from surge_sweeps.report.markers import extent, open_ends
from surge_sweeps.report.numbers import batch_text, log_ticks, lr_text
from surge_sweeps.report.palette import GRID, INK, MUTED, PAPER, SHADE

#: Inches. MLflow shows a note's pictures dot for dot and scrolls wider ones, so 720 dots is what its column holds.
SIZE = (7.2, 4.3)
DOTS_PER_INCH = 100
#: Letters of a title that an inch holds.
_TITLE_LETTERS = 9.5
#: Inches of a letter of the legend, and of the mark before it with the gap behind.
_LETTER_INCHES, _MARK_INCHES = 0.069, 0.55

_BOUND = "bound: the truth lies on the arrow's side"
_CARETS = {"above": "^", "below": "v"}


def new_canvas(title: str, panels: int = 1, *, size: tuple[float, float] = SIZE) -> tuple[Any, list[Any]]:
    """A figure with its title, and its panels side by side, in the look of the page."""
    figure = require("matplotlib.figure", "mlflow").Figure(
        figsize=size, dpi=DOTS_PER_INCH, facecolor=PAPER, layout="constrained"
    )
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    lines = textwrap.wrap(title, round(_TITLE_LETTERS * size[0]))
    figure.suptitle(
        safe("\n".join(lines)),
        x=0.01,
        ha="left",
        fontsize=11.5,
        fontweight="bold",
        color=INK,
        linespacing=1.3,
    )
    for one in axes:
        quiet_axes(one)
    return figure, axes


def quiet_axes(axes: Any) -> None:
    """Grid behind the data, no box on top and to the right."""
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(colors=MUTED, labelsize=9.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)


def safe(text: str) -> str:
    """A text as matplotlib shows it as it stands: names come from servers, and `$` would begin a formula.

    >>> print(safe("a$b$"))
    a\\$b\\$
    """
    shown = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
    return shown.replace("$", r"\$")


def label_axes(axes: Any, x: str, y: str) -> None:
    """Titles of both axes."""
    axes.set_xlabel(safe(x), color=MUTED, fontsize=10)
    axes.set_ylabel(safe(y), color=MUTED, fontsize=10)


def batch_ticks(axis: Any, batch_sizes: Iterable[float]) -> None:
    """Ticks at batch sizes that were run, thinned where there are many."""
    sizes = sorted(set(batch_sizes))
    shown = thinned(sizes, MOST_BATCH_LABELS) if len(sizes) > 1 else sizes
    axis.set_ticks(shown, labels=[batch_text(size) for size in shown])
    axis.set_ticks([], minor=True)


def log_range(axis: Any, low: float, high: float, text: Callable[[float], str], pad: float = 0.08) -> None:
    """A log axis from `low` to `high` (both > 0), a little widened, with round ticks."""
    widen = max((high / low) ** pad, 1.12)
    low, high = low / widen, high * widen
    name = axis.axis_name
    getattr(axis.axes, f"set_{name}scale")("log")
    ticks = log_ticks(low, high)
    axis.set_ticks(ticks, labels=[text(tick) for tick in ticks])
    axis.set_ticks([], minor=True)
    getattr(axis.axes, f"set_{name}lim")(low, high)


def lr_range(axis: Any, points: Sequence[Point]) -> None:
    """The learning rate's axis; an interval that reaches very far leaves the figure, as on the page."""
    low, high = extent(points)
    values = [point.y for point in points]
    log_range(axis, max(low, min(values) / FURTHEST_END), min(high, max(values) * FURTHEST_END), lr_text)


def draw_points(
    axes: Any, points: Sequence[Point], colour: str, label: str, *, shift: float = 1.0, marker: str = "o"
) -> None:
    """Filled markers with intervals for values, hollow carets with an arrow for bounds and open ends."""
    for point in points:
        x = point.x * shift
        low = point.y if point.low is None or point.kind != "value" else point.low
        high = point.y if point.high is None or point.kind != "value" else point.high
        axes.plot([x, x], [low, high], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)
        for end in open_ends(point):
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (x, end), (x, point.y), arrowprops=arrow, zorder=3)
    values = [point for point in points if point.kind == "value"]
    xs, ys = [point.x * shift for point in values], [point.y for point in values]
    axes.plot(xs, ys, marker, color=colour, markersize=7, markeredgecolor=PAPER, zorder=4, label=safe(label))
    for kind, caret in _CARETS.items():
        bounds = [point for point in points if point.kind == kind]
        xs, ys = [point.x * shift for point in bounds], [point.y for point in bounds]
        axes.plot(
            xs, ys, caret, color=colour, markersize=8, markerfacecolor=PAPER, markeredgewidth=1.8, zorder=4
        )


def draw_curve(axes: Any, curve: Curve, colour: str, width: float = 1.6) -> None:
    """A law: solid where it stands for the verdict, dotted where it is only the heaviest."""
    axes.plot(
        curve.x, curve.y, color=colour, linewidth=width, linestyle="-" if curve.selected else ":", zorder=2
    )


def key_line(axes: Any, label: str, **style: Any) -> None:
    """An entry of the legend that stands for no data of its own."""
    axes.plot([], [], label=safe(label), **style)


def key_bound(axes: Any, points: Iterable[Point]) -> None:
    """The entry that says what a hollow caret is, where there is one."""
    if any(point.kind != "value" for point in points):
        key_line(
            axes, _BOUND, marker="^", linestyle="", color=MUTED, markerfacecolor=PAPER, markeredgewidth=1.8
        )


def key_shade(axes: Any, label: str, colour: str = SHADE) -> None:
    """The entry of a shaded range, somewhat stronger than the range, which is large."""
    red, green, blue, alpha = shade(colour)
    axes.fill_between([], [], [], color=(red, green, blue, 2 * alpha), label=safe(label), linewidth=0)


def shade(colour: str) -> tuple[float, float, float, float]:
    """A colour of the palette as matplotlib takes it.

    >>> shade("rgba(255, 0, 51, 0.5)")
    (1.0, 0.0, 0.2, 0.5)
    """
    red, green, blue, alpha = (float(part) for part in colour.removeprefix("rgba(").rstrip(")").split(","))
    return red / 255, green / 255, blue / 255, alpha


def legend_below(figure: Any, axes: Any, columns: int = 3) -> None:
    """One legend under the panels, in as many columns, up to `columns`, as the figure is wide."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    figure.legend(
        handles, labels, loc="outside lower left", ncols=_fitting_columns(labels, columns, figure.get_figwidth()),
        frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.8, columnspacing=1.6,
    )  # fmt: skip


def _fitting_columns(labels: Sequence[str], most: int, width: float) -> int:
    """How many columns of these labels, filled one after the other, fit `width` inches."""
    for columns in range(min(most, len(labels)), 1, -1):
        rows = math.ceil(len(labels) / columns)
        widest = [max(map(len, labels[start : start + rows])) for start in range(0, len(labels), rows)]
        if sum(_MARK_INCHES + _LETTER_INCHES * letters for letters in widest) <= width:
            return columns
    return 1


def png(figure: Any) -> bytes:
    """The figure as PNG, with nothing in it that changes from call to call."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; nothing a user could mend here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
