"""What every tracker says of a trial's run: what it is called, and how the run of a user's own program ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from surge_sweeps.curves import Status
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.naming.losses import is_training_loss

_LISTED_METRICS = 10


def run_name(config: Mapping[str, Scalar], trial_id: str) -> str:
    """What a tracker's page shows for a trial.

    >>> run_name({"lr": 0.003, "batch_size": 32, "seed": 1}, "t1")
    'lr=0.003 batch=32 seed=1'
    """
    short = {"lr": "lr", "batch_size": "batch", "seed": "seed"}
    parts = [f"{label}={_short(config[key])}" for key, label in short.items() if key in config]
    return " ".join(parts) or trial_id


def script_status(exit_code: int | None, newest: Mapping[str, float], loss: str) -> Status:
    """How a program ended, from its exit code (None: killed), the newest value of each metric and the loss's name.

    Where the loss is missing or the program failed, the loss of its training batches may say too that it diverged: a
    program may stop at its first NaN, before it evaluates. No other metric does: the best loss so far is infinite
    until one was measured, and a part of a loss may be undefined at any time.

    >>> script_status(0, {"val_loss": 0.5, "aux_loss": float("nan")}, "val_loss")
    'finished'
    >>> script_status(1, {"train_loss": float("nan")}, "val_loss"), script_status(1, {"val_loss": 0.5}, "val_loss")
    ('diverged', 'crashed')
    >>> script_status(1, {"best_val_loss": float("inf")}, "val_loss")
    'crashed'
    >>> script_status(-9, {"train_loss": float("inf")}, "val_loss"), script_status(-9, {"loss": float("nan")}, "loss")
    ('crashed', 'diverged')
    >>> script_status(0, {"val_ppl": 3.0}, "val_loss")
    'crashed'
    """
    if exit_code is None:
        return "crashed"
    if exit_code == 0 and loss in newest:
        return "finished" if math.isfinite(newest[loss]) else "diverged"
    # A program that a signal killed did not stop at what it saw: a batch's loss may be infinite for one step.
    is_killed = exit_code < 0
    losses = [
        value for name, value in newest.items() if name == loss or (is_training_loss(name) and not is_killed)
    ]
    return "crashed" if all(math.isfinite(value) for value in losses) else "diverged"


def missing_metric(loss: str, logged: Iterable[str]) -> str:
    """What a program that did not log its loss did log.

    >>> missing_metric("val_loss", ["val_ppl"])
    "it logged no metric 'val_loss', only: val_ppl"
    """
    names = sorted(logged)
    more = f" and {len(names) - _LISTED_METRICS} more" if len(names) > _LISTED_METRICS else ""
    others = f", only: {', '.join(names[:_LISTED_METRICS])}{more}" if names else " and no other"
    return f"it logged no metric {loss!r}{others}"


def _short(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
