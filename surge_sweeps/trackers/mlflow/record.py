"""A run record in MLflow's words: tag names, parameters as text, and the limits MLflow sets on both.

Everything is checked before a run is created, so that a record MLflow would refuse leaves no half-written run.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterable, Mapping

from surge_sweeps.curves import Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import Scalar

TAG_KIND = "surge.kind"
TAG_SWEEP_ID = "surge.sweep_id"
TAG_SWEEP_NAME = "surge.sweep_name"
TAG_TRIAL_ID = "surge.trial_id"
TAG_STATUS = "surge.status"
TAG_SUMMARY = "surge.summary."
TAG_DEFINITION = "surge.definition."
TAG_PARENT = "mlflow.parentRunId"
#: A text of its own for every run, by which it is found where the answer to its making was lost.
TAG_CREATED = "surge.created"
#: Set while a run that made room waits to go on.
TAG_PREEMPTED = "surge.preempted"
#: Which process went on with a run last.
TAG_CLAIM = "surge.claim"
#: On a run that was written when its trial had ended: its times are those of the writing.
TAG_WHOLE = "surge.whole"
#: The one task of an engine that may go on with a run.
TAG_OWNER = "surge.owner"
#: When that task last went on with it, in milliseconds since 1970.
TAG_TAKEN_UP = "surge.taken_up"

#: Metrics of one point that a trial with a result has: axes, sorting and filters of MLflow's charts take metrics only.
AXIS_LR = "hp/log10_lr"
AXIS_BATCH_SIZE = "hp/log2_batch_size"

#: Runs of these kinds hold no trial.
NOT_TRIALS = ("sweep", "report")

_MLFLOW_STATUS: dict[Status, str] = {
    "finished": "FINISHED",
    "diverged": "FINISHED",  # a result: the run did what it was asked to
    "capped": "FINISHED",
    "crashed": "FAILED",
    "running": "RUNNING",
    "stale": "KILLED",
}
_NAME = re.compile(r"[/\w.\- :]+")
_NAME_LIMIT = 250
_PARAM_LIMIT = 6000
_TAG_LIMIT = 8000
_DEFINITION_PART = 4000  # servers before MLflow 3 cut a tag at 5000


def mlflow_status(status: Status) -> str:
    """MLflow's own word for how a run ended.

    >>> mlflow_status("diverged"), mlflow_status("crashed")
    ('FINISHED', 'FAILED')
    """
    return _MLFLOW_STATUS[status]


def params_text(config: Mapping[str, Scalar], trial_id: str, sweep_id: str | None) -> dict[str, str]:
    """The configuration as MLflow keeps it, with the trial's and the sweep's id.

    Raises:
        TrackerError: a name or a value that MLflow refuses.

    >>> params_text({"lr": 0.1, "nesterov": True}, "t1", None)
    {'lr': '0.1', 'nesterov': 'True', 'trial_id': 't1'}
    """
    ids = {"trial_id": trial_id} | ({} if sweep_id is None else {"sweep_id": sweep_id})
    params = {key: str(value) for key, value in (dict(config) | ids).items()}
    check_names(params, "parameter")
    _check_lengths(params, "parameter", _PARAM_LIMIT)
    return params


def summary_tags(summary: Mapping[str, Scalar]) -> dict[str, str]:
    """The end-of-run scalars as tags; raises `TrackerError` where MLflow would refuse or cut one.

    >>> summary_tags({"start_loss": 0.25})
    {'surge.summary.start_loss': '0.25'}
    """
    tags = {f"{TAG_SUMMARY}{key}": str(value) for key, value in summary.items()}
    check_names(tags, "summary")
    _check_lengths(tags, "summary", _TAG_LIMIT)
    return tags


def axis_metrics(config: Mapping[str, object]) -> dict[str, float]:
    """A trial's learning rate and batch size as its charts show them; only what the configuration has as numbers.

    >>> axis_metrics({"lr": 0.01, "batch_size": 32, "seed": 0})
    {'hp/log10_lr': -2.0, 'hp/log2_batch_size': 5.0}
    >>> axis_metrics({"lr": "auto"})
    {}
    """
    axes = {"lr": (AXIS_LR, math.log10), "batch_size": (AXIS_BATCH_SIZE, math.log2)}
    found = {}
    for key, (name, scale) in axes.items():
        value = config.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            found[name] = scale(value)
    return found


def definition_tags(definition: Mapping[str, object]) -> dict[str, str]:
    """A sweep's definition as JSON, in tags short enough for every server; see `definition_from_tags`.

    Raises:
        TrackerError: the definition is no plain data.
    """
    try:
        text = json.dumps(definition, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TrackerError(
            f"the sweep's definition cannot be written as JSON: {error}.",
            "Use text, numbers, lists and mappings only.",
        ) from error
    parts = [text[start : start + _DEFINITION_PART] for start in range(0, len(text), _DEFINITION_PART)]
    return {f"{TAG_DEFINITION}parts": str(len(parts))} | {
        f"{TAG_DEFINITION}{index}": part for index, part in enumerate(parts)
    }


def definition_from_tags(tags: Mapping[str, str]) -> dict[str, object] | None:
    """The definition that `definition_tags` wrote, or None where the tags hold none that can be read.

    >>> definition_from_tags(definition_tags({"name": "digits", "grid": [1, 2]}))
    {'grid': [1, 2], 'name': 'digits'}
    >>> definition_from_tags({}) is None
    True
    """
    try:
        count = int(tags[f"{TAG_DEFINITION}parts"])
        found = json.loads("".join(tags[f"{TAG_DEFINITION}{index}"] for index in range(count)))
    except (KeyError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def check_names(names: Iterable[str], kind: str) -> None:
    """Raises `TrackerError` for a name that MLflow refuses; `kind` says what it names.

    >>> check_names(["train/loss"], "metric")
    >>> check_names(["loss@100"], "metric")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrackerError: MLflow refuses the metric name 'loss@100'. Rename it: letters, digits, ...
    """
    for name in names:
        if len(name) > _NAME_LIMIT or not _NAME.fullmatch(name) or not _is_plain_path(name):
            raise TrackerError(
                f"MLflow refuses the {kind} name {name[:80]!r}.",
                "Rename it: letters, digits, '_', '-', '.', ' ', ':' and '/' are allowed, up to 250 of them, and it "
                "must not look like '../x', '/x' or 'a//b'.",
            )


def _is_plain_path(name: str) -> bool:
    return posixpath.normpath(name) == name and name != "." and not name.startswith(("..", "/"))


def _check_lengths(texts: Mapping[str, str], kind: str, limit: int) -> None:
    for name, text in texts.items():
        if len(text) > limit:
            raise TrackerError(
                f"the {kind} {name!r} is {len(text)} characters long and MLflow keeps at most {limit}.",
                "Record something shorter, such as a name or a hash.",
            )
