"""Which runs would decide what the data leaves open, read off the fit's own flags.

Covered: optima at the edge of the learning-rate grid, batch sizes with too few or only diverged runs, peaks and
critical batch sizes outside the range, wide intervals. Not covered: costs; `surge-sweep refine` plans the runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from statistics import median

from surge_sweeps.curves import DOUBT
from surge_sweeps.fitting.batch_counts import too_few_batch_sizes
from surge_sweeps.fitting.result import (
    GroupFit,
    Interval,
    OptimalLR,
    OptimumStatus,
    ProblemRecord,
    TargetFit,
)
from surge_sweeps.report.families import family_of, has_rates, is_tuned
from surge_sweeps.report.numbers import batch_text, factor_text, list_text, lr_text
from surge_sweeps.report.sentences import sentence, speaks_of_schedule
from surge_sweeps.report.words import bound_of

#: How a problem ends that says what to run.
_ASKS = re.compile(r": (?:add|give|log|run|train)\b")
#: 95% interval, upper end over lower, that corresponds to a standard deviation of 0.1 in log LR: with it a drop of
#: 1.7x past the peak shows nearly always, with twice the deviation in two thirds of the cases.
NARROW_ENOUGH_FACTOR = 1.5
#: A bound within this factor of the end of the batch range can lie beyond it; one further inside asks for precision.
NEAR_THE_END = 2.0


def next_runs(group: GroupFit, problems: Sequence[ProblemRecord] = ()) -> list[str]:
    """What to run next, most decisive first; empty where nothing is open.

    Args:
        group: one group of a fit. problems: those of the fit; where no loss could be evaluated they say what to run.

    >>> from surge_sweeps.fitting.result import DriftFit, Slope
    >>> group = GroupFit(group={"n": 1}, targets=[], drift=DriftFit(b_peak=Slope(), b_crit=Slope()))
    >>> next_runs(group, [ProblemRecord(run=None, what="n 1: every run diverged: run smaller learning rates")])
    ['Every run diverged: run smaller learning rates.']
    """
    if not group.targets:
        return [sentence(_without_label(group, problem)) for problem in lacks(group, problems)]
    optima = [optimum for target in group.targets for optimum in target.optimal_lr]
    sizes = sorted({optimum.batch_size for optimum in optima})
    found = [*_grid_runs(group.targets), *_batch_runs(group, sizes)]
    if not any(has_rates(target) for target in group.targets):
        return [
            *found,
            "The same with the learning rate that each batch size was tuned to: then the law can be told too.",
        ]
    if any(target.verdict == "inconclusive" for target in group.targets):
        found += _precision_runs(group) or ([] if found else [_in_between(group)])
    return found


def lacks(group: GroupFit, problems: Sequence[ProblemRecord]) -> list[ProblemRecord]:
    """The problems that ask for runs: of no single run, no doubt about all, and not on the schedule."""
    return [
        problem
        for problem in problems
        if problem.run is None
        and _ASKS.search(problem.what)
        and (not group.group or problem.what.startswith(f"{group.label()}: "))
        and not problem.what.startswith(DOUBT)
        and not speaks_of_schedule(group, problem)
    ]


def _without_label(group: GroupFit, problem: ProblemRecord) -> str:
    return problem.what.removeprefix(f"{group.label()}: ")


def _in_between(group: GroupFit) -> str:
    if all(is_tuned(target) for target in group.targets):
        return "Batch sizes in between, their learning rates tuned on finer grids, with several seeds each."
    return "Batch sizes and learning rates in between, and more seeds near the optima."


def _grid_runs(targets: Sequence[TargetFit]) -> list[str]:
    swept = [target for target in targets if not is_tuned(target)]
    optima = [optimum for target in swept for optimum in target.optimal_lr]
    found = []
    above = _with_status(optima, "edge_high")
    if above:
        largest = max(optimum.lr or 0.0 for optimum in above)
        found.append(
            f"Learning rates above {lr_text(largest)} at {_sizes(above)}: the optimum lies at the upper edge."
        )
    below = _with_status(optima, "edge_low")
    if below:
        smallest = min(optimum.lr or math.inf for optimum in below)
        found.append(
            f"Learning rates below {lr_text(smallest)} at {_sizes(below)}: the optimum lies at the lower edge."
        )
    diverged = _with_status(optima, "diverged")
    if diverged:
        found.append(f"Smaller learning rates at {_sizes(diverged)}: every run there diverged.")
    vague = [one for one in _with_status(optima, "ok") if one.low is None and one.high is None]
    if vague:
        found.append(
            f"More learning rates near the best, or more seeds, at {_sizes(vague)}: the optimum there has no interval."
        )
    few = _with_status(optima, "too_few")
    if few:
        steps = any(family_of(target).counts_steps() for target in swept)
        what, why = (
            ("learning rates and longer runs", "got to the loss")
            if steps
            else ("learning rates", "gave a value")
        )
        found.append(f"At least four {what} at {_sizes(few)}: too few runs there {why}.")
    return found


def _batch_runs(group: GroupFit, sizes: list[int]) -> list[str]:
    found = []
    steps = any(family_of(target).counts_steps() for target in group.targets)
    few = too_few_batch_sizes(sizes, counts_steps=steps)
    if few:
        found.append(sentence(f"{few}, each a factor of 2 apart"))
    if not sizes:
        return found
    bounds = {
        "B_peak": [t.b_peak for t in group.targets if has_rates(t)],
        "B_crit": [t.tradeoff.b_crit for t in group.targets if t.tradeoff],
    }
    for side, edge in (("above", sizes[-1]), ("below", sizes[0])):
        names = [
            name for name, intervals in bounds.items() if any(_may_lie(side, i, edge) for i in intervals)
        ]
        if names and not (side == "below" and edge == 1):
            found.append(
                f"Batch sizes {side} {batch_text(edge)}: {list_text(names)} may lie beyond the range that was run."
            )
    return found


def _may_lie(side: str, interval: Interval, edge: int) -> bool:
    """Whether a bound leaves a quantity open beyond an end of the batch range and lies near that end."""
    bound = bound_of(interval)
    if bound is None:
        return False
    if side == "above":
        return interval.status == "lower_bound" and bound * NEAR_THE_END >= edge
    return interval.status == "upper_bound" and bound <= edge * NEAR_THE_END


def _precision_runs(group: GroupFit) -> list[str]:
    widths = [
        optimum.high / optimum.low
        for target in group.targets
        if target.verdict == "inconclusive"
        for optimum in target.optimal_lr
        if optimum.low and optimum.high
    ]
    if not widths or median(widths) <= NARROW_ENOUGH_FACTOR:
        return []
    return [
        f"More seeds, and learning rates closer together near the optima: the intervals of the optimal learning rate"
        f" span a factor of {factor_text(median(widths))} (median), and telling the laws apart takes about"
        f" {factor_text(NARROW_ENOUGH_FACTOR)}."
    ]


def _with_status(optima: Iterable[OptimalLR], status: OptimumStatus) -> list[OptimalLR]:
    return [optimum for optimum in optima if optimum.status == status]


def _sizes(optima: Iterable[OptimalLR]) -> str:
    sizes = sorted({optimum.batch_size for optimum in optima})
    noun = "batch size" if len(sizes) == 1 else "batch sizes"
    if len(sizes) > 6:
        return f"{len(sizes)} {noun} from {batch_text(sizes[0])} to {batch_text(sizes[-1])}"
    return f"{noun} {list_text([batch_text(size) for size in sizes])}"
