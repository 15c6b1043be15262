"""What one run logs, when it logs, and when it ends: one rule for the plain loop and the ensemble.

The losses go to `eval/loss` and `train/loss` by optimizer step, at steps spaced evenly in log time. A run ends when it
reaches its target loss, diverges, or uses up its budget; all three are judged at logged steps only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from surge_sweeps.curves import Status
from surge_sweeps.trackers.base import (
    BALANCE_LOSS,
    EVAL_LOSS,
    EXAMPLES,
    TOKENS,
    TRAIN_LOSS,
    RunRecord,
    Scalar,
)
from surge_sweeps.training.config import TrialConfig

#: A run whose evaluation loss exceeds this many times its first one has diverged.
DIVERGENCE_FACTOR = 100.0
#: Points of a run whose settings do not say how many, and steps of which every one is then logged.
LOG_POINTS = 150
EVERY_STEP_UP_TO = 50

OnPoint = Callable[[int, Mapping[str, float]], None]


def log_steps(max_steps: int, points: int | None = None) -> tuple[int, ...]:
    """The steps that are logged: 0, the last one, and at most `points` in all, evenly spaced in log time.

    Args:
        points: at least 2; None: `LOG_POINTS`, or every step of a run of at most `EVERY_STEP_UP_TO`.

    >>> log_steps(5), log_steps(20, points=5)
    ((0, 1, 2, 3, 4, 5), (0, 1, 3, 7, 20))
    >>> steps = log_steps(100_000)
    >>> steps[:4], steps[-1], len(steps) <= 150
    ((0, 1, 2, 3), 100000, True)
    """
    every_step_up_to = EVERY_STEP_UP_TO if points is None else points - 1
    if max_steps <= every_step_up_to:
        return tuple(range(max_steps + 1))
    # From the end, which is there however few they are.
    spaced = np.rint(np.geomspace(max_steps, 1, (points or LOG_POINTS) - 1)).astype(int)
    return (0, *(int(step) for step in np.unique(spaced)))


class Trace:
    """The points of one run so far and, once it has ended, its status.

    Args:
        config: the run's settings.
        start_loss: evaluation loss at step 0, which is logged at once.
        start_checkpoint: content hash of the checkpoint it branched from; None from scratch.
        on_point: called with every point as it is logged.
        logged: the steps to log; default `log_steps`. After a target that the run goes on from, those of
            `steps_after_target` are logged likewise.

    Attributes:
        status: None as long as the run goes on.
    """

    def __init__(
        self,
        config: TrialConfig,
        start_loss: float,
        start_checkpoint: str | None = None,
        on_point: OnPoint | None = None,
        logged: Sequence[int] | None = None,
    ) -> None:
        self.config = config
        self.status: Status | None = None
        self.start_loss = start_loss
        self._logged = logged or log_steps(config.steps, config.log_points)
        self._last_of_run = config.steps
        self._reached = False
        self._start_checkpoint = start_checkpoint
        self._on_point = on_point
        self._last_finite_step: int | None = None
        self._metrics: dict[str, list[tuple[int, float]]] = {EVAL_LOSS: [], TRAIN_LOSS: [], EXAMPLES: []}
        self._tokens_per_example = config.settings.sequence_length
        self.add(0, start_loss, None)

    def add(
        self, step: int, eval_loss: float, train_loss: float | None, balance_loss: float | None = None
    ) -> None:
        """Log one point and decide whether the run ends here.

        Args:
            step: optimizer steps done.
            eval_loss: mean loss over the whole held-out set after that step.
            train_loss: mean minibatch loss, each before its update, since the last logged point; None at step 0.
            balance_loss: likewise, the mean of what a model adds to the loss of training; None where it adds nothing.
        """
        values = {EVAL_LOSS: eval_loss, EXAMPLES: float(step * self.config.batch_size)}
        if self._tokens_per_example is not None:
            values[TOKENS] = values[EXAMPLES] * self._tokens_per_example
        if train_loss is not None:
            values[TRAIN_LOSS] = train_loss
        if balance_loss is not None:
            values[BALANCE_LOSS] = balance_loss
        for name, value in values.items():
            self._metrics.setdefault(name, []).append((step, value))
        if self._on_point is not None:
            self._on_point(step, values)

        if self._diverged(eval_loss, train_loss):
            self.status = "diverged"
            return
        self._last_finite_step = step
        target = self.config.target_loss
        if target is not None and not self._reached and eval_loss <= target:
            self._reached = True
            after = self.config.steps_after_target or 0
            self._last_of_run = step + after
            # Where the budget ends before, the run is cut short.
            last = min(self._last_of_run, self.config.steps)
            logged = log_steps(after, self.config.log_points)
            self._logged = [*(step + more for more in logged if step + more < last), last]
        if self._reached and step == self._last_of_run:
            self.status = "finished"
        elif step == self.config.steps:
            self.status = "finished" if target is None else "capped"

    @property
    def next_step(self) -> int:
        """The step to log next, of a run that goes on."""
        return self._logged[bisect_right(self._logged, self.last_step)]

    def points(self) -> list[tuple[int, float, float | None, float | None]]:
        """The points so far, as `add` takes them: step, evaluation loss, training loss, balance loss."""
        train, balance = dict(self._metrics[TRAIN_LOSS]), dict(self._metrics.get(BALANCE_LOSS, ()))
        return [(step, loss, train.get(step), balance.get(step)) for step, loss in self._metrics[EVAL_LOSS]]

    @property
    def last_step(self) -> int:
        """The last logged step."""
        return self._metrics[EVAL_LOSS][-1][0]

    @property
    def last_eval_loss(self) -> float:
        """The evaluation loss logged last."""
        return self._metrics[EVAL_LOSS][-1][1]

    def summary(self) -> dict[str, Scalar]:
        """What is known at the end: `last_finite_step` of a diverged run, where a branch started."""
        summary: dict[str, Scalar] = self.config.summary()
        if self.status == "diverged" and self._last_finite_step is not None:
            summary["last_finite_step"] = self._last_finite_step
        if self._start_checkpoint is not None:
            summary["start_checkpoint"] = self._start_checkpoint
            summary["start_loss"] = self.start_loss
        return summary

    def run_record(self, trial_id: str, data_digest: str | None = None) -> RunRecord:
        """The run, whole. A run that has not ended is `crashed`."""
        config = self.config.record()
        if data_digest is not None:
            config["data_digest"] = data_digest
        if self._start_checkpoint is not None:
            config["start_checkpoint"] = self._start_checkpoint
        return RunRecord(config, trial_id, self.status or "crashed", self._metrics, self.summary())

    def _diverged(self, eval_loss: float, train_loss: float | None) -> bool:
        finite = math.isfinite(eval_loss) and (train_loss is None or math.isfinite(train_loss))
        return not finite or eval_loss > DIVERGENCE_FACTOR * self.start_loss
