"""How many batch sizes each thing takes that is asked of a sweep, and what a sweep with fewer is told: in one place."""

from __future__ import annotations

from collections.abc import Sequence

from surge_sweeps.counting import counted
from surge_sweeps.fitting.laws.fit_laws import MIN_OPTIMA
from surge_sweeps.fitting.tradeoff.hyperbola import MIN_BATCH_SIZES

#: Steps to one loss at so many batch sizes fix a trade-off, and with it B_crit and a schedule.
FOR_TRADEOFF = MIN_BATCH_SIZES
#: Laws are fitted to the optima of so many batch sizes,
FOR_LAWS = MIN_OPTIMA
#: and told apart with so many: with one fewer the law of a surge has no AICc.
FOR_VERDICT = 5
#: With so many all laws have parameters to spare, and a curved law shows.
COMFORTABLE = 8


def too_few_batch_sizes(sizes: Sequence[int], *, counts_steps: bool) -> str | None:
    """What cannot be had from so few batch sizes, and how many to add; None where a verdict can be had.

    Args:
        sizes: the batch sizes that were run. counts_steps: whether steps to a loss, and so B_crit, are asked for.

    >>> too_few_batch_sizes([8, 32, 128], counts_steps=True)
    '3 batch sizes were run, and fitting laws takes 4, telling laws apart 5, better 8: add at least 2 more'
    >>> too_few_batch_sizes([8], counts_steps=True)
    'only batch size 8 was run, and B_crit takes 3, fitting laws 4, telling laws apart 5, better 8: add at least 4 more'
    """
    number = len(sizes)
    if not 0 < number < FOR_VERDICT:
        return None
    asked = [("B_crit", FOR_TRADEOFF)] if counts_steps else []
    asked += [("fitting laws", FOR_LAWS), ("telling laws apart", FOR_VERDICT)]
    (first, takes), *others = [(what, count) for what, count in asked if number < count]
    needs = ", ".join([f"{first} takes {takes}", *(f"{what} {count}" for what, count in others)])
    run = (
        f"only batch size {sizes[0]} was run" if number == 1 else f"{counted(number, 'batch size')} were run"
    )
    return f"{run}, and {needs}, better {COMFORTABLE}: add at least {FOR_VERDICT - number} more"
