"""What the views need to know of the runs they show: which hold the loss, how many, and which form a group.

MLflow's pages load 100 runs at a time and average what is loaded. So where there are more, the means are shown of
chosen whole groups: a mean over some of a group's seeds would be a wrong number.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from surge_sweeps.curves import RESULT_STATUSES
from surge_sweeps.trackers.mlflow.client import search_all_runs
from surge_sweeps.trackers.mlflow.record import AXIS_BATCH_SIZE, AXIS_LR, TAG_KIND, TAG_STATUS
from surge_sweeps.trackers.mlflow.runs import STORED_INFINITY

#: How many runs a page of MLflow loads at once.
PAGE_RUNS = 100
#: Groups that are shown at least: two batch sizes at two learning rates. Fewer say nothing of the grid.
_FEWEST_GROUPS = 4
#: Over more than a decade, the points of rates that go in factors lie at the left edge of a linear axis.
_WIDEST_LINEAR = 10.0

#: The parameters whose logarithms our own trials hold.
_LOGGED = ("lr", "batch_size")


@dataclass(frozen=True)
class ViewNames:
    """Under which names the runs hold what the views show.

    Attributes:
        loss: the metric.
        lr, batch_size, seed: parameters; None where the runs have no single one, such as a product of two.
        groups: further parameters that tell runs apart that must not be averaged, such as the optimizer.
        sweep_filter: which runs, in the words of MLflow's run search; empty for the whole experiment.
        label: what the filter lets through, in a few words for the names of the views.
    """

    loss: str
    lr: str | None = None
    batch_size: str | None = None
    seed: str | None = None
    groups: tuple[str, ...] = ()
    sweep_filter: str = ""
    label: str = ""


@dataclass(frozen=True)
class Trial:
    """A run that ended: its last loss, and the parameters that make its group, the learning rate last."""

    run_id: str
    loss: float
    group: tuple[str | None, ...]


@dataclass(frozen=True)
class Measured:
    """The runs of an experiment, as far as views go.

    Attributes:
        count: of those that hold the loss. only_trials: whether each of them is marked as a trial of ours.
        ended: those of them that ran to their end, whatever their loss is: others have no last loss to average.
        has_logs: whether those that ended hold their learning rate and batch size in logarithms too, as metrics.
        shows_lr: whether a chart over the learning rate can be read: over its logarithm, or over a range that is
            narrow enough for MLflow's linear axes.
    """

    count: int
    ended: tuple[Trial, ...]
    only_trials: bool
    has_logs: bool
    shows_lr: bool

    @property
    def has_diverged(self) -> bool:
        """Whether the last loss of a run is infinite or not a number."""
        return not all(math.isfinite(trial.loss) for trial in self.ended)


def measure(client: Any, experiment_id: str, names: ViewNames) -> Measured:
    """Look at the runs that the views will show. Reads their newest values, not their curves."""
    count = 0
    ended: list[Trial] = []
    only_trials = True
    logs: set[bool] = set()
    rates: set[float] = set()
    keys = group_keys(names)
    for run in search_all_runs(client, [experiment_id], names.sweep_filter):
        metrics, params = run.data.metrics, run.data.params
        if names.loss not in metrics:
            continue
        loss = metrics[names.loss] if abs(metrics[names.loss]) < STORED_INFINITY else math.nan
        count += 1
        rates |= _positive(params.get(names.lr, "")) if names.lr is not None else set()
        if run.info.status == "FINISHED":
            ended.append(Trial(run.info.run_id, loss, tuple(params.get(key) for key in keys)))
        is_trial = run.data.tags.get(TAG_KIND) == "trial"
        only_trials = only_trials and is_trial
        if not is_trial or run.data.tags.get(TAG_STATUS) in RESULT_STATUSES:
            logs.add(AXIS_LR in metrics and AXIS_BATCH_SIZE in metrics)
    has_logs = logs == {True} and (names.lr, names.batch_size) == _LOGGED
    shows_lr = has_logs or not rates or max(rates) <= _WIDEST_LINEAR * min(rates)
    return Measured(count, tuple(ended), count > 0 and only_trials, has_logs, shows_lr)


def group_keys(names: ViewNames) -> tuple[str, ...]:
    """The parameters by which means over seeds are taken, the learning rate last; empty where they cannot be.

    >>> group_keys(ViewNames("loss", lr="lr", batch_size="bs", groups=("optimizer",)))
    ('optimizer', 'bs', 'lr')
    >>> group_keys(ViewNames("loss", lr="lr"))
    ()
    """
    if names.lr is None or names.batch_size is None:
        return ()
    return (*names.groups, names.batch_size, names.lr)


def whole_groups(trials: Iterable[Trial], limit: int = PAGE_RUNS) -> list[str]:
    """The runs of whole groups: all groups if they fit, else an even part of the grid, with the best of each row in it.

    A row is a batch size, of one kind of run. A group in which a run diverged is left out: MLflow would average the
    others, or an infinity as a large number.

    Args:
        trials: with the learning rate last in their group. limit: of runs.

    >>> trials = [Trial(f"{size}-{lr}-{seed}", abs(lr - 2), (str(size), str(lr)))
    ...           for size in (8, 16, 32) for lr in (1, 2, 4, 8) for seed in (0, 1)]
    >>> len(whole_groups(trials, 24))
    24
    >>> whole_groups(trials, 10)
    ['8-2-0', '8-2-1', '8-8-0', '8-8-1', '32-2-0', '32-2-1', '32-8-0', '32-8-1']
    """
    groups: dict[tuple[str | None, ...], list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[trial.group].append(trial)
    rows: dict[tuple[str | None, ...], list[list[Trial]]] = defaultdict(list)
    for group in sorted(groups, key=_in_order):
        if all(math.isfinite(trial.loss) for trial in groups[group]):
            rows[group[:-1]].append(groups[group])
    grid = list(rows.values())
    if sum(len(members) for row in grid for members in row) > limit:
        grid = _thinned(grid, limit // max(len(members) for row in grid for members in row))
    return [trial.run_id for row in grid for members in row for trial in members]


def _thinned(grid: Sequence[list[list[Trial]]], budget: int) -> list[list[list[Trial]]]:
    """An even part of a grid, of at most `budget` groups; nothing where that would be too few to see the grid."""
    if budget < _FEWEST_GROUPS:
        return []
    rows = min(len(grid), max(math.isqrt(budget), budget // max(map(len, grid))))
    kept = []
    for number in _evenly(len(grid), rows):
        row = grid[number]
        columns = _evenly(len(row), min(len(row), budget // rows))
        best = min(range(len(row)), key=lambda column: _mean_loss(row[column]))
        nearest = min(range(len(columns)), key=lambda place: abs(columns[place] - best))
        columns[nearest] = best
        kept.append([row[column] for column in columns])
    return kept


def _evenly(count: int, wanted: int) -> list[int]:
    """`wanted` of the numbers below `count`, evenly spread, the ends among them.

    >>> _evenly(9, 3), _evenly(9, 1)
    ([0, 4, 8], [4])
    """
    if wanted == 1:
        return [count // 2]
    return [place * (count - 1) // (wanted - 1) for place in range(wanted)]


def _in_order(group: tuple[str | None, ...]) -> list[tuple[int, float, str]]:
    """Numbers by size, before other texts."""
    return [_place(value or "") for value in group]


def _place(text: str) -> tuple[int, float, str]:
    try:
        value = float(text)
    except ValueError:
        return 1, 0.0, text
    return (0, value, text) if math.isfinite(value) else (1, 0.0, text)


def _positive(text: str) -> set[float]:
    place, value, _ = _place(text)
    return {value} if place == 0 and value > 0 else set()


def _mean_loss(members: Sequence[Trial]) -> float:
    return math.fsum(trial.loss for trial in members) / len(members)
