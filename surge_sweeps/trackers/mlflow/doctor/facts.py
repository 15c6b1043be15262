"""What the doctor must know of each run, from a database in four queries or from a server by its listing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.client import search_all_experiments, search_all_runs
from surge_sweeps.trackers.mlflow.record import TAG_KIND, TAG_PARENT, TAG_STATUS, TAG_TRIAL_ID
from surge_sweeps.trackers.mlflow.runs import STORED_INFINITY, unknown_experiment

_RUN_NAME = "mlflow.runName"
_TAGS = (TAG_KIND, TAG_PARENT, TAG_STATUS, TAG_TRIAL_ID, _RUN_NAME)


@dataclass(frozen=True)
class RunFacts:
    """One active run.

    Attributes:
        run: its id. experiment, name: as the user calls them. state: MLflow's own status.
        start_ms, end_ms: milliseconds since 1970, None where unknown. newest_ms: of its newest point, as the
            program gave it (see `stamp_ms`), 0 without one; known of open runs only. broken: the metrics whose newest
            value is no finite number.
        tags: those of ours, and its parent's id.
    """

    run: str
    experiment: str
    name: str
    state: str
    start_ms: int | None
    end_ms: int | None
    newest_ms: int = 0
    broken: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether MLflow takes it for running."""
        return self.state == "RUNNING"

    @property
    def title(self) -> str:
        """How the user finds it, with nothing that could command a terminal."""
        text = f"{self.experiment} / {self.name or 'without a name'} ({self.run})"
        return "".join(letter for letter in text if letter.isprintable())


def experiments_of(connection: Any, project: str | None) -> dict[int, str]:
    """Id -> name of the active experiments of a database, or of the one asked for.

    Raises:
        UnknownNameError: no such experiment. TrackerError: it is deleted.
    """
    sqlalchemy = require("sqlalchemy", "mlflow")
    columns = {column["name"] for column in sqlalchemy.inspect(connection).get_columns("experiments")}
    where, values = "", {}
    if "workspace" in columns:
        where, values = "WHERE workspace = :w", {"w": os.environ.get("MLFLOW_WORKSPACE") or "default"}
    query = sqlalchemy.text(f"SELECT experiment_id, name, lifecycle_stage FROM experiments {where}")
    rows = connection.execute(query, values).all()
    return _chosen([(int(number), name, stage) for number, name, stage in rows], project)


def facts_of_database(connection: Any, experiments: Mapping[int, str]) -> list[RunFacts]:
    """Every active run of the experiments, oldest first."""
    text = require("sqlalchemy", "mlflow").text
    active = "r.lifecycle_stage = 'active'"
    tags: defaultdict[str, dict[str, str]] = defaultdict(dict)
    names = ", ".join(f"'{name}'" for name in _TAGS)
    for run, key, value in connection.execute(
        text(
            f"SELECT t.run_uuid, t.key, t.value FROM tags t JOIN runs r ON r.run_uuid = t.run_uuid"
            f" WHERE {active} AND t.key IN ({names})"
        )
    ):
        tags[run][key] = value or ""
    rows = connection.execute(
        text(
            "SELECT m.run_uuid, max(m.timestamp) FROM latest_metrics m JOIN runs r ON r.run_uuid = m.run_uuid"
            f" WHERE {active} AND r.status = 'RUNNING' GROUP BY m.run_uuid"
        )
    )
    newest: dict[str, int] = {run: at or 0 for run, at in rows}
    broken: defaultdict[str, set[str]] = defaultdict(set)
    for run, key in connection.execute(
        text(
            "SELECT m.run_uuid, m.key FROM latest_metrics m JOIN runs r ON r.run_uuid = m.run_uuid"
            f" WHERE {active} AND (m.is_nan OR abs(m.value) >= {STORED_INFINITY})"
        )
    ):
        broken[run].add(key)
    rows = connection.execute(
        text(
            f"SELECT r.run_uuid, r.experiment_id, r.status, r.start_time, r.end_time FROM runs r WHERE {active}"
            " ORDER BY r.start_time, r.run_uuid"
        )
    )
    return [
        RunFacts(
            run,
            experiments[number],
            tags[run].get(_RUN_NAME, ""),
            status,
            start,
            end,
            newest.get(run, 0),
            frozenset(broken.get(run, ())),
            tags[run],
        )
        for run, number, status, start, end in rows
        if number in experiments
    ]


def facts_of_server(client: Any, project: str | None) -> tuple[dict[int, str], list[RunFacts]]:
    """The experiments and their active runs, through MLflow's client; raises as `experiments_of` does."""
    listed = search_all_experiments(client, with_deleted=True)
    experiments = _chosen(
        [(int(item.experiment_id), item.name, item.lifecycle_stage) for item in listed], project
    )
    facts = [
        _from_client(run, name)
        for number, name in experiments.items()
        for run in search_all_runs(client, [str(number)])
    ]
    return experiments, facts


def _from_client(run: Any, experiment: str) -> RunFacts:
    info, data = run.info, run.data
    # The public dictionary of newest values lacks their times.
    latest = data._metric_objs or []
    return RunFacts(
        info.run_id,
        experiment,
        info.run_name or "",
        info.status,
        info.start_time,
        info.end_time,
        max((point.timestamp for point in latest), default=0),
        frozenset(point.key for point in latest if not abs(point.value) < STORED_INFINITY),
        {key: value for key, value in data.tags.items() if key in _TAGS},
    )


def _chosen(found: Iterable[tuple[int, str, str]], project: str | None) -> dict[int, str]:
    active = {number: name for number, name, stage in found if stage == "active"}
    if project is None:
        return active
    chosen = {number: name for number, name in active.items() if name == project}
    if not chosen:
        deleted = next((number for number, name, _ in found if name == project), None)
        raise unknown_experiment(project, list(active.values()), None if deleted is None else str(deleted))
    return chosen
