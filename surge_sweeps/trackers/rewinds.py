"""Which points of a run were left behind when it was resumed at an earlier step, from the order in which they came.

Where the order in which points were logged is known, a step below an earlier one says that the run was resumed there.
Where only the points' times tell the order, the step falls for other reasons too: a checkpoint was evaluated again
after training, evaluation jobs ended out of order, points were stamped late, another machine's clock is behind. There
points are only taken for left behind where the later ones show it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: A resumed run logs a stretch of steps again; one that repeats fewer may have evaluated some checkpoints once more.
_FEWEST_REPEATED = 3


class LeftBehind(NamedTuple):
    """What the times of a run's points tell.

    Attributes:
        abandoned: (n,) which points were left behind. falls: how often the step falls.
        undecided: how many points would be left behind if each fall were a resume, are not shown to be, and are not
            replaced by a newer one of their step either.
    """

    abandoned: NDArray[np.bool_]
    falls: int
    undecided: int


def left_behind_in_log_order(run: NDArray[np.int64], step: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) which points, in the order logged and run after run, have one of a lower step behind them in their run.

    >>> left_behind_in_log_order(np.zeros(4, dtype=np.int64), np.array([1.0, 3.0, 2.0, 4.0]))
    array([False,  True, False, False])
    """
    found = np.zeros(len(step), dtype=bool)
    ends = np.flatnonzero(np.diff(run)) + 1
    for part in np.split(np.arange(len(step)), ends):
        found[part] = _have_lower_behind(step[part])
    return found


def left_behind_by_time(step: NDArray[np.float64]) -> LeftBehind:
    """What was left behind of one run.

    From a fall of the step to the next, points are taken for those of a resumed run where they go on past every older
    point, and log at least half of the older steps on the way there again, three or more. Older points from their first
    step on are then abandoned. Where every older step is logged again, none of this matters: the newest point of a step
    counts in any case.

    Args:
        step: (n,) whole steps of all points of a run, in the order of their times and where those are equal, rising.

    >>> went_back = left_behind_by_time(np.array([10.0, 20, 30, 40, 50, 60, 20, 40, 60, 80]))
    >>> went_back.abandoned[:6].tolist(), went_back.undecided
    ([False, True, True, True, True, True], 0)
    >>> best_once_more = left_behind_by_time(np.array([10.0, 20, 30, 40, 50, 20]))
    >>> best_once_more.abandoned.any(), best_once_more.undecided
    (np.False_, 3)
    """
    starts = np.flatnonzero(np.diff(step) < 0) + 1
    none = np.zeros(len(step), dtype=bool)
    if not len(starts):
        return LeftBehind(none, 0, 0)
    distinct, first, place = np.unique(step, return_index=True, return_inverse=True)
    newest = none.copy()
    newest[len(step) - 1 - np.unique(step[::-1], return_index=True)[1]] = True
    open_question = _have_lower_behind(step) & newest
    if not open_question.any():
        return LeftBehind(none, len(starts), 0)

    highest = np.maximum.accumulate(step)[starts - 1]
    last = step[np.append(starts[1:], len(step)) - 1]
    own_start = np.repeat(np.append(0, starts), np.diff(np.append(np.append(0, starts), len(step))))
    again = first[place] < own_start
    again[1:] &= (step[1:] != step[:-1]) | (own_start[1:] != own_start[:-1])
    repeated = np.add.reduceat(again.astype(np.int64), starts)
    # Behind each point, the least step at which the run was resumed.
    resumed_at = np.full(len(step), np.inf)
    for number in np.flatnonzero((last > highest) & (repeated >= _FEWEST_REPEATED)):
        start = starts[number]
        way = slice(*np.searchsorted(distinct, [step[start], highest[number] + 1]))
        if 2 * repeated[number] >= (first[way] < start).sum():
            resumed_at[start - 1] = step[start]
    resumed_at = np.minimum.accumulate(resumed_at[::-1])[::-1]
    abandoned = step >= resumed_at
    return LeftBehind(abandoned, len(starts), int((open_question & ~abandoned).sum()))


def _have_lower_behind(step: NDArray[np.float64]) -> NDArray[np.bool_]:
    # The least step from each point on; that of the point itself changes nothing.
    return step > np.minimum.accumulate(step[::-1])[::-1]
