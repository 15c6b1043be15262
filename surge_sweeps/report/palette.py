"""Colours of the page: every one has a light and a dark form, and figures are drawn in the light one.

Losses get steps of the viridis map, which keeps its order for colour-blind eyes and in grey; categories get
Okabe and Ito's set (Wong 2011, doi:10.1038/nmeth.1618). Marker symbols and dashes repeat what colours say.
"""

from __future__ import annotations

from typing import NamedTuple

from plotly.colors import sample_colorscale

#: Each colour stands once in this table: the page swaps light for dark by the string itself.
INK = "#1f2933"
MUTED = "#5f6b7a"
GRID = "#e6e9ee"
SHADE = "rgba(46, 111, 190, 0.07)"
BAND = "rgba(46, 111, 190, 0.18)"
ACCENT = "#2e6fbe"
PAPER = "#ffffff"
FAINT = "#9aa5b1"

DARK_OF = {
    INK: "#e4e9f0",
    MUTED: "#9fabba",
    GRID: "#2b3440",
    SHADE: "rgba(122, 176, 240, 0.08)",
    BAND: "rgba(122, 176, 240, 0.20)",
    ACCENT: "#7ab0f0",
    PAPER: "#171d25",
    FAINT: "#66727f",
}


class Colour(NamedTuple):
    """One colour in both themes."""

    light: str
    dark: str


#: Okabe-Ito, the light ones darkened for white paper; one per family of losses or candidate law.
CATEGORIES = (
    Colour("#0072b2", "#56a8e0"),
    Colour("#d55e00", "#f08a3c"),
    Colour("#00866a", "#2cc09b"),
    Colour("#b0578d", "#dd8fbd"),
    Colour("#8a6d00", "#e0c040"),
    Colour("#4c5a9e", "#98a6ea"),
    Colour("#7a7a7a", "#b5b5b5"),
    Colour("#3d8fb8", "#8fd0f2"),
)

#: Best cells of a loss surface are bright; the same in both themes.
SURFACE_SCALE = "Viridis"

#: One marker per family of losses, so that shape says what colour says.
SYMBOLS = ("circle", "diamond", "square", "pentagon", "hexagon", "star")

_STEPS = 24


def _viridis(position: float) -> str:
    red, green, blue = sample_colorscale("Viridis", [position], colortype="tuple")[0]
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


#: Viridis without the end that vanishes on the page: from green to purple on white, from blue to yellow on black.
_LOSSES = tuple(
    Colour(_viridis(0.75 - 0.67 * step / _STEPS), _viridis(0.44 + 0.54 * step / _STEPS))
    for step in range(_STEPS + 1)
)

#: Light colour -> dark colour, for everything a figure may hold.
DARK_THEME: dict[str, str] = DARK_OF | {colour.light: colour.dark for colour in (*CATEGORIES, *_LOSSES)}


def loss_colour(shade: float) -> Colour:
    """The colour of a loss: `shade` 0 for the highest, earliest in training, to 1 for the lowest.

    >>> loss_colour(0.0).light, loss_colour(1.0).light
    ('#60c860', '#471d6e')
    """
    return _LOSSES[round(shade * _STEPS)]
