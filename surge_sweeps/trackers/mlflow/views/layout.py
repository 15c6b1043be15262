"""The two pages that are saved: every trial with the best first, and the means over seeds.

The keys are those that MLflow's page keeps of itself. It changes what it does not know to its own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surge_sweeps.trackers.mlflow.record import AXIS_BATCH_SIZE, AXIS_LR
from surge_sweeps.trackers.mlflow.views.measured import PAGE_RUNS, Measured, ViewNames, group_keys

#: Sections of the pages, top to bottom.
_SWEEP = "surge-sweep"
_CURVES = "surge-curves"
_CARD_HEIGHT = 420  # pixels


def trials_state(names: ViewNames, query: str, found: Measured) -> dict[str, object]:
    """The page of the trials, the lowest last loss first.

    Args:
        names: of what the runs hold. query: which runs. found: what was seen of them.
    """
    shown = f"the {PAGE_RUNS} best runs" if found.count > PAGE_RUNS else "each run"
    over_lr = [_parallel(names, found.has_logs), _scatter(names, found.has_logs)] if found.shows_lr else []
    return _state(names, query, [*over_lr, _curves(names)], shown, found.has_logs)


def means_state(names: ViewNames, query: str, found: Measured, left_out: str) -> dict[str, object]:
    """The page of the means over seeds; `group_keys` must not be empty.

    Args:
        left_out: which groups the query leaves out, a few words, or empty. The others as in `trials_state`.
    """
    shown = ", ".join(part for part in ("mean over seeds", left_out) if part)
    over_lr = [_contour(names, found.has_logs), _scatter(names, found.has_logs)] if found.shows_lr else []
    keys = [{"mode": "param", "groupByData": key} for key in group_keys(names)]
    state = _state(names, query, [*over_lr, _curves(names)], shown, found.has_logs)
    return state | {"groupBy": {"aggregateFunction": "average", "groupByKeys": keys}, "runListHidden": True}


def _state(
    names: ViewNames,
    query: str,
    charts: Sequence[Mapping[str, object] | None],
    shown: str,
    has_logs: bool,
) -> dict[str, object]:
    params = [key for key in (*names.groups, names.batch_size, names.lr, names.seed) if key is not None]
    columns = [_metric(names.loss), *(f"params.`{key}`" for key in params)]
    hidden = [_hidden(name) for name in (AXIS_LR, AXIS_BATCH_SIZE)] if has_logs else []
    kept = [chart for chart in charts if chart is not None]
    sections = [
        _section(_SWEEP, f"Last loss: {shown}", columns=2),
        _section(_CURVES, f"Loss curves: {shown}", columns=1),
    ]
    filled = {chart["metricSectionId"] for chart in kept}
    return {
        "searchFilter": query,
        # Sorted by a metric the table is flat: otherwise trials hide, charts and all, until their parent is opened.
        "orderByKey": _metric(names.loss),
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
        # By default the charts show ten runs.
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": kept + hidden,
        "compareRunSections": [section for section in sections if section["uuid"] in filled],
        "viewMaximized": False,
        "runListHidden": False,
        # Else the sections are sorted by name, with the ones that MLflow makes for every other metric.
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _parallel(names: ViewNames, has_logs: bool) -> dict[str, object] | None:
    params = [key for key in (names.seed, names.batch_size, names.lr) if key is not None]
    metrics = [names.loss]
    if has_logs:
        params = [key for key in (names.seed,) if key is not None]
        metrics = [AXIS_BATCH_SIZE, AXIS_LR, names.loss]
    if len(params) + len(metrics) < 2:
        return None
    return _chart("parallel", _SWEEP, "PARALLEL") | {
        "selectedParams": params,
        "selectedMetrics": metrics,
        "showAllRuns": True,
    }


def _scatter(names: ViewNames, has_logs: bool) -> dict[str, object] | None:
    if names.lr is None and not has_logs:
        return None
    return _chart("scatter", _SWEEP, "SCATTER") | {
        "xaxis": _lr_axis(names, has_logs),
        "yaxis": {"key": names.loss, "type": "METRIC"},
        "runsCountToCompare": PAGE_RUNS,
    }


def _contour(names: ViewNames, has_logs: bool) -> dict[str, object]:
    size = (AXIS_BATCH_SIZE, "METRIC") if has_logs else (names.batch_size, "PARAM")
    return _chart("contour", _SWEEP, "CONTOUR") | {
        "xaxis": _lr_axis(names, has_logs),
        "yaxis": {"key": size[0], "type": size[1]},
        "zaxis": {"key": names.loss, "type": "METRIC"},
    }


def _lr_axis(names: ViewNames, has_logs: bool) -> dict[str, object]:
    return {"key": AXIS_LR, "type": "METRIC"} if has_logs else {"key": names.lr, "type": "PARAM"}


def _curves(names: ViewNames) -> dict[str, object]:
    return _chart("curves", _CURVES, "LINE") | {
        "metricKey": names.loss,
        "selectedMetricKeys": [names.loss],
        "displayName": f"{names.loss} (log-log)",
        "lineSmoothness": 0,
        "xAxisScaleType": "log",
        "scaleType": "log",
        "range": {},
        "displayPoints": False,
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
        "runsCountToCompare": PAGE_RUNS,
    }


def _hidden(metric: str) -> dict[str, object]:
    """In place of the bar chart that MLflow makes for every metric without a chart."""
    return _chart(f"hidden-{metric}", _SWEEP, "BAR") | {
        "metricKey": metric,
        "deleted": True,
        "isGenerated": True,
    }


def _chart(name: str, section: str, kind: str) -> dict[str, object]:
    return {
        "uuid": f"surge-{name}",
        "type": kind,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
    }


def _section(uuid: str, name: str, columns: int) -> dict[str, object]:
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
        "columns": columns,
        "cardHeight": _CARD_HEIGHT,
    }


def _metric(name: str) -> str:
    return f"metrics.`{name}`"
