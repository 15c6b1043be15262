"""Points that were logged wrongly: all at one step, or twice at the same one. Only a database can be asked for this."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from surge_sweeps.counting import counted
from surge_sweeps.extras import require
from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS
from surge_sweeps.trackers.mlflow.doctor.facts import RunFacts
from surge_sweeps.trackers.mlflow.doctor.finding import Finding
from surge_sweeps.trackers.mlflow.record import TAG_KIND

INDEX = "index_metrics_run_uuid_key_step"
_RUNS_AT_ONCE = 100
#: Counting points means to walk through them: of a store of a hundred million, this long and no longer.
_LIMIT_S = 10.0


def point_findings(connection: Any, facts: Sequence[RunFacts]) -> list[Finding]:
    """What is wrong with the points of these runs."""
    found = [_one_step(connection, facts), _doubled(connection, facts)]
    return [finding for finding in found if finding is not None]


def _one_step(connection: Any, facts: Sequence[RunFacts]) -> Finding | None:
    """Metrics whose newest step is 0 and that have more than one point."""
    text = require("sqlalchemy", "mlflow").text
    titles = {run.run: run.title for run in facts}
    query = text(
        "SELECT l.run_uuid, l.key FROM latest_metrics l JOIN runs r ON r.run_uuid = l.run_uuid"
        " WHERE l.step = 0 AND r.lifecycle_stage = 'active' AND l.key NOT LIKE 'system/%' AND"
        f" (SELECT 1 FROM metrics m {_hint(connection)} WHERE m.run_uuid = l.run_uuid AND m.key = l.key"
        " LIMIT 1 OFFSET 1) = 1 ORDER BY r.start_time, l.run_uuid, l.key"
    )
    rows = [(run, key) for run, key in connection.execute(query) if run in titles]
    if not rows:
        return None
    metrics = Counter(key for _, key in rows)
    runs = list(dict.fromkeys(run for run, _ in rows))
    names = ", ".join(_plain(f"{key!r} of {count:,}") for key, count in metrics.most_common(5))
    more = f" and {len(metrics) - 5:,} other metrics" if len(metrics) > 5 else ""
    are = "has" if len(runs) == 1 else "have"
    return Finding(
        "one-step",
        f"{counted(len(runs), 'run')} {are} metrics with all points at step 0: {names}{more}.",
        "They were logged without a step (mlflow.log_metric(name, value) alone). No loss at a step can be read from"
        " them: reports keep one point of each.",
        "Not mended: the steps are not in the store. Log them with mlflow.log_metric(name, value, step=...).",
        items=tuple(titles[run] for run in runs),
    )


def _doubled(connection: Any, facts: Sequence[RunFacts]) -> Finding | None:
    sqlalchemy = require("sqlalchemy", "mlflow")
    query = sqlalchemy.text(
        "SELECT run_uuid, count(*) - count(DISTINCT step) AS more FROM metrics"
        f" {_hint(connection)} WHERE run_uuid IN :runs AND key = :key GROUP BY run_uuid"
    ).bindparams(sqlalchemy.bindparam("runs", expanding=True))
    trials = [run for run in facts if run.tags.get(TAG_KIND) == "trial"]
    deadline = time.monotonic() + _LIMIT_S
    doubled: dict[str, int] = {}
    looked = 0
    for start in range(0, len(trials), _RUNS_AT_ONCE):
        if time.monotonic() > deadline:
            break
        part = trials[start : start + _RUNS_AT_ONCE]
        for key in (TRAIN_LOSS, EVAL_LOSS):
            for run, more in connection.execute(query, {"runs": [item.run for item in part], "key": key}):
                if more:
                    doubled[run] = doubled.get(run, 0) + int(more)
        looked += len(part)
    if not doubled:
        return _not_all_looked_at(looked, len(trials)) if looked < len(trials) else None
    of = f" (of the first {looked:,} trials: the others were not looked at)" if looked < len(trials) else ""
    have = "has" if len(doubled) == 1 else "have"
    return Finding(
        "doubled-points",
        f"{counted(len(doubled), 'trial')} {have} {counted(sum(doubled.values()), 'point')} at steps that have one"
        f" already{of}.",
        "A run that was resumed from a checkpoint logs the steps since then again. Reports take the newest point of"
        " each step.",
        "Nothing must be done.",
        is_fault=False,
        items=tuple(run.title for run in trials if run.run in doubled),
    )


def _not_all_looked_at(looked: int, trials: int) -> Finding:
    return Finding(
        "doubled-points-unknown",
        f"{looked:,} of {counted(trials, 'trial')} were looked at for points that were logged twice, and have none.",
        f"This look ends after {_LIMIT_S:.0f} s, so nothing is known of the others. Reports take the newest point of"
        " each step in any case.",
        "Nothing must be done.",
        is_fault=False,
    )


def _hint(connection: Any) -> str:
    """SQLite by itself would scan every point of a metric, for each run."""
    if connection.dialect.name != "sqlite":
        return ""
    indexes = require("sqlalchemy", "mlflow").inspect(connection).get_indexes("metrics")
    names = {index["name"] for index in indexes}
    found = next((name for name in (INDEX, "index_metrics_run_uuid") if name in names), None)
    return f"INDEXED BY {found}" if found else ""


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())
