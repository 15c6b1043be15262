"""Targets of one kind under one heading: what "best" means there, in words, and what was measured in a cell.

A table with one number a run does not tell where its runs started, so its targets have no start.
"""

from __future__ import annotations

from typing import NamedTuple

from surge_sweeps.counting import counted
from surge_sweeps.fitting.result import TargetFit
from surge_sweeps.report.numbers import loss_text

_STARTS = {
    "scratch": ", from scratch",
    "crossing": ", from where each run crossed the loss",
    "checkpoint": ", from a common checkpoint",
}


class Family(NamedTuple):
    """What the targets of one kind share: they differ in their loss alone."""

    protocol: str
    start: str | None
    horizon_steps: int | None

    def title(self) -> str:
        """What "optimal" means here.

        >>> Family("gain", "checkpoint", 10).title()
        'Largest loss decrease over the next 10 steps, from a common checkpoint'
        >>> Family("gain", None, 1).title(), Family("gain", None, None).title()
        ('Largest loss decrease over the next step', 'Largest loss decrease over a fixed number of steps')
        """
        horizon = self.horizon_steps
        steps = "a fixed number of steps"
        if horizon is not None:
            steps = "the next step" if horizon == 1 else f"the next {counted(horizon, 'step')}"
        start = _STARTS.get(self.start or "", "")
        return {
            "reach": f"Fewest steps to a loss{start}",
            "gain": f"Largest loss decrease over {steps}{start}",
            "final": "Lowest final loss" + (f" after {counted(horizon, 'step')}" if horizon else "") + start,
            "steps": f"Fewest steps to the goal{start}",
            "given": f"Tuned learning rates, as given{start}",
        }[self.protocol]

    def response(self) -> str:
        """What was measured in one cell of learning rate and batch size.

        >>> Family("reach", "scratch", None).response(), Family("final", None, None).response()
        ('steps to the loss', 'final loss')
        """
        horizon = f" over {counted(self.horizon_steps, 'step')}" if self.horizon_steps else ""
        return {
            "reach": "steps to the loss",
            "gain": f"loss decrease{horizon}",
            "final": "final loss",
            "steps": "steps to the goal",
            "given": "learning rate",
        }[self.protocol]

    def counts_steps(self) -> bool:
        """Whether fewer steps are better here: only then is there a trade-off between steps and examples."""
        return self.protocol in ("reach", "steps")


def family_of(target: TargetFit) -> Family:
    """The family a target belongs to."""
    return Family(target.protocol, target.start, target.horizon_steps)


def target_label(target: TargetFit) -> str:
    """A target among those of its family: its loss, or what it is.

    A checkpoint's loss is where the further steps start; otherwise the loss is the one to reach.
    """
    if target.loss is not None:
        return f"loss {loss_text(target.loss)}"
    return "tuned learning rates" if target.protocol == "given" else family_of(target).response()


def is_tuned(target: TargetFit) -> bool:
    """Whether its learning rates came tuned, so that no run was made to find them."""
    return target.protocol == "given" or any(one.status == "given" for one in target.optimal_lr)


def has_rates(target: TargetFit) -> bool:
    """Whether learning rates are part of it at all; a table of steps to a goal may hold none."""
    return not target.optimal_lr or any(
        one.lr is not None or one.status != "given" for one in target.optimal_lr
    )


def from_table(target: TargetFit) -> bool:
    """Whether it is one number a run, from a table: nothing is known of the training before or after."""
    return target.start is None
