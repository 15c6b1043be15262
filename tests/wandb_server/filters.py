"""The Mongo-style filters and the orders of run listings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from wandb_server.registry import GraphQLError
from wandb_server.store import Run
from wandb_server.values import JsonObject

Test = Callable[[Any, Any], bool]

TESTS: dict[str, Test] = {
    "$eq": lambda value, given: value == given or (isinstance(value, list) and given in value),
    "$ne": lambda value, given: value != given and not (isinstance(value, list) and given in value),
    "$in": lambda value, given: any(v in given for v in value) if isinstance(value, list) else value in given,
    "$nin": lambda value, given: not TESTS["$in"](value, given),
    "$gt": lambda value, given: bool(value > given),
    "$gte": lambda value, given: bool(value >= given),
    "$lt": lambda value, given: bool(value < given),
    "$lte": lambda value, given: bool(value <= given),
    "$exists": lambda value, given: (value is not None) == given,
    "$regex": lambda value, given: re.search(given, value or "") is not None,
    "$not": lambda value, given: not matches_value(value, given),
}


def matches(document: Mapping[str, Any], filters: Mapping[str, Any] | None) -> bool:
    """Whether a run's document passes the filters.

    >>> matches({"state": "finished", "config": {"lr": {"value": 0.1}}}, {"config.lr.value": {"$gte": 0.1}})
    True
    >>> matches({"state": "finished"}, {"$and": [{"state": {"$in": ["failed"]}}]})
    False
    """
    for key, given in (filters or {}).items():
        if key == "$and":
            passes = all(matches(document, each) for each in given)
        elif key == "$or":
            passes = not given or any(matches(document, each) for each in given)
        elif key == "$nor":
            passes = not any(matches(document, each) for each in given)
        elif key == "$not":
            passes = not matches(document, given)
        else:
            passes = matches_value(plain(look_up(document, key)), given)
        if not passes:
            return False
    return True


def matches_value(value: Any, given: Any) -> bool:
    """Whether one value passes a condition: a plain value, or a dictionary of operators."""
    is_condition = isinstance(given, dict) and given and all(str(name).startswith("$") for name in given)
    for name, argument in (given if is_condition else {"$eq": given}).items():
        if name not in TESTS:
            raise GraphQLError(f"unknown operator {name} in the filters")
        try:
            if not TESTS[name](value, argument):
                return False
        except TypeError:  # values of different kinds have no order: the run does not match
            return False
    return True


def plain(value: Any) -> Any:
    """The value of a stored config entry, so that ``config.lr`` means ``config.lr.value``."""
    return value["value"] if isinstance(value, Mapping) and "value" in value else value


def look_up(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; keys may hold dots themselves (``summary_metrics.train/loss.min``)."""
    if path in document:
        return document[path]
    for dot in (at for at, letter in enumerate(path) if letter == "."):
        inner = document.get(path[:dot])
        if isinstance(inner, Mapping) and (found := look_up(inner, path[dot + 1 :])) is not None:
            return found
    return None


def document_of(run: Run) -> JsonObject:
    """What filters and orders see of a run, under the names W&B takes."""
    fields: JsonObject = {
        "name": run.name,
        "state": run.state,
        "sweep": run.sweep,
        "group": run.group,
        "tags": run.tags,
    }
    for names, value in (
        (("displayName", "display_name"), run.display_name),
        (("jobType", "job_type"), run.job_type),
        (("createdAt", "created_at"), run.created_at),
        (("heartbeatAt", "heartbeat_at", "updated_at", "updatedAt"), run.heartbeat_at),
        (("summaryMetrics", "summary_metrics", "summary"), run.summary),
    ):
        fields |= dict.fromkeys(names, value)
    return fields | {"config": run.config}


def select(runs: list[Run], filters: Mapping[str, Any] | None, order: str | None) -> list[Run]:
    """Runs that pass, in the order ``+key`` or ``-key``; runs without the key come last."""
    found = [(run, document_of(run)) for run in runs]
    found = [(run, document) for run, document in found if matches(document, filters)]
    order = order or "+created_at"
    key = order.lstrip("+-")

    values = [(plain(look_up(document, key)), run) for run, document in found]
    numbers = [(value, run) for value, run in values if isinstance(value, (int, float, str))]
    numbers.sort(key=lambda pair: (isinstance(pair[0], str), pair[0]), reverse=order.startswith("-"))
    return [run for _, run in numbers] + [
        run for value, run in values if not isinstance(value, (int, float, str))
    ]
