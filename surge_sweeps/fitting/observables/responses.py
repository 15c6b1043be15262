"""What each run says about a target: the steps it took to a loss, or the loss it gained over a fixed horizon.

Everything here is per run and vectorised over runs; choosing targets is `targets`, tabling by batch size and learning
rate is `cells`. A run that never reached a loss is censored: it took more steps than it had, and that is all it says.
Protocols: steps to a loss as in McCandlish et al. 2018 (arXiv 1812.06162); the loss decrease after a fixed number of
further steps as in Li et al. 2024 (arXiv 2405.14578, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.curves import LossCurves

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: A training loss is a noisy estimate of the loss, so it is averaged over this many logged points before a crossing
#: is sought. A loss on one fixed held-out set is taken as it is.
TRAIN_LOSS_POINTS = 5


#: A loss, gain or step count larger than this is no result: it counts as infinite.
HUGE = 1e60


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
        steps, losses: (n_points,) of all runs, one run after the other; losses never rise within a run.
        starts: (n_runs + 1,) where each run's points begin; a run without points has an empty stretch.
    """

    steps: FloatArray
    losses: FloatArray
    starts: NDArray[np.int64]

    def first_losses(self) -> FloatArray:
        """(n_runs,) the loss at each run's first point, NaN for a run without points."""
        return self._at(self.starts[:-1])

    def last_losses(self) -> FloatArray:
        """(n_runs,) the lowest loss each run ever had, NaN for a run without points."""
        return self._at(self.starts[1:] - 1)

    def first_steps(self) -> FloatArray:
        """(n_runs,) the step of each run's first point, NaN for a run without points."""
        return self._pick(self.steps, self.starts[:-1])

    def last_steps(self) -> FloatArray:
        """(n_runs,) the step of each run's last point, NaN for a run without points."""
        return self._pick(self.steps, self.starts[1:] - 1)

    def steps_of_logged(self, number: int) -> FloatArray:
        """(n_runs,) the step of each run's `number`-th point after step 0, infinite for a run with fewer."""
        at_zero = _count_per_run(self.steps <= 0, self.starts)
        positions = self.starts[:-1] + at_zero + number - 1
        return np.where(positions < self.starts[1:], self._pick(self.steps, positions), np.inf)

    def losses_at(self, step: float | FloatArray) -> FloatArray:
        """(n_runs,) the lowest loss each run had up to `step`, one or (n_runs,); NaN without a point by then."""
        limits = np.repeat(np.broadcast_to(step, self.starts.size - 1), np.diff(self.starts))
        done = _count_per_run(self.steps <= limits, self.starts)
        losses = self._at(self.starts[:-1] + done - 1)
        losses[done == 0] = np.nan
        return losses

    def _at(self, positions: NDArray[np.int64]) -> FloatArray:
        return self._pick(self.losses, positions)

    def _pick(self, of_points: FloatArray, positions: NDArray[np.int64]) -> FloatArray:
        if not of_points.size:
            return np.full(positions.shape, np.nan)
        empty = np.diff(self.starts) == 0
        return np.where(empty, np.nan, of_points[np.clip(positions, 0, of_points.size - 1)])


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
    points = curves.points
    starts = point_starts(curves)
    lowest = smoothed_losses(curves).groupby(points["run"], sort=False).cummin()
    return RunningMinimum(points["step"].to_numpy(float), np.asarray(lowest, dtype=float), starts)


def smoothed_losses(curves: LossCurves) -> pd.Series[float]:
    """The loss of every point, a training loss averaged over `TRAIN_LOSS_POINTS`; NaN and `HUGE` become inf."""
    points = curves.points
    loss = points["loss"].where(points["loss"].abs() < HUGE, np.inf)
    if "train" in curves.loss_name.lower():
        finite = loss.where(np.isfinite(loss))
        rolling = finite.groupby(points["run"], sort=False).rolling(TRAIN_LOSS_POINTS, min_periods=1).mean()
        smooth = rolling.reset_index(level=0, drop=True).sort_index()
        loss = smooth.where(np.isfinite(loss) & smooth.notna(), np.inf)
    return loss


def interpolated_losses(curves: LossCurves, steps: FloatArray) -> FloatArray:
    """(n_runs,) the smoothed loss of each run at its (n_runs,) step, linear between points.

    NaN where the step is NaN, lies outside the run's points, or one of the points beside it is not finite.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"run": ["a"], "lr": [0.1], "batch_size": [8], "seed": [0], "status": ["finished"]})
    >>> points = pd.DataFrame({"run": "a", "step": [0, 10], "examples": [0.0, 80], "loss": [3.0, 1.0]})
    >>> interpolated_losses(LossCurves(runs, points), np.array([5.0]))
    array([2.])
    """
    starts = point_starts(curves)
    at, loss = curves.points["step"].to_numpy(float), smoothed_losses(curves).to_numpy(float)
    result = np.full(steps.shape, np.nan)
    for run in np.flatnonzero(np.isfinite(steps)):
        part = slice(starts[run], starts[run + 1])
        value = (
            np.interp(steps[run], at[part], loss[part], left=np.nan, right=np.nan)
            if at[part].size
            else np.nan
        )
        result[run] = value if np.isfinite(value) else np.nan
    return result


def point_starts(curves: LossCurves) -> NDArray[np.int64]:
    """(n_runs + 1,) where each run's points begin in `curves.points`; both tables are sorted by run."""
    counts = curves.points["run"].value_counts()
    per_run = counts.reindex(curves.runs["run"], fill_value=0).to_numpy(np.int64)
    return np.concatenate([[0], np.cumsum(per_run)]).astype(np.int64)


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
    starts, ends = lowest.starts[:-1], lowest.starts[1:]
    before = _count_per_run(lowest.losses > target, lowest.starts)
    crossed = (before > 0) & (before < ends - starts)
    result = np.full(starts.shape, np.nan)
    first_steps = lowest.first_steps()
    there = (before == 0) & (first_steps > 0)
    result[there] = np.log(first_steps[there])
    after = (starts + before)[crossed]
    step_0, step_1 = lowest.steps[after - 1], lowest.steps[after]
    loss_0, loss_1 = lowest.losses[after - 1], lowest.losses[after]
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
    at_end = curves.points[curves.points["step"] == horizon_steps].set_index("run")["loss"]
    end = at_end.reindex(curves.runs["run"]).to_numpy(float)
    gain = curves.runs["start_loss"].to_numpy(float, na_value=np.nan) - end
    gain = np.where(np.abs(gain) < HUGE, gain, np.nan)[:, None]
    return Responses(gain, np.isnan(gain))


def common_last_step(curves: LossCurves) -> int | None:
    """The last step that most of the runs that did not diverge share; None without such a run."""
    ended = curves.runs.loc[curves.runs["status"] != "diverged", "run"]
    last = curves.points.groupby("run")["step"].max().reindex(ended).dropna()
    last = last[last > 0]
    return int(last.mode().max()) if len(last) else None


def _count_per_run(flags: BoolArray, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.concatenate([[0], np.cumsum(flags)])
    return np.asarray(total[starts[1:]] - total[starts[:-1]], dtype=np.int64)
