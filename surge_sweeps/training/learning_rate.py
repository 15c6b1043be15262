"""The learning rate of a step as a share of the run's peak: a warm-up, then a schedule over the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from surge_sweeps.errors import TrainingError, UnknownNameError


def _constant(step: int, warmup: float, steps: int) -> float:
    return 1.0


def _left(step: int, warmup: float, steps: int) -> float:
    """The share of the steps behind the warm-up that are still to do, this one among them."""
    return (steps - step) / (steps - warmup) if step > warmup else 1.0


def _cosine(step: int, warmup: float, steps: int) -> float:
    # (1 + cos(pi (1 - left))) / 2, in the form that does not cancel to 0 before the last step.
    return math.sin(math.pi / 2 * _left(step, warmup, steps)) ** 2


def _inverse_sqrt(step: int, warmup: float, steps: int) -> float:
    return min(1.0, math.sqrt(max(warmup, 1.0) / (step + 1)))


#: Each schedule: its share of the peak at (step, length of the warm-up in steps, steps of the budget).
SCHEDULES: Mapping[str, Callable[[int, float, int], float]] = {
    "constant": _constant,
    "linear": _left,
    "cosine": _cosine,
    "inverse-sqrt": _inverse_sqrt,
}


def check_schedule(
    schedule: str, *, batch_size: int, steps: int, warmup_steps: int | None, warmup_examples: int | None
) -> None:
    """See that the settings of `multiplier` can be used.

    Raises:
        UnknownNameError: unknown schedule.
        TrainingError: both warm-ups are given, or one that is negative or longer than the budget.
    """
    if schedule not in SCHEDULES:
        raise UnknownNameError("schedule", schedule, SCHEDULES)
    if warmup_steps is not None and warmup_examples is not None:
        raise TrainingError(
            "warmup_steps and warmup_examples are both given.",
            "Give one: so many steps at every batch size, or so many examples.",
        )
    for name, value, budget in (
        ("warmup_steps", warmup_steps, steps),
        ("warmup_examples", warmup_examples, steps * batch_size),
    ):
        if value is not None and value < 0:
            raise TrainingError(f"{name} is {value}.", "Give 0 for no warm-up, or a positive number.")
        if value is not None and value > budget:
            raise TrainingError(
                f"{name} is {value}, longer than the whole run of {budget}.",
                "Shorten the warm-up, or give the run a larger budget.",
            )


def multiplier(
    schedule: str,
    step: int,
    *,
    batch_size: int,
    steps: int,
    warmup_steps: int | None,
    warmup_examples: int | None,
) -> float:
    """The learning rate of one update as a share of the run's peak learning rate, in (0, 1].

    With w the length of the warm-up in steps (`warmup_examples` / `batch_size` where examples are given, whole or
    not; 0 without one), N the budget and t = step + 1 the number of the update, it is the smaller of t / w and

        constant      1
        linear        (N - step) / (N - w) from step w on: 1 there, and 0 after the last update
        cosine        (1 + cos(pi (step - w) / (N - w))) / 2 from step w on, the same ends
        inverse-sqrt  sqrt(max(w, 1) / t); with t / w this is Vaswani et al. 2017, arXiv 1706.03762, eq. 3, peak 1

    No update is wasted on a learning rate of 0. With `warmup_examples` (and a budget in examples) the learning rate is
    the same function of the examples seen at every batch size, up to the length of one step.

    Args:
        schedule: a name in `SCHEDULES`. step: updates done before this one, 0 <= step < steps.
        batch_size: examples a step. steps: updates in the budget.
        warmup_steps, warmup_examples: length of the warm-up; at most one of them; None: no warm-up.

    Raises:
        UnknownNameError, TrainingError: see `check_schedule`; or the step lies outside the budget.

    >>> rates = [
    ...     multiplier("linear", step, batch_size=8, steps=6, warmup_steps=2, warmup_examples=None)
    ...     for step in range(6)
    ... ]
    >>> rates
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> multiplier("constant", 0, batch_size=32, steps=100, warmup_steps=None, warmup_examples=128)
    0.25
    """
    check_schedule(
        schedule,
        batch_size=batch_size,
        steps=steps,
        warmup_steps=warmup_steps,
        warmup_examples=warmup_examples,
    )
    if not 0 <= step < steps:
        raise TrainingError(f"step {step} is not in a budget of {steps} steps.", "Count steps from 0.")
    warmup = warmup_examples / batch_size if warmup_examples is not None else float(warmup_steps or 0)
    rise = (step + 1) / warmup if warmup > step + 1 else 1.0
    return min(rise, SCHEDULES[schedule](step, warmup, steps))
