"""Still figures: which there are, that a bound is drawn as one, and that any name can be drawn."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

from surge_sweeps.report.infos import OptimaInfo, ScaleInfo
from surge_sweeps.report.markers import open_ends
from surge_sweeps.report.page import report_info
from surge_sweeps.report.static_figures import draw_optima, draw_scales, static_figures

from .conftest import Case

PNG = b"\x89PNG\r\n\x1a\n"


def test_every_figure_of_every_group_is_there(demo: Case) -> None:
    found, left_out = static_figures(report_info(demo.fit, demo.cells))
    names = [figure.file for figure in found]
    assert names[0].startswith("g1-optimal_lr")
    for stem in ("drift", "tradeoff", "schedule", "surface-1"):
        assert f"g1-{stem}.png" in names
    assert "g2-schedule.png" not in names, "the second group has no schedule"
    assert all(figure.content.startswith(PNG) for figure in found)
    assert len(set(names)) == len(names)
    assert left_out == 0


def test_the_same_values_give_the_same_bytes(bare: Case, demo: Case) -> None:
    group = demo.fit.groups[0]
    fit = demo.fit.model_copy(update={"groups": [group]})
    info = report_info(fit, demo.cells[demo.cells["group"] == 0])
    assert static_figures(info) == static_figures(info)
    assert static_figures(report_info(*bare)).figures == (), "what is missing on the page is missing here"


def test_many_groups_are_counted_and_not_all_drawn(demo: Case) -> None:
    group = demo.fit.groups[1].model_copy(update={"targets": demo.fit.groups[1].targets[:1]})
    fit = demo.fit.model_copy(update={"groups": [group] * 10})
    assert static_figures(report_info(fit, demo.cells)).left_out == 2


def test_bounds_have_an_arrow_and_a_hollow_caret(demo: Case) -> None:
    info = report_info(demo.fit, demo.cells).groups[1].families[0].optima
    assert isinstance(info, OptimaInfo)
    points = [point for series in info.series for point in series.points]
    assert any(point.kind != "value" for point in points)
    (axes,) = draw_optima(info, "title").axes
    assert len(axes.texts) == sum(len(open_ends(point)) for point in points)
    hollow = [line for line in axes.lines if line.get_marker() == "^" and len(line.get_xdata())]
    assert sum(len(line.get_xdata()) for line in hollow) == sum(point.kind == "above" for point in points)
    filled = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert sum(len(line.get_xdata()) for line in filled) == sum(point.kind == "value" for point in points)


def test_the_loss_falls_to_the_right(demo: Case) -> None:
    scales = [part.info for part in report_info(demo.fit, demo.cells).groups[0].scales]
    for axes in draw_scales([one for one in scales if isinstance(one, ScaleInfo)], "title").axes:
        left, right = axes.get_xlim()
        assert left > right > 0


@pytest.mark.filterwarnings("error")
def test_hostile_names_are_drawn(hostile: Case) -> None:
    group = hostile.fit.groups[0].model_copy(update={"group": {"$x^{": "$\\frac{ 学習 \x07" * 30}})
    fit = hostile.fit.model_copy(update={"groups": [group, group]})
    assert static_figures(report_info(fit, hostile.cells)).figures
