"""What the views need to know of the runs they show: which hold the loss, how many, and which form a group.

MLflow's pages load 100 runs at a time and average what is loaded. So where there are more, the means are shown of
chosen whole groups: a mean over some of a group's seeds would be a wrong number.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from surge_sweeps.trackers.mlflow.client import search_all_runs
from surge_sweeps.trackers.mlflow.record import TAG_KIND
from surge_sweeps.trackers.mlflow.runs import STORED_INFINITY

#: How many runs a page of MLflow loads at once.
PAGE_RUNS = 100

#: Metrics by which our own runs state their learning rate and batch size in logarithms, which MLflow can plot.
LOG_LR = "hp/log10_lr"
LOG_BATCH_SIZE = "hp/log2_batch_size"


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
    """A run that holds the loss: its last value, and the parameters that make its group, the learning rate last."""

    run_id: str
    loss: float
    group: tuple[str | None, ...]


@dataclass(frozen=True)
class Measured:
    """The runs of an experiment, as far as views go.

    Attributes:
        trials: those that hold the loss. only_trials: whether each of them is marked as a trial of ours.
        has_logs: whether each holds its learning rate and batch size in logarithms too.
    """

    trials: tuple[Trial, ...]
    only_trials: bool
    has_logs: bool

    @property
    def is_paged(self) -> bool:
        """Whether MLflow's pages load only some of the runs at first."""
        return len(self.trials) > PAGE_RUNS

    @property
    def has_diverged(self) -> bool:
        """Whether the last loss of a run is infinite or not a number."""
        return not all(math.isfinite(trial.loss) for trial in self.trials)


def measure(client: Any, experiment_id: str, names: ViewNames) -> Measured:
    """Look at the runs that the views will show. Reads their newest values, not their curves."""
    trials: list[Trial] = []
    only_trials = has_logs = True
    keys = group_keys(names)
    for run in search_all_runs(client, experiment_id, names.sweep_filter):
        metrics, params = run.data.metrics, run.data.params
        if names.loss not in metrics:
            continue
        loss = metrics[names.loss] if abs(metrics[names.loss]) < STORED_INFINITY else math.nan
        trials.append(Trial(run.info.run_id, loss, tuple(params.get(key) for key in keys)))
        only_trials = only_trials and run.data.tags.get(TAG_KIND) == "trial"
        has_logs = has_logs and LOG_LR in metrics and LOG_BATCH_SIZE in metrics
    return Measured(tuple(trials), bool(trials) and only_trials, bool(trials) and has_logs)


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
    """The runs of whole groups: of each batch size the best learning rate, then of each the second best, and so on.

    A group in which a run diverged is left out: MLflow would average the others, or an infinity as a large number.

    Args:
        trials: with the learning rate last in their group. limit: of runs.

    >>> trials = [Trial(f"{size}-{lr}-{seed}", abs(lr - 2), (str(size), str(lr)))
    ...           for size in (8, 16) for lr in (1, 2, 4) for seed in (0, 1)]
    >>> whole_groups(trials, 5)
    ['8-2-0', '8-2-1', '16-2-0', '16-2-1']
    """
    groups: dict[tuple[str | None, ...], list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[trial.group].append(trial)
    by_size: dict[tuple[str | None, ...], list[list[Trial]]] = defaultdict(list)
    for group, members in groups.items():
        if all(math.isfinite(trial.loss) for trial in members):
            by_size[group[:-1]].append(members)
    chosen: list[str] = []
    for row in zip_longest(*(sorted(ranked, key=_mean_loss) for ranked in by_size.values()), fillvalue=[]):
        for members in row:
            if len(chosen) + len(members) > limit:
                return chosen
            chosen += [trial.run_id for trial in members]
    return chosen


def _mean_loss(members: list[Trial]) -> float:
    return math.fsum(trial.loss for trial in members) / len(members)
