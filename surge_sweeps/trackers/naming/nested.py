"""Runs that others are nested in, as the studies of a search: which of them are no trials themselves."""

from __future__ import annotations

from collections.abc import Sequence

from surge_sweeps.counting import counted
from surge_sweeps.curves import Problem
from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers.naming.evidence import ReadSeries
from surge_sweeps.trackers.naming.frameworks import FRAMEWORKS
from surge_sweeps.trackers.naming.loss_names import kind_of
from surge_sweeps.trackers.stored_runs import STUDY_DIRECTION, StoredRun

#: So many of the runs nested in one tell whether they log curves.
_LOOKED_AT = 8


def children_of(stored: Sequence[StoredRun]) -> dict[str, list[StoredRun]]:
    """Run -> those nested in it, of the runs that others are nested in.

    >>> study = StoredRun("study", None, "finished", 0, 1)
    >>> trial = StoredRun("trial", None, "finished", 0, 1, parent="study")
    >>> [child.run for child in children_of([study, trial])["study"]]
    ['trial']
    """
    found: dict[str, list[StoredRun]] = {run.run: [] for run in stored}
    for run in stored:
        if run.parent in found:
            found[run.parent].append(run)
    return {run: children for run, children in found.items() if children}


def without_loss(stored: Sequence[StoredRun], asked: str | None) -> dict[str, str]:
    """The parents that log no loss -> why they are left out; `asked`: the metric that the user calls the loss."""
    losses = {name for known in FRAMEWORKS for name in (*known.eval_losses, *known.train_losses)}
    metrics = {run.run: run.metrics.keys() for run in stored}
    return {
        run: f"left out: {counted(len(children), 'run')} nested in it, and no loss of its own"
        for run, children in children_of(stored).items()
        if not any(name == asked or name in losses or kind_of(name) for name in metrics[run])
    }


def without_curve(
    stored: Sequence[StoredRun], loss: str, read: ReadSeries, problems: list[Problem]
) -> dict[str, str]:
    """The parents that log one value of the loss where the runs nested in them log curves -> why they are left out.

    A parent may log the best loss of a search as its own. One with a curve is a trial, which is said.

    Args:
        stored: runs that may be trials. loss: the metric read. read: reads it. problems: what is worth telling
    """
    curves = {run.run: run for run in stored if loss in run.metrics}
    left_out: dict[str, str] = {}
    for run, children in children_of(list(curves.values())).items():
        points = read([curves[run], *children[:_LOOKED_AT]], loss).rows
        nested = f"{counted(len(children), 'run')} with {loss!r} nested in it"
        if points[0] < 2 <= max(points[1:]):
            left_out[run] = f"left out: {nested}, and one value of its own"
        elif points[0] >= 2:
            problems.append(Problem(run, f"{nested}, and a curve of its own: it counts as a trial too"))
    return left_out


def refuse_maximized(trials: Sequence[StoredRun], stored: Sequence[StoredRun], loss: str) -> None:
    """Refuse the values of a study of Optuna that are to be as large as possible.

    Args:
        trials: runs that may be read. stored: every run, studies among them. loss: what would be read as the loss.

    Raises:
        SurgeError: most trials are of such a study.
    """
    maximized = {run.run for run in stored if "MAXIMIZE" in run.params.get(STUDY_DIRECTION, "")}
    count = sum(run.parent in maximized for run in trials)
    if 2 * count > len(trials):
        raise SurgeError(
            f"the study maximizes what it is given, so {loss!r} is no loss.",
            f"Name a metric that is one with --loss-column, or give --loss-column {loss} if it is a loss all the same.",
        )
