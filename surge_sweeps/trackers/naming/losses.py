"""Choosing the metric that is the loss."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

from surge_sweeps.curves import RESULT_STATUSES, Problem
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS
from surge_sweeps.trackers.naming.frameworks import FRAMEWORKS, Framework
from surge_sweeps.trackers.naming.loss_names import Kind, is_aggregate, is_loss, kind_of, surplus, words
from surge_sweeps.trackers.naming.names import AmbiguousNameError, NothingLikeItError
from surge_sweeps.trackers.stored_runs import StoredRun

#: How many points a loss has to have in most runs to be preferred to one that has a single one.
_A_CURVE = 3

#: How many points of a metric some runs have each; None where the store cannot say.
CountPoints = Callable[[Sequence[StoredRun], str], Sequence[int | None]]


def choose_loss(
    runs: Sequence[StoredRun],
    framework: Framework | None,
    asked: str | None,
    own: bool,
    problems: list[Problem],
    count: CountPoints | None = None,
) -> str:
    """The metric to read as the loss; a held-out one if every run that decides has it, and more than once.

    Args:
        runs: the runs that may be read. framework: theirs. asked: the user's choice.
        own: the runs are of this tool's own run record. problems: what is worth telling is added.
        count: how many points a metric has; without it each is taken for a curve.

    Raises:
        UnknownNameError: no run has the metric asked for, or none looks like a loss.
        AmbiguousNameError: several may be the loss, or all are extremes or averages.
    """
    names = {name for run in runs for name in run.metrics}
    if asked is not None:
        if runs and asked not in names:
            raise UnknownNameError("metric", asked, names)
        return asked
    decisive = deciding_runs(runs)
    loss = _declared(decisive, framework) if framework else None
    if loss is None and (own or framework is None):
        loss = _of_run_record(decisive, names, own)
    declared = loss is not None and framework is not None
    loss = loss or _scored(decisive)
    if loss is None:
        raise _no_loss(names)
    if not declared and count is not None:
        loss = _a_curve(decisive, loss, count, problems)
    _tell_lacking(decisive, loss, framework, problems)
    if (framework and loss in framework.train_losses) or kind_of(loss) in ("train", "plain"):
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


def _no_loss(names: set[str]) -> SurgeError:
    aggregates = sorted(name for name in names if is_loss(name) and is_aggregate(name))
    if not aggregates:
        return NothingLikeItError("a loss", "loss", names)
    return AmbiguousNameError(
        "no metric is the loss at its step: by their names those there are extremes, smoothed or averages of an epoch.",
        "loss",
        aggregates,
    )


def _a_curve(runs: Sequence[StoredRun], loss: str, count: CountPoints, problems: list[Problem]) -> str:
    """The loss, or another one that is a curve where this one has one point a run, as of an evaluation at the end."""
    if _points(runs, loss, count) > 1:
        return loss
    curves = {name for name in _in_all(runs) if kind_of(name) and _points(runs, name, count) >= _A_CURVE}
    other = _scored([replace(run, metrics={name: run.metrics[name] for name in curves}) for run in runs])
    if other is None:
        return loss
    problems.append(Problem(None, f"most runs have one point of {loss}, no curve: {other} is read instead"))
    return other


def _points(runs: Sequence[StoredRun], metric: str, count: CountPoints) -> float:
    """How many points of a metric a run in the middle has; infinitely many where the store cannot say."""
    counts = [math.inf if points is None else float(points) for points in count(runs, metric)]
    return sorted(counts)[len(counts) // 2] if counts else math.inf


def _tell_lacking(
    runs: Sequence[StoredRun], loss: str, framework: Framework | None, problems: list[Problem]
) -> None:
    """Name a held-out loss that is not read because some runs lack it."""
    if not (kind_of(loss) in ("train", "plain") or (framework and loss in framework.train_losses)):
        return
    better = (*framework.eval_losses, EVAL_LOSS) if framework else (EVAL_LOSS,)
    names = {name for run in runs for name in run.metrics}
    others = sorted(name for name in names if kind_of(name) == "held_out")
    for name in (*(name for name in better if name in names), *others):
        lacking = sum(name not in run.metrics for run in runs)
        if lacking:
            problems.append(
                Problem(None, f"{lacking} of {len(runs)} runs lack {name}: {loss} is read instead")
            )
            return


def _of_run_record(runs: Sequence[StoredRun], names: set[str], own: bool) -> str | None:
    """`eval/loss` if every run has it, else `train/loss`; None where another held-out loss is there instead."""
    evaluated = sum(EVAL_LOSS in run.metrics for run in runs)
    if evaluated == len(runs) or (evaluated and TRAIN_LOSS not in names):
        return EVAL_LOSS
    if TRAIN_LOSS not in names:
        return None
    if not evaluated and not own and any(kind_of(name) in ("held_out", "test") for name in _in_all(runs)):
        return None
    return TRAIN_LOSS


def _scored(runs: Sequence[StoredRun]) -> str | None:
    """The one metric that is most plainly the loss, by its name and by how many runs have it."""
    covered: dict[str, int] = {}
    for run in runs:
        for name in run.metrics:
            covered[name] = covered.get(name, 0) + 1
    kinds = {name: kind for name in covered if (kind := kind_of(name)) is not None}
    whole = [name for name in kinds if covered[name] == len(runs)]
    most = max((covered[name] for name in kinds), default=0)
    for kind in get_args(Kind):
        names = [name for name in whole or kinds if kinds[name] == kind and (whole or covered[name] == most)]
        if not names:
            continue
        fewest = min(surplus(name) for name in names)
        best = _one_granularity([name for name in names if surplus(name) == fewest], kind, runs)
        if len(best) > 1:
            raise AmbiguousNameError(f"{len(best)} metrics may be the loss.", "loss", best)
        return best[0]
    return None


def is_training_loss(name: str) -> bool:
    """Whether a metric is, for certain, the whole loss of training batches.

    >>> [name for name in ("train/loss", "loss", "lm loss", "best_train_loss", "val/loss") if is_training_loss(name)]
    ['train/loss', 'loss', 'lm loss']
    """
    if any(name in framework.train_losses for framework in FRAMEWORKS):
        return True
    return kind_of(name) in ("train", "plain") and surplus(name) == 0


def _in_all(runs: Sequence[StoredRun]) -> set[str]:
    return set.intersection(*(set(run.metrics) for run in runs)) if runs else set()


def _one_granularity(names: Sequence[str], kind: Kind, runs: Sequence[StoredRun]) -> list[str]:
    """Of a loss logged both by step and by epoch (Lightning), one: training by step, held-out data by epoch.

    Of names that differ in how they are written alone, one where they have the same values.
    """
    drop = "epoch" if kind in ("train", "plain") else "step"
    stems: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(names):
        stem = tuple(word for word in words(name) if word not in ("step", "epoch"))
        stems.setdefault(stem, []).append(name)
    kept: list[str] = []
    for same in stems.values():
        able = [name for name in same if drop not in words(name)] or same
        kept += [able[0], *(name for name in able[1:] if not _agree(runs, able[0], name))]
    return kept


def _agree(runs: Sequence[StoredRun], left: str, right: str) -> bool:
    """Whether the newest values of two metrics are the same in every run that tells both, and one at least does."""
    both = [(run.metrics[left], run.metrics[right]) for run in runs if {left, right} <= run.metrics.keys()]
    values = [(one.value, other.value) for one, other in both if one.is_known and other.is_known]
    same = [one == other or (math.isnan(one) and math.isnan(other)) for one, other in values]
    return bool(same) and all(same)
