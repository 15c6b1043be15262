"""Learning rates that change in the course of a run, as far as its settings tell.

An optimum measured with a schedule is that of the schedule's peak, at this length of training: a loss reached half-way
was reached at a learning rate that nobody wrote down as `lr`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from surge_sweeps.counting import counted
from surge_sweeps.curves import Problem
from surge_sweeps.trackers.stored_runs import StoredRun

#: Last parts of the names of settings that hold a schedule: Transformers, Megatron-LM, timm, nanoGPT, and plain words.
_KEYS = frozenset(
    {"lr_scheduler_type", "lr_decay_style", "sched", "decay_lr", "lr_scheduler", "lr_schedule", "scheduler"}
)
_CONSTANT = frozenset({"", "none", "null", "false", "0", "no", "off", "constant", "constantlr", "fixed"})


def schedule_problems(stored: Sequence[StoredRun]) -> list[Problem]:
    """A problem for each schedule that runs name, with the number of them.

    >>> linear = StoredRun("a", None, "finished", None, None, {"lr_scheduler_type": "SchedulerType.LINEAR"})
    >>> constant = StoredRun("b", None, "finished", None, None, {"lr_scheduler_type": "constant"})
    >>> schedule_problems([linear, constant])[0].what.partition(":")[0]
    "in 1 run of 2 the learning rate is not constant (lr_scheduler_type = 'linear')"
    """
    found: Counter[tuple[str, str]] = Counter()
    for run in stored:
        for name, value in run.params.items():
            kind = value.strip().lower().removeprefix("schedulertype.")
            if name.rpartition(".")[2].lower() in _KEYS and kind not in _CONSTANT:
                found[name, kind] += 1
    return [
        Problem(
            None,
            f"in {counted(count, 'run')} of {len(stored)} the learning rate is not constant ({name} = {kind!r}): an"
            " optimum is the schedule's peak learning rate, for this schedule and this length of training",
        )
        for (name, kind), count in sorted(found.items())
    ]
