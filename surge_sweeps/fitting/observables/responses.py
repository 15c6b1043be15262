"""What each run says about a target: the steps it took to a loss, or the loss it gained over a fixed horizon.

Everything here is per run and vectorised over runs; choosing targets is `targets`, tabling by batch size and learning
rate is `cells`. A run that never reached a loss is censored: it took more steps than it had, and that is all it says.
Protocols: steps to a loss as in McCandlish et al. 2018 (arXiv 1812.06162); the loss decrease after a fixed number of
further steps as in Li et al. 2024 (arXiv 2405.14578, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.curves import LossCurves, Stretches

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: A training loss is a noisy estimate of the loss, so it is averaged over this many logged points before a crossing
#: is sought. A loss on one fixed held-out set is taken as it is.
TRAIN_LOSS_POINTS = 5


#: A loss, gain or step count larger than this is no result: it counts as infinite.
HUGE = 1e60
#: About how many points are worked on at once.
_POINTS_AT_ONCE = 2**20


@dataclass(frozen=True, eq=False)
class Responses:
    """What every run says about each of several targets; rows in the order of `curves.runs`.

    Attributes:
        values: (n_runs, n_targets) natural log of the steps to the loss, or the loss decrease; NaN where censored.
        censored: (n_runs, n_targets) the run ended, or diverged, before it could say.
    """

    values: FloatArray
    censored: BoolArray


@dataclass(frozen=True, eq=False)
class RunningMinimum:
    """The lowest smoothed loss so far, point by point, of every run that has points.

    Attributes:
        steps: (n,) of the table of points, which may hold those of other runs too.
        losses: (n_points,) of all runs, one run after the other; they never rise within a run.
        starts: (n_runs + 1,) where each run's points begin in `losses`; a run without points has an empty stretch.
        offsets: (n_runs,) where each run's points begin in `steps`; None: as in `losses`.
    """

    steps: NDArray[np.int64] | FloatArray
    losses: FloatArray
    starts: NDArray[np.int64]
    offsets: NDArray[np.int64] | None = None

    def first_losses(self) -> FloatArray:
        """(n_runs,) the loss at each run's first point, NaN for a run without points."""
        return self._loss_of(np.zeros(self.starts.size - 1, dtype=np.int64))

    def last_losses(self) -> FloatArray:
        """(n_runs,) the lowest loss each run ever had, NaN for a run without points."""
        return self._loss_of(np.diff(self.starts) - 1)

    def first_steps(self) -> FloatArray:
        """(n_runs,) the step of each run's first point, NaN for a run without points."""
        return self._step_of(np.zeros(self.starts.size - 1, dtype=np.int64))

    def last_steps(self) -> FloatArray:
        """(n_runs,) the step of each run's last point, NaN for a run without points."""
        return self._step_of(np.diff(self.starts) - 1)

    def steps_of_logged(self, number: int) -> FloatArray:
        """(n_runs,) the step of each run's `number`-th point after step 0, infinite for a run with fewer."""
        position = self._points_until(0.0) + number - 1
        return np.where(position < np.diff(self.starts), self._step_of(position), np.inf)

    def losses_at(self, step: float | FloatArray) -> FloatArray:
        """(n_runs,) the lowest loss each run had up to `step`, one or (n_runs,); NaN without a point by then."""
        done = self._points_until(step)
        losses = self._loss_of(done - 1)
        losses[done == 0] = np.nan
        return losses

    def points_above(self, loss: float) -> NDArray[np.int64]:
        """(n_runs,) how many points each run has before the first at or below a loss."""
        return _leading(
            lambda at, runs: self.losses[self.starts[:-1][runs] + at] > loss, np.diff(self.starts)
        )

    def point(self, runs: BoolArray, number: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """(n,) step and loss of one point of each of some runs; `number` counts each run's from 0."""
        at = self._begins()[runs] + number
        return np.asarray(self.steps[at], dtype=float), self.losses[self.starts[:-1][runs] + number]

    def _points_until(self, step: float | FloatArray) -> NDArray[np.int64]:
        limits = np.broadcast_to(step, self.starts.size - 1)
        begins = self._begins()
        return _leading(lambda at, runs: self.steps[begins[runs] + at] <= limits[runs], np.diff(self.starts))

    def _begins(self) -> NDArray[np.int64]:
        return self.starts[:-1] if self.offsets is None else self.offsets

    def _step_of(self, number: NDArray[np.int64]) -> FloatArray:
        return self._pick(self.steps, self._begins() + number)

    def _loss_of(self, number: NDArray[np.int64]) -> FloatArray:
        return self._pick(self.losses, self.starts[:-1] + number)

    def _pick(self, of_points: NDArray[np.int64] | FloatArray, positions: NDArray[np.int64]) -> FloatArray:
        if not of_points.size:
            return np.full(positions.shape, np.nan)
        empty = np.diff(self.starts) == 0
        return np.where(empty, np.nan, of_points[np.clip(positions, 0, of_points.size - 1)])


def _leading(
    holds: Callable[[NDArray[np.int64], NDArray[np.int64]], BoolArray], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(n_runs,) for how many points from its first on something holds that, once it does not, never does again.

    Args:
        holds: tells it of one point, by its number in its run, of each of some runs, by theirs.
        counts: (n_runs,) points of each run.

    >>> steps = np.array([[0, 5, 9], [7, 8, 9]])
    >>> _leading(lambda at, runs: steps[runs, at] < 8, np.array([3, 3])).tolist()
    [2, 1]
    """
    low, high = np.zeros_like(counts), counts.copy()
    while (open_runs := np.flatnonzero(low < high)).size:
        middle = (low[open_runs] + high[open_runs]) // 2
        further = holds(middle, open_runs)
        low[open_runs[further]] = middle[further] + 1
        high[open_runs[~further]] = middle[~further]
    return low


def running_minimum(curves: LossCurves) -> RunningMinimum:
    """The running minimum of every run's smoothed loss.

    A loss whose name says that it is a training loss is first replaced by its trailing mean over
    `TRAIN_LOSS_POINTS` logged points (fewer at the start); any other is taken as it is. NaN counts as infinite.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"run": ["a"], "lr": [0.1], "batch_size": [8], "seed": [0], "status": ["finished"]})
    >>> points = pd.DataFrame({"run": "a", "step": [0, 1, 2], "examples": [0.0, 8, 16], "loss": [3.0, 1.0, 2.0]})
    >>> running_minimum(LossCurves(runs, points)).losses.tolist()
    [3.0, 1.0, 1.0]
    """
    stretches = curves.stretches()
    counts = stretches.ends - stretches.starts
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    losses = np.empty(int(starts[-1]))
    for run, loss in smoothed_losses(curves, stretches):
        np.minimum.accumulate(loss, out=losses[starts[run] : starts[run + 1]])
    return RunningMinimum(curves.points["step"].to_numpy(), losses, starts, stretches.starts)


def smoothed_losses(curves: LossCurves, stretches: Stretches) -> Iterator[tuple[int, FloatArray]]:
    """The number of each run in `runs` and the losses of its points, a training loss averaged over `TRAIN_LOSS_POINTS`.

    NaN and `HUGE` become inf. Only some runs are worked on at once, since points are many.
    """
    losses = curves.points["loss"].to_numpy(float)
    counts = stretches.ends - stretches.starts
    is_train = "train" in curves.loss_name.lower()
    for first, last in _portions(counts):
        parts = [losses[stretches.starts[run] : stretches.ends[run]] for run in range(first, last)]
        joined = np.concatenate(parts)
        with np.errstate(invalid="ignore"):
            joined = np.where(np.abs(joined) < HUGE, joined, np.inf)
        if is_train:
            joined = _trailing_mean(joined, np.repeat(np.arange(last - first), counts[first:last]))
        ends = np.cumsum(counts[first:last])
        yield from enumerate(np.split(joined, ends[:-1]), start=first)


def _trailing_mean(loss: FloatArray, run: NDArray[np.int64]) -> FloatArray:
    is_finite = np.isfinite(loss)
    finite = pd.Series(np.where(is_finite, loss, np.nan))
    rolling = finite.groupby(run, sort=False).rolling(TRAIN_LOSS_POINTS, min_periods=1)
    # One run stands after the other, so the result is in the order of the points.
    smooth = rolling.mean().to_numpy()
    return np.where(is_finite & ~np.isnan(smooth), smooth, np.inf)


def _portions(counts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs from the first to before the last, about `_POINTS_AT_ONCE` points or a single run at a time."""
    first, points = 0, 0
    for run, count in enumerate(counts.tolist()):
        if run > first and points + count > _POINTS_AT_ONCE:
            yield first, run
            first, points = run, 0
        points += count
    if first < len(counts):
        yield first, len(counts)


def interpolated_losses(curves: LossCurves, steps: FloatArray) -> FloatArray:
    """(n_runs,) the smoothed loss of each run at its (n_runs,) step, linear between points.

    NaN where the step is NaN, lies outside the run's points, or one of the points beside it is not finite.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"run": ["a"], "lr": [0.1], "batch_size": [8], "seed": [0], "status": ["finished"]})
    >>> points = pd.DataFrame({"run": "a", "step": [0, 10], "examples": [0.0, 80], "loss": [3.0, 1.0]})
    >>> interpolated_losses(LossCurves(runs, points), np.array([5.0]))
    array([2.])
    """
    stretches = curves.stretches()
    at = curves.points["step"].to_numpy()
    result = np.full(steps.shape, np.nan)
    for run, loss in smoothed_losses(curves, stretches):
        if not loss.size or not np.isfinite(steps[run]):
            continue
        part = at[stretches.starts[run] : stretches.ends[run]]
        value = np.interp(steps[run], part, loss, left=np.nan, right=np.nan)
        result[run] = value if np.isfinite(value) else np.nan
    return result


def steps_to_losses(lowest: RunningMinimum, losses: Sequence[float]) -> Responses:
    """Log steps to the first crossing of each loss.

    Between the points on either side the crossing is interpolated linearly in log step against log loss (in plain
    step from step 0, in plain loss where a loss is not positive).

    Args:
        lowest: the running minima.
        losses: the losses to reach.

    Returns:
        One row a run, one column a loss. A run at or below a loss at step 0 says nothing about it: censored. One
        whose first point is later and already there took at most the steps of that point, which are its value.

    >>> lowest = RunningMinimum(np.array([1.0, 10, 100]), np.array([4.0, 2.0, 1.0]), np.array([0, 3]))
    >>> responses = steps_to_losses(lowest, [2.0, 0.5])
    >>> np.exp(responses.values).round(6).tolist(), responses.censored.tolist()
    ([[10.0, nan]], [[False, True]])
    """
    columns = [_log_steps_to(lowest, loss) for loss in losses]
    values = np.stack(columns, axis=1) if columns else np.empty((lowest.starts.size - 1, 0))
    return Responses(values, np.isnan(values))


def _log_steps_to(lowest: RunningMinimum, target: float) -> FloatArray:
    counts = np.diff(lowest.starts)
    before = lowest.points_above(target)
    crossed = (before > 0) & (before < counts)
    result = np.full(counts.shape, np.nan)
    first_steps = lowest.first_steps()
    there = (before == 0) & (first_steps > 0)
    result[there] = np.log(first_steps[there])
    step_0, loss_0 = lowest.point(crossed, before[crossed] - 1)
    step_1, loss_1 = lowest.point(crossed, before[crossed])
    share = _share_of_way(loss_0, loss_1, target)
    from_zero = step_0 <= 0
    log_0 = np.log(np.where(from_zero, 1.0, step_0))
    between = log_0 + share * (np.log(step_1) - log_0)
    result[crossed] = np.where(from_zero, np.log(np.maximum(share * step_1, np.finfo(float).tiny)), between)
    return result


def _share_of_way(loss_0: FloatArray, loss_1: FloatArray, target: float) -> FloatArray:
    """How far, from 0 to 1, the target lies from the loss before the crossing to the one after."""
    positive = (loss_1 > 0) & np.isfinite(loss_0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Differences of logs: the ratio of a common loss to a tiny one is no float.
        in_log = (np.log(loss_0) - np.log(target)) / (np.log(loss_0) - np.log(loss_1))
        in_loss = (loss_0 - target) / (loss_0 - loss_1)
    share = np.where(positive & (target > 0) & np.isfinite(in_log), in_log, in_loss)
    return np.clip(np.where(np.isfinite(loss_0), share, 1.0), 0.0, 1.0)


def loss_decrease(curves: LossCurves, horizon_steps: int) -> Responses:
    """The loss decrease from `start_loss` to exactly `horizon_steps` steps, one column.

    A run without a finite loss at that step, or without a start loss, is censored.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"run": ["a"], "lr": [0.1], "batch_size": [8], "seed": [0], "status": ["finished"],
    ...     "start_checkpoint": ["c"], "start_loss": [3.0]})
    >>> points = pd.DataFrame({"run": "a", "step": [5, 10], "examples": [40.0, 80], "loss": [2.5, 2.25]})
    >>> loss_decrease(LossCurves(runs, points), 10).values.tolist()
    [[0.75]]
    """
    end = _losses_at_exactly(curves, horizon_steps)
    gain = curves.runs["start_loss"].to_numpy(float, na_value=np.nan) - end
    gain = np.where(np.abs(gain) < HUGE, gain, np.nan)[:, None]
    return Responses(gain, np.isnan(gain))


def _losses_at_exactly(curves: LossCurves, step: int) -> FloatArray:
    """(n_runs,) the loss as logged at a step, NaN for a run without a point there."""
    starts, ends = curves.stretches()
    steps, losses = curves.points["step"].to_numpy(), curves.points["loss"].to_numpy(float)
    before = _leading(lambda at, runs: steps[starts[runs] + at] < step, ends - starts)
    found = np.full(starts.shape, np.nan)
    there = np.flatnonzero(before < ends - starts)
    there = there[steps[(starts + before)[there]] == step]
    found[there] = losses[(starts + before)[there]]
    return found


def common_last_step(curves: LossCurves) -> int | None:
    """The last step that most of the runs that did not diverge share; None without such a run."""
    starts, ends = curves.stretches()
    trained = (curves.runs["status"] != "diverged").to_numpy() & (ends > starts)
    last = pd.Series(curves.points["step"].to_numpy()[ends[trained] - 1])
    last = last[last > 0]
    return int(last.mode().max()) if len(last) else None
