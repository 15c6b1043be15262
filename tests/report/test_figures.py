"""Every figure can be drawn, holds what its info says, and reads well at both ends of the theme."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from surge_sweeps.report.figures import Drawn, draw_laws, draw_optima, draw_scale, draw_tradeoff
from surge_sweeps.report.infos import Cell, Info, Missing, OptimaInfo, OptimaSeries, Point, SurfaceInfo
from surge_sweeps.report.page import report_info
from surge_sweeps.report.page_infos import GroupInfo
from surge_sweeps.report.palette import DARK_THEME, SHADE
from surge_sweeps.report.surface_figures import draw_schedule, draw_surface

from .conftest import Case


def figures_of(group: GroupInfo) -> Iterator[tuple[Info, Callable[[Any], Drawn]]]:
    for family in group.families:
        yield family.optima, draw_optima
        yield from ((info, draw_laws) for _, info in family.laws)
        yield from ((info, draw_surface) for _, info in family.surfaces)
    yield from ((info, draw_scale) for info in (part.info for part in group.scales))
    yield group.tradeoff, draw_tradeoff
    yield group.schedule, draw_schedule


def test_every_figure_draws_with_titled_axes_and_a_legend(demo: Case) -> None:
    count = 0
    for group in report_info(*demo).groups:
        for info, draw in figures_of(group):
            if isinstance(info, Missing):
                continue
            drawn = draw(info)
            layout = drawn.figure.to_plotly_json()["layout"]
            assert drawn.legend
            assert layout["yaxis"]["title"]["text"]
            assert layout.get("xaxis2", layout["xaxis"])["title"]["text"]
            json.dumps(drawn.figure.to_plotly_json(), allow_nan=False)
            count += 1
    assert count == 32


def colours_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            if key in ("color", "fillcolor", "gridcolor", "bgcolor") and isinstance(one, str):
                yield one
            else:
                yield from colours_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from colours_in(one)


def test_every_colour_of_every_figure_has_a_dark_form(demo: Case) -> None:
    both_themes = {"#fefefe", "#101010", "#e64980"}
    for group in report_info(*demo).groups:
        for info, draw in figures_of(group):
            if not isinstance(info, Missing):
                assert set(colours_in(draw(info).figure.to_plotly_json())) <= DARK_THEME.keys() | both_themes


def test_text_in_figures_is_escaped(demo: Case) -> None:
    info = report_info(*demo).groups[0].families[0].optima
    assert not isinstance(info, Missing)
    series = info.series[0].__class__(label="<b>x</b>", shade=0.0, points=info.series[0].points, curve=None)
    figure = draw_optima(info.__class__(info.title, info.batch_unit, (series,))).figure
    assert "<b>" not in figure.to_json().replace("\\u003c", "<")


def test_a_surface_with_its_own_rates_per_batch_size_fills_every_cell() -> None:
    cells = tuple(
        Cell(size, rate, 10.0, score, f"{size} {rate}")
        for size, rates in ((4, (0.1, 0.2, 0.4)), (8, (0.15, 0.3)), (64, (0.2,)))
        for rate, score in zip(rates, (1.0, 0.5, 0.3), strict=False)
    )
    info = SurfaceInfo("loss 1", "examples", "steps to the loss", 0.25, "worst", "best", cells, (), (), True)
    heat_map = draw_surface(info).figure.to_plotly_json()["data"][0]
    columns = list(zip(*heat_map["text"], strict=True))
    assert [set(column) - {""} for column in columns] == [
        {"4 0.1", "4 0.2", "4 0.4"},
        {"8 0.15", "8 0.3"},
        {"64 0.2"},
    ]
    assert len(heat_map["x"]) == 4
    assert len(heat_map["y"]) == len(heat_map["z"]) + 1


@pytest.mark.parametrize("status", ["above", "below"])
def test_bounds_are_hollow_carets_with_an_arrow(demo: Case, status: str) -> None:
    info = report_info(*demo).groups[1].families[0].optima
    assert not isinstance(info, Missing)
    points = tuple(point._replace(kind=status) for point in info.series[0].points[-1:])
    series = info.series[0].__class__("loss 1", 0.0, points, None)
    traces = draw_optima(info.__class__(info.title, info.batch_unit, (series,))).figure.to_plotly_json()[
        "data"
    ]
    carets = [trace for trace in traces if "open" in str(trace["marker"].get("symbol"))]
    assert carets[0]["marker"]["symbol"][0] == (
        "triangle-up-open" if status == "above" else "triangle-down-open"
    )
    start, end, _ = next(trace for trace in traces if trace["mode"] == "lines+markers")["y"]
    assert (end > start) == (status == "above")


def test_the_measured_part_of_the_schedule_is_shaded_in_both_panels(demo: Case) -> None:
    info = report_info(*demo).groups[0].schedule
    assert not isinstance(info, Missing)
    shapes = draw_schedule(info).figure.to_plotly_json()["layout"]["shapes"]
    shaded = [(shape["xref"], shape["x1"]) for shape in shapes if shape["fillcolor"] == SHADE]
    assert shaded == [(axis, end) for end in (12e3, 31e3, 90e3) for axis in ("x", "x2")]


def test_an_interval_without_bounds_does_not_flatten_the_figure() -> None:
    points = tuple(Point(float(size), 0.1, low, 0.2, "value", "x") for size, low in ((4, 0.05), (8, 1e-11)))
    figure = draw_optima(OptimaInfo("t", "examples", (OptimaSeries("loss 1", 0.5, points, None),))).figure
    low, high = figure.layout.yaxis.range
    assert -3 < low < -2
    assert high < 0
    assert figure.data[0].error_y.arrayminus[1] == pytest.approx(0.1)
