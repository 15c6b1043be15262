"""A run record in W&B's words: where the ids, the status and the ends of a run stand, and the limits W&B sets.

The configuration and the metrics keep the run record's own names (`lr`, `eval/loss`, ...); the step of a row is the
optimizer step. Everything is checked before a run is made, so that a record W&B would cut leaves no half-written run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from surge_sweeps.curves import Status
from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.base import EVAL_LOSS, EXAMPLES, TOKENS, TRAIN_LOSS, RunRecord, Scalar

#: Summary keys. The status is written last: a run without it was cut off.
STATUS = "surge/status"
SUMMARY = "surge/"
#: Whether the run was written when its trial had ended: its times are those of the writing. There from its beginning.
WHOLE = "whole"
#: The one task of an engine that may go on with the run. There from its beginning.
OWNER = "surge/owner"
#: Job types: what a run is for.
JOB_TYPE_TRIAL = "train"
JOB_TYPE_REPORT = "surge-report"

#: Every run written by this tool has this tag.
TAG = "surge"

_TAG_LIMIT = 64
_NAME_LIMIT = 250
#: The words that W&B itself uses for these floats wherever JSON knows none.
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def config_values(config: Mapping[str, Scalar], trial_id: str, sweep_id: str | None) -> dict[str, Scalar]:
    """The configuration as W&B keeps it, with the trial's and the sweep's id.

    Raises:
        TrackerError: a name that W&B keeps for itself.

    >>> config_values({"lr": 0.1, "clip": float("inf")}, "t1", None)
    {'lr': 0.1, 'clip': 'Infinity', 'trial_id': 't1'}
    """
    ids = {"trial_id": trial_id} | ({} if sweep_id is None else {"sweep_id": sweep_id})
    check_names(config, "parameter")
    return {key: _json_value(value) for key, value in config.items()} | ids


def summary_values(status: Status | None, summary: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The end-of-run scalars as summary keys, the status last; None: the run has not ended.

    >>> summary_values("diverged", {"last_finite_step": 7})
    {'surge/last_finite_step': 7, 'surge/status': 'diverged'}
    """
    check_names(summary, "summary")
    values = {f"{SUMMARY}{key}": _json_value(value) for key, value in summary.items()}
    return values if status is None else values | {STATUS: status}


def history_rows(metrics: Mapping[str, Sequence[tuple[int, float]]]) -> list[tuple[int, dict[str, float]]]:
    """Series of points as rows by step, ascending: what W&B logs at once.

    >>> history_rows({"train/loss": [(1, 2.0)], "eval/loss": [(0, 3.0), (1, 2.5)]})
    [(0, {'eval/loss': 3.0}), (1, {'train/loss': 2.0, 'eval/loss': 2.5})]
    """
    rows: dict[int, dict[str, float]] = {}
    for name, points in metrics.items():
        for step, value in points:
            rows.setdefault(int(step), {})[name] = float(value)
    return sorted(rows.items())


def group_name(config: Mapping[str, Scalar]) -> str | None:
    """The group of a run: its batch size, so that the page shows one group a batch size.

    >>> group_name({"batch_size": 32})
    'bs=32'
    """
    return f"bs={config['batch_size']}" if "batch_size" in config else None


def tags(config: Mapping[str, Scalar], sweep_name: str | None, others: Iterable[str] = ()) -> list[str]:
    """The tags of a run: this tool's, the sweep's name and the optimizer, next to the user's own.

    >>> tags({"optimizer": "adamw"}, "digits", ["night"])
    ['night', 'surge', 'digits', 'adamw']
    """
    named = [*others, TAG, sweep_name, str(config.get("optimizer", ""))]
    return list(dict.fromkeys(tag[:_TAG_LIMIT] for tag in named if tag))


def define_metrics(run: Any) -> None:
    """Tell W&B to draw the losses over the examples seen. Summaries stay at the last value, on which readers rely."""
    run.define_metric(EXAMPLES)
    run.define_metric(TOKENS)
    for loss in (TRAIN_LOSS, EVAL_LOSS):
        run.define_metric(loss, step_metric=EXAMPLES)


def check_record(record: RunRecord, sweep_id: str | None) -> None:
    """Raises `TrackerError` for a record that W&B would refuse or change."""
    check_names(record.metrics, "metric")
    config_values(record.config, record.trial_id, sweep_id)
    summary_values(record.status, record.summary)


def check_names(names: Iterable[str], kind: str) -> None:
    """Raises `TrackerError` for a name that W&B keeps for itself or cannot keep; `kind` says what it names.

    >>> check_names(["train/loss"], "metric")
    >>> check_names(["_step"], "metric")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrackerError: W&B refuses the metric name '_step'. Rename it: ...
    """
    for name in names:
        if not name.strip() or name.startswith("_") or len(name) > _NAME_LIMIT or not name.isprintable():
            raise TrackerError(
                f"W&B refuses the {kind} name {name[:80]!r}.",
                f"Rename it: up to {_NAME_LIMIT} printable characters, the first one not '_'.",
            )


def _json_value(value: Scalar) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        return _NOT_FINITE[str(value)]
    return value
