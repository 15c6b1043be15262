"""Choosing the metric that is the loss."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from surge_sweeps.curves import RESULT_STATUSES, Problem
from surge_sweeps.errors import UnknownNameError
from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS
from surge_sweeps.trackers.naming.frameworks import Framework
from surge_sweeps.trackers.naming.names import AmbiguousNameError
from surge_sweeps.trackers.stored_runs import StoredRun

_Kind = Literal["held_out", "test", "train", "plain"]

_LOSS = re.compile(r"(^|[/_. -])(loss|nll|cross[_-]?entropy|crossentropyloss)($|[/_. -])", re.IGNORECASE)
_WORD = re.compile(r"[/_. -]+")
#: Words that say which data the loss is of.
_KINDS: dict[_Kind, frozenset[str]] = {
    "held_out": frozenset({"eval", "evaluation", "val", "valid", "validation", "dev", "heldout"}),
    "test": frozenset({"test"}),
    "train": frozenset({"train", "training"}),
}
#: Words that a loss is called by and that say nothing of which one it is.
_NEUTRAL = frozenset({"loss", "step", "epoch", "total", "avg", "average", "mean", "metrics"})
#: A loss with one of these words is a part, a scale or a record of one.
_NOT_A_LOSS = frozenset(
    {"scale", "scaler", "best", "min", "max", "std", "var", "aux", "auxiliary", "z", "kl", "grad"}
)


def choose_loss(
    runs: Sequence[StoredRun],
    framework: Framework | None,
    asked: str | None,
    own: bool,
    problems: list[Problem],
) -> str:
    """The metric to read as the loss; a held-out one if every run that decides has it.

    Args:
        runs: the runs that may be read. framework: theirs. asked: the user's choice.
        own: the runs are of this tool's own run record. problems: what is worth telling is added.

    Raises:
        UnknownNameError: no run has the metric asked for, or none looks like a loss.
        AmbiguousNameError: several may be the loss.
    """
    names = {name for run in runs for name in run.metrics}
    if asked is not None:
        if runs and asked not in names:
            raise UnknownNameError("metric", asked, names)
        return asked
    decisive = deciding_runs(runs)
    loss = _declared(decisive, framework) if framework else None
    if loss is None and (own or framework is None):
        loss = _of_run_record(decisive, names, own, problems)
    loss = loss or _scored(decisive)
    if loss is None:
        raise UnknownNameError("metric", EVAL_LOSS, names)
    if (framework and loss in framework.train_losses) or _kind(loss) in ("train", "plain"):
        problems.append(
            Problem(
                None, f"{loss} is the loss of training batches, a noisy stand-in for a loss on held-out data"
            )
        )
    return loss


def deciding_runs(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs whose metrics decide: those that ended with a result, else those that logged anything.

    A run that was cut off before its first evaluation does not decide for those that ended.
    """
    logged = [run for run in runs if run.metrics]
    return [run for run in logged if run.status in RESULT_STATUSES] or logged


def _declared(runs: Sequence[StoredRun], framework: Framework) -> str | None:
    def in_all(name: str) -> bool:
        return all(name in run.metrics for run in runs)

    listed = next((name for name in framework.eval_losses if in_all(name)), None)
    if listed is not None or not runs:
        return listed
    if framework.eval_pattern is not None:
        pattern = re.compile(framework.eval_pattern)
        sets = sorted(name for name in runs[0].metrics if pattern.fullmatch(name) and in_all(name))
        if len(sets) > 1:
            raise AmbiguousNameError(
                f"{framework.name} logged the losses of {len(sets)} held-out sets, and one is to be read.",
                "loss",
                sets,
            )
        if sets:
            return sets[0]
    return next((name for name in framework.train_losses if in_all(name)), None)


def _of_run_record(
    runs: Sequence[StoredRun], names: set[str], own: bool, problems: list[Problem]
) -> str | None:
    """`eval/loss` if every run has it, else `train/loss`; None where another held-out loss is there instead."""
    evaluated = sum(EVAL_LOSS in run.metrics for run in runs)
    if evaluated == len(runs) or (evaluated and TRAIN_LOSS not in names):
        return EVAL_LOSS
    if TRAIN_LOSS not in names:
        return None
    if evaluated:
        lacking = len(runs) - evaluated
        problems.append(
            Problem(None, f"{lacking} of {len(runs)} runs lack {EVAL_LOSS}: {TRAIN_LOSS} is read instead")
        )
    elif not own and any(_kind(name) in ("held_out", "test") for name in _in_all(runs)):
        return None
    return TRAIN_LOSS


def _scored(runs: Sequence[StoredRun]) -> str | None:
    """The one metric that is most plainly the loss, by its name and by how many runs have it."""
    covered: dict[str, int] = {}
    for run in runs:
        for name in run.metrics:
            covered[name] = covered.get(name, 0) + 1
    kinds = {name: kind for name in covered if (kind := _kind(name)) is not None}
    whole = [name for name in kinds if covered[name] == len(runs)]
    most = max((covered[name] for name in kinds), default=0)
    for kind in get_args(_Kind):
        names = [name for name in whole or kinds if kinds[name] == kind and (whole or covered[name] == most)]
        if not names:
            continue
        fewest = min(_surplus(name) for name in names)
        best = _one_granularity([name for name in names if _surplus(name) == fewest], kind)
        if len(best) > 1:
            raise AmbiguousNameError(f"{len(best)} metrics may be the loss.", "loss", best)
        return best[0]
    return None


def _in_all(runs: Sequence[StoredRun]) -> set[str]:
    return set.intersection(*(set(run.metrics) for run in runs)) if runs else set()


def _words(name: str) -> list[str]:
    return [word for word in _WORD.split(name.lower()) if word]


def _kind(name: str) -> _Kind | None:
    """Which data a metric is the loss of; None for what is no loss.

    >>> _kind("val/loss"), _kind("train_loss_step"), _kind("loss"), _kind("loss_scale"), _kind("glossary")
    ('held_out', 'train', 'plain', None, None)
    """
    words = _words(name)
    if not _LOSS.search(name) or _NOT_A_LOSS.intersection(words):
        return None
    return next((kind for kind, known in _KINDS.items() if known.intersection(words)), "plain")


def _surplus(name: str) -> int:
    """How many words of the name are of no known meaning: `val/loss` has none, `val/wikitext/loss` has one."""
    return sum(
        word not in _NEUTRAL and not any(word in known for known in _KINDS.values()) for word in _words(name)
    )


def _one_granularity(names: Sequence[str], kind: _Kind) -> list[str]:
    """Of a loss logged both by step and by epoch (Lightning), one: training by step, held-out data by epoch."""
    drop = "epoch" if kind in ("train", "plain") else "step"
    stems: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(names):
        stems.setdefault(tuple(word for word in _words(name) if word not in ("step", "epoch")), []).append(
            name
        )
    kept: list[str] = []
    for same in stems.values():
        kept += [name for name in same if drop not in _words(name)][:1] or same[:1]
    return kept
