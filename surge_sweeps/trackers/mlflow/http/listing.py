"""Experiments and runs as a server lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from surge_sweeps.trackers.mlflow import paging
from surge_sweeps.trackers.mlflow.history import TAG_HISTORY, HistoryTag
from surge_sweeps.trackers.mlflow.http.connection import Server
from surge_sweeps.trackers.mlflow.record import NOT_TRIALS, TAG_KIND
from surge_sweeps.trackers.mlflow.runs import make_run, unknown_experiment
from surge_sweeps.trackers.stored_runs import LatestPoint, StoredRun

_API = "/api/2.0/mlflow"


class StoredHistory(NamedTuple):
    """The history artifact of a run: what its tag says of it, and where the run's artifacts lie."""

    tag: HistoryTag
    artifact_uri: str


class Listing(NamedTuple):
    """The runs of an experiment, and those among them that have a history artifact."""

    runs: list[StoredRun]
    histories: dict[str, StoredHistory]


def experiment_id(server: Server, project: str) -> str:
    """The id of the experiment of that name; raises `UnknownNameError`, or `TrackerError` if it is deleted."""
    found = server.find(f"{_API}/experiments/get-by-name", [("experiment_name", project)])
    if found is not None:
        experiment = found["experiment"]
        if experiment.get("lifecycle_stage", "active") == "active":
            return str(experiment["experiment_id"])
        raise unknown_experiment(project, [], str(experiment["experiment_id"]))
    active = _entries(
        server, "experiments", {"view_type": "ACTIVE_ONLY"}, lambda entry: entry["experiment_id"]
    )
    raise unknown_experiment(project, [str(experiment["name"]) for experiment in active], None)


def list_runs(server: Server, experiment: str, tell: Callable[[int], None]) -> Listing:
    """Every active run of the experiment that is no parent and no report, oldest first; `tell`: how many so far."""
    # Oldest first, so that a run begun meanwhile shifts no page.
    query = {
        "experiment_ids": [experiment],
        "run_view_type": "ACTIVE_ONLY",
        "order_by": ["attributes.start_time ASC"],
    }
    runs: dict[str, StoredRun] = {}
    histories: dict[str, StoredHistory] = {}
    for found in _entries(server, "runs", query, lambda entry: entry["info"]["run_id"]):
        info, data = found["info"], found.get("data", {})
        tags = _texts(data.get("tags", []))
        if tags.get(TAG_KIND) in NOT_TRIALS:
            continue
        run = _stored_run(info, data, tags)
        runs[run.run] = run
        tag = HistoryTag.parse(tags.get(TAG_HISTORY, ""))
        if tag is not None:
            histories[run.run] = StoredHistory(tag, str(info.get("artifact_uri", "")))
        if len(runs) % paging.PAGE == 0:
            tell(len(runs))
    return Listing(list(runs.values()), histories)


def list_sweep_tags(server: Server, experiment: str) -> list[dict[str, str]]:
    """The tags of every active run that is a sweep's parent, oldest first."""
    query = {
        "experiment_ids": [experiment],
        "filter": f"tags.`{TAG_KIND}` = 'sweep'",
        "run_view_type": "ACTIVE_ONLY",
        "order_by": ["attributes.start_time ASC"],
    }
    found = _entries(server, "runs", query, lambda entry: entry["info"]["run_id"])
    return [_texts(run.get("data", {}).get("tags", [])) for run in found]


def _entries(
    server: Server, what: str, query: Mapping[str, object], name: Callable[[dict[str, Any]], str]
) -> Iterator[dict[str, Any]]:
    def ask(token: str) -> tuple[list[dict[str, Any]], str]:
        body = {**query, "max_results": paging.PAGE} | ({"page_token": token} if token else {})
        page = server.call("POST", f"{_API}/{what}/search", body=body)
        return page.get(what, []), page.get("next_page_token", "")

    return paging.whole_listing(ask, name)


def _stored_run(info: Mapping[str, Any], data: Mapping[str, Any], tags: Mapping[str, str]) -> StoredRun:
    latest = {
        point["key"]: LatestPoint(int(point.get("step", 0)), int(point["timestamp"]), float(point["value"]))
        for point in data.get("metrics", [])
    }
    return make_run(
        str(info["run_id"]),
        str(info["status"]),
        _time_ms(info.get("start_time")),
        _time_ms(info.get("end_time")),
        _texts(data.get("params", [])),
        tags,
        latest,
    )


def _texts(pairs: list[dict[str, str]]) -> dict[str, str]:
    return {pair["key"]: pair.get("value", "") for pair in pairs}


def _time_ms(value: object) -> int | None:
    return None if value is None else int(str(value))
