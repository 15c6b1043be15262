"""The page: one file that opens offline, with its figures, its style and one copy of plotly.js inside.

Jinja escapes every value (names come from servers and are untrusted); figures travel as JSON in which `<` is escaped.
plotly.js is stored deflated, since Python's plotly ships the full bundle only: 2 MB on disk instead of 5, unpacked by
the browser's own DecompressionStream.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from surge_sweeps.report.figures import (
    Drawn,
    LegendEntry,
    draw_laws,
    draw_optima,
    draw_scale,
    draw_tradeoff,
)
from surge_sweeps.report.infos import Info, LawsInfo, Missing, OptimaInfo, TradeoffInfo
from surge_sweeps.report.page_infos import FamilyInfo, GroupInfo, ReportInfo
from surge_sweeps.report.page_tables import laws_note
from surge_sweeps.report.palette import DARK_THEME
from surge_sweeps.report.surface_figures import draw_schedule, draw_surface

#: Significant digits of the numbers inside figures; no screen shows more.
FIGURE_DIGITS = 5


_SCALE_TITLES = {
    "B_peak": "Where the optimal learning rate peaks: B_peak",
    "B_crit": "Where larger batches stop paying: B_crit",
}


class Choice(NamedTuple):
    """One figure among those that share a place on the page; `missing` is the sentence that stands for it if any."""

    label: str
    id: str
    legend: tuple[LegendEntry, ...]
    missing: str


class Block(NamedTuple):
    """A titled place for a figure, or for several to choose from; `shown` is the one that shows first."""

    title: str
    caption: str
    choices: tuple[Choice, ...]
    shown: int
    height: str


class FamilyView(NamedTuple):
    """A family's figures and texts."""

    info: FamilyInfo
    optima: Block | None
    laws: Block | None
    surfaces: Block | None


class GroupView(NamedTuple):
    """A group's figures and texts; `id` is the anchor."""

    id: str
    info: GroupInfo
    families: tuple[FamilyView, ...]
    scales: tuple[tuple[Block, tuple[str, ...]], ...]
    tradeoff: Block | None
    schedule: Block | None


def html_page(info: ReportInfo) -> str:
    """The whole page as text; the same info gives the same text."""
    figures: dict[str, Any] = {}
    views = [_group_view(f"g{index}", group, figures) for index, group in enumerate(info.groups)]
    environment = Environment(
        loader=PackageLoader("surge_sweeps.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    environment.filters["laws_note"] = laws_note
    return (
        environment.get_template("report.html.j2").render(
            report=info,
            groups=views,
            figures=embedded_json({"figures": figures, "dark": DARK_THEME}),
            plotly_js=Markup(_packed_plotly_js()) if figures else "",
        )
        + "\n"
    )


def breakable(text: str) -> Markup:
    """Escaped text that may break after `_`, `/`, `-` and `.`, so that long names fit a phone.

    >>> breakable("a_b<")
    Markup('a_<wbr>b&lt;')
    """
    safe = escape(text)
    for mark in "_/":
        safe = Markup(str(safe).replace(mark, f"{mark}<wbr>"))
    return safe


def embedded_json(value: object) -> Markup:
    """JSON that may stand inside a script element.

    >>> embedded_json({"a": "</script>"})
    Markup('{"a":"\\\\u003c/script\\\\u003e"}')
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


@cache
def _packed_plotly_js() -> str:
    return base64.b64encode(zlib.compress(get_plotlyjs().encode("utf-8"), 9)).decode("ascii")


def _group_view(anchor: str, group: GroupInfo, figures: dict[str, Any]) -> GroupView:
    def block(
        name: str, title: str, caption: str, info: Info | None, draw: Callable[[Any], Drawn], height: str = ""
    ) -> Block | None:
        return _block(f"{anchor}-{name}", title, caption, _alone(info), draw, figures, height)

    return GroupView(
        id=anchor,
        info=group,
        families=tuple(
            _family_view(f"{anchor}-f{index}", family, figures) for index, family in enumerate(group.families)
        ),
        scales=tuple(
            (drawn, part.checks)
            for part in group.scales
            if (drawn := block(part.name, _SCALE_TITLES[part.name], part.slope, part.info, draw_scale))
        ),
        tradeoff=block(
            "tradeoff",
            "Steps against examples",
            _tradeoff_caption(group.tradeoff),
            group.tradeoff,
            draw_tradeoff,
            "tall",
        ),
        schedule=block(
            "schedule",
            "The schedule",
            "Batch size and learning rate to use as training proceeds.",
            group.schedule,
            draw_schedule,
            "tall",
        ),
    )


def _family_view(name: str, family: FamilyInfo, figures: dict[str, Any]) -> FamilyView:
    return FamilyView(
        info=family,
        optima=_block(
            f"{name}-optima",
            "Optimal learning rate against batch size",
            _optima_caption(family.optima),
            _alone(family.optima),
            draw_optima,
            figures,
        ),
        laws=_block(
            f"{name}-laws",
            "Candidate laws",
            _laws_caption(family.laws),
            family.laws,
            draw_laws,
            figures,
        ),
        surfaces=_block(
            f"{name}-surface",
            "What every learning rate and batch size gave",
            "Colours compare the learning rates of one batch size; hover over a cell for its values.",
            family.surfaces,
            draw_surface,
            figures,
            "tall",
        ),
    )


def _optima_caption(info: Info | None) -> str:
    if not isinstance(info, OptimaInfo):
        return ""
    colours = "One colour per loss, the darkest or brightest the lowest. " if len(info.series) > 1 else ""
    points = [point for one in info.series for point in one.points if point.kind == "value"]
    bars = "Bars are 95% intervals." if any(point.low or point.high for point in points) else ""
    return f"{colours}{bars}".strip()


def _laws_caption(choices: Iterable[tuple[str, Info]]) -> str:
    if not any(isinstance(info, LawsInfo) and info.curves for _, info in choices):
        return "No law is fitted to these points: the reasons stand beside the verdict."
    return "The percentage is a law's Akaike weight: how probable it is among the candidates, given these points."


def _tradeoff_caption(info: Info | None) -> str:
    fitted = isinstance(info, TradeoffInfo) and any(one.curve for one in info.series)
    return (
        "Each point is one batch size at its best learning rate. Small batches (top left) need few examples and many"
        f" steps, large ones the reverse{'; the fitted curve is S = S_min + E_min/B' if fitted else ''}."
    )


def _alone(info: Info | None) -> list[tuple[str, Info]]:
    return [] if info is None else [("", info)]


def _block(
    name: str,
    title: str,
    caption: str,
    infos: Iterable[tuple[str, Info]],
    draw: Callable[[Any], Drawn],
    figures: dict[str, Any],
    height: str = "",
) -> Block | None:
    """A place for the figures, or none where there is nothing to show and nothing to miss."""
    choices = []
    for index, (label, info) in enumerate(infos):
        if isinstance(info, Missing):
            choices.append(Choice(label, "", (), info.why))
            continue
        drawn = draw(info)
        identity = f"{name}-{index}"
        figures[identity] = _rounded(drawn.figure.to_plotly_json())
        choices.append(Choice(label, identity, drawn.legend, ""))
    if not choices:
        return None
    # The lowest loss is the one that training ends near.
    shown = max((index for index, choice in enumerate(choices) if choice.id), default=0)
    return Block(title, caption, tuple(choices), shown, height)


def _rounded(value: Any) -> Any:
    """Plain JSON values with floats cut to the digits a screen can show."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.{FIGURE_DIGITS}g}") if isinstance(value, float) else value
