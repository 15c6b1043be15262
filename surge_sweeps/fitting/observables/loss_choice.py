"""Losses to reach, chosen from the loss curves of a group; where none can be, the condition that fails and what to run.

A loss to reach is useful when every batch size gets there at several learning rates, and not within the first few
steps, where a step count is too coarse to tell learning rates apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from surge_sweeps.counting import counted
from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting.observables.responses import RunningMinimum

FloatArray = NDArray[np.float64]

MAX_LOSS_TARGETS = 4
#: Loss targets closer than this ratio say nearly the same.
MIN_LOSS_RATIO = 1.25
#: A loss is a target only if no batch size gets there in fewer steps than this,
MIN_STEPS = 8
#: nor before this many logged points after step 0: between the first ones the steps are not resolved.
MIN_LOGGED_POINTS = 3
#: A target needs this many learning rates that reach it, at this many batch sizes.
MIN_LEARNING_RATES = 3
MIN_BATCH_SIZES = 3
#: The highest target, as a share of the loss at the first points.
BELOW_THE_START = 0.95

#: Significant digits of a loss, as few as it takes. A batch size more is worth a third digit; a window that takes more
#: than three to find is so narrow that it holds one loss, and without its slowest batch size there may be several.
_DIGITS = (range(2, 4), range(4, 7))


def choose_losses(curves: LossCurves, lowest: RunningMinimum) -> tuple[float, ...]:
    """Up to `MAX_LOSS_TARGETS` losses, spaced geometrically, highest first, with as few digits as it takes.

    From below the loss that some batch size has after `MIN_STEPS` steps and `MIN_LOGGED_POINTS` points at its best
    learning rate, down to the lowest loss that every batch size reaches in half of the runs of `MIN_LEARNING_RATES`
    learning rates. Batch sizes that learn too little for that are left out, the worst first, as long as
    `MIN_BATCH_SIZES` remain.

    Returns:
        Empty when fewer than `MIN_BATCH_SIZES` batch sizes reach any such loss; `why_no_loss` says why.
    """
    window = _window(curves, lowest)
    if window is None:
        return ()
    for count, digits in _attempts(window.floors.size):
        low = _rounded(window.floor(count), digits, up=True)
        high = _rounded(window.ceiling(count), digits, up=False)
        if 0 < low <= high:
            return _between(low, high, digits)
    return ()


def _attempts(count: int) -> Iterator[tuple[int, int]]:
    """Numbers of batch sizes and of digits, the best pair first."""
    for digits in _DIGITS:
        for size in range(count, MIN_BATCH_SIZES - 1, -1):
            for number in digits:
                yield size, number


def why_no_loss(curves: LossCurves, lowest: RunningMinimum) -> list[str]:
    """Every condition that fails where `choose_losses` finds no loss, each with what to run."""
    last = lowest.last_losses()
    if (last <= 0).any():
        return [
            f"losses fall to {np.nanmin(last):.3g}, and losses to reach are only chosen among positive ones: give"
            " some with --target-losses"
        ]
    window = _window(curves, lowest)
    faults = [fault for fault in (_few_rates(curves), _short_runs(lowest)) if fault]
    if faults:
        return faults
    if window is None or window.floors.size < MIN_BATCH_SIZES:
        return [
            f"fewer than {MIN_BATCH_SIZES} batch sizes have {MIN_LEARNING_RATES} learning rates at which half of the"
            " runs logged a finite loss, so no loss to reach can be chosen: add smaller learning rates"
        ]
    return [_empty_window(window)]


@dataclass(frozen=True, eq=False)
class _Window:
    """What losses to reach have to lie between.

    Attributes:
        floors: batch size -> the lowest loss that half of the runs of `MIN_LEARNING_RATES` learning rates reach,
            ascending; batch sizes without one are left out.
        early: batch size -> the loss that its best learning rate has once its steps are resolved.
        resolved: batch size -> the step from which they are (the median of its runs).
        start: the loss at the first point (the median of the runs).
    """

    floors: pd.Series[float]
    early: pd.Series[float]
    resolved: pd.Series[float]
    start: float

    def floor(self, count: int) -> float:
        """The lowest loss that the `count` best batch sizes all reach."""
        return float(self.floors.iloc[count - 1])

    def ceiling(self, count: int) -> float:
        """The loss that none of them reaches too early, and that lies below the start."""
        early = float(self.early[self.floors.index[:count]].min(skipna=True))
        return min(BELOW_THE_START * self.start, early)


def _window(curves: LossCurves, lowest: RunningMinimum) -> _Window | None:
    """None where no run has a finite loss."""
    first = lowest.first_losses()
    if not np.isfinite(first).any():
        return None
    runs = curves.runs
    floors = _per_batch_size(runs, lowest.last_losses(), MIN_LEARNING_RATES)
    resolved = np.maximum(MIN_STEPS, lowest.steps_of_logged(MIN_LOGGED_POINTS))
    return _Window(
        floors[np.isfinite(floors)].sort_values(),
        _per_batch_size(runs, lowest.losses_at(resolved), 1),
        pd.Series(resolved).groupby(runs["batch_size"].to_numpy()).median(),
        float(np.median(first[np.isfinite(first)])),
    )


def _few_rates(curves: LossCurves) -> str | None:
    """That too few batch sizes have enough learning rates; None where enough have."""
    rates = curves.runs.groupby("batch_size")["lr"].nunique()
    enough = int((rates >= MIN_LEARNING_RATES).sum())
    if enough >= MIN_BATCH_SIZES:
        return None
    rates_each = f"{MIN_LEARNING_RATES} learning rates each"
    takes = f"choosing a loss to reach takes {MIN_BATCH_SIZES} batch sizes with {rates_each}"
    if not enough:
        return f"{takes}, and none has as many: add what is missing"
    have = "has" if enough == 1 else "have"
    return f"{takes}, and {enough} {have} as many: add what is missing, or name losses with --target-losses"


def _short_runs(lowest: RunningMinimum) -> str | None:
    """That no run is long enough, or logged often enough, for its steps to a loss to count; None where one is."""
    steps = lowest.last_steps()
    longest = float(np.nanmax(steps)) if np.isfinite(steps).any() else 0.0
    if longest < MIN_STEPS:
        return (
            f"no run is longer than {counted(int(longest), 'step')}, and steps to a loss count from {MIN_STEPS} on:"
            " train longer"
        )
    if np.isfinite(lowest.steps_of_logged(MIN_LOGGED_POINTS)).any():
        return None
    return (
        f"no run logged its loss {MIN_LOGGED_POINTS} times after step 0, and steps to a loss count from that point on:"
        " log more often"
    )


def _empty_window(window: _Window) -> str:
    """Why no loss lies low enough for the start and the first steps, and high enough to be reached."""
    floor, sizes = window.floor(MIN_BATCH_SIZES), window.floors.index[:MIN_BATCH_SIZES]
    reached = (
        f"no loss to reach can be chosen: {floor:.3g}, the lowest that {MIN_LEARNING_RATES} learning rates reach at"
        f" each of {MIN_BATCH_SIZES} batch sizes, is"
    )
    if floor > BELOW_THE_START * window.start:
        return (
            f"{reached} not {1 - BELOW_THE_START:.0%} below the first one logged ({window.start:.3g}): train longer, or"
            " add learning rates that learn"
        )
    early = window.early[sizes]
    size = early.index[int(np.argmin(early.to_numpy()))]
    step = float(window.resolved[size])
    if step > MIN_STEPS:
        at = f", at step {step:,.0f}" if math.isfinite(step) else ""
        return (
            f"{reached} reached at batch size {size} by the third logged point{at}, too early to tell its steps: log"
            " more often, or train longer"
        )
    return (
        f"{reached} reached at batch size {size} within {MIN_STEPS} steps, too few to tell learning rates apart: train"
        " longer, or add learning rates near the best"
    )


def _per_batch_size(runs: pd.DataFrame, losses: FloatArray, rank: int) -> pd.Series[float]:
    """Per batch size the `rank`-th lowest, over learning rates, of the loss that half of the runs reach."""
    table = pd.DataFrame(
        {
            "batch_size": runs["batch_size"],
            "lr": runs["lr"],
            "loss": np.where(np.isfinite(losses), losses, np.inf),
        }
    )
    cells = table.groupby(["batch_size", "lr"])["loss"].quantile(0.5, interpolation="higher")
    by_batch = cells.groupby(level="batch_size")
    return by_batch.apply(
        lambda cell: float(np.sort(cell.to_numpy())[rank - 1]) if len(cell) >= rank else np.inf
    )


def _between(low: float, high: float, digits: int) -> tuple[float, ...]:
    count = min(MAX_LOSS_TARGETS, 1 + int((math.log(high) - math.log(low)) / math.log(MIN_LOSS_RATIO)))
    if count == 1:
        return (low,)
    losses = np.geomspace(high, low, count)
    return tuple(dict.fromkeys(float(f"{loss:.{digits}g}") for loss in losses))


def _rounded(loss: float, digits: int, *, up: bool) -> float:
    """Round a positive loss up or down to so many significant digits; anything else stays.

    >>> _rounded(3.4254, 2, up=True), _rounded(3.4254, 3, up=True), _rounded(0.0629, 2, up=False)
    (3.5, 3.43, 0.062)
    """
    if not (0 < loss < math.inf):
        return loss
    # In text: a power of ten that scales the tiniest losses is no float.
    mantissa, exponent = f"{loss:.16e}".split("e")
    scaled = 10 ** (digits - 1) * float(mantissa)
    whole = math.ceil(scaled - 1e-9) if up else math.floor(scaled + 1e-9)
    return float(f"{whole}e{int(exponent) - digits + 1}")
