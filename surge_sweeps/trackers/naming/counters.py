"""Metrics that count what a run has seen, and what an optimizer step adds to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from surge_sweeps.errors import UnknownNameError
from surge_sweeps.trackers.base import EXAMPLES, TOKENS
from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.frameworks import Framework
from surge_sweeps.trackers.naming.names import AmbiguousNameError, Counts, Product, StepAxis, number
from surge_sweeps.trackers.stored_runs import StoredRun

#: A counter this close to steps times batch size tells nothing more than these; a batch that grew is further off.
SAME_COUNT = 0.01


@dataclass(frozen=True)
class Scale:
    """What a step amounts to.

    Attributes:
        batch: the batch size. counts: what it counts. sequence_length: the setting with the tokens of an example.
    """

    batch: Product
    counts: Counts
    sequence_length: str | None

    def step_of(self, run: StoredRun, counts: Counts) -> float | None:
        """How many of `counts` a step of the run adds; None where unknown."""
        batch = self.batch.of(run.params)
        if batch is None or counts == self.counts:
            return batch
        length = None if self.sequence_length is None else number(run.params.get(self.sequence_length))
        if length is None or not 0 < length < math.inf:
            return None
        return batch * length if counts == "tokens" else batch / length


@dataclass(frozen=True)
class Counter:
    """A metric and what it counts: examples or tokens; whether the user named it."""

    metric: str
    counts: Counts
    asked: bool = field(default=False, compare=False)


def check_batch_unit(runs: Sequence[StoredRun], scale: Scale) -> None:
    """Refuse batches of tokens that are no whole number of sequences.

    Args:
        runs: those that decide. scale: its batch size found by its name alone.

    Raises:
        AmbiguousNameError: the batch size seems to count sequences.
    """
    length = scale.sequence_length
    if scale.counts != "tokens" or length is None or length in scale.batch.keys:
        return
    for run in runs:
        batch, tokens = scale.batch.of(run.params), number(run.params.get(length))
        if batch is not None and tokens and math.isfinite(batch) and batch % tokens:
            raise AmbiguousNameError(
                f"batches are to count tokens, and {scale.batch} is {batch:g} where a sequence has {tokens:g}"
                f" ({length}).",
                "batch_size",
                [f"{scale.batch} * {length}", str(scale.batch)],
                " Or leave --batch-unit tokens away.",
            )


def counters_of(
    runs: Sequence[StoredRun], framework: Framework | None, asked: str | None, batch_unit: str
) -> list[Counter]:
    """The metrics that count what the runs have seen, those in the batch unit first, the user's before all.

    Raises:
        UnknownNameError: no run has the metric asked for.
    """
    names = {name for run in runs for name in run.metrics}
    if asked is not None and runs and asked not in names:
        raise UnknownNameError("metric", asked, names)
    examples = [EXAMPLES, *(framework.examples if framework else ()), *aliases.EXAMPLES]
    tokens = [TOKENS, *(framework.tokens if framework else ()), *aliases.TOKENS]
    found = [Counter(name, "examples") for name in examples] + [Counter(name, "tokens") for name in tokens]
    unit: Counts = "tokens" if batch_unit == "tokens" else "examples"
    found.sort(key=lambda counter: counter.counts != unit)
    named = [Counter(asked, unit, asked=True)] if asked is not None else []
    return [counter for counter in dict.fromkeys(named + found) if counter.metric in names]


def tells_nothing_more(runs: Sequence[StoredRun], counter: Counter, axis: StepAxis, scale: Scale) -> bool:
    """Whether a counter is steps times batch size in every run that has it, as far as the newest points tell."""
    if axis == StepAxis(counter.metric, counter.counts):
        return True
    return axis.counts == "steps" and agree(runs, counter, scale, axis, SAME_COUNT)


def agree(
    runs: Sequence[StoredRun], counter: Counter, scale: Scale, axis: StepAxis, tolerance: float = 0.0
) -> bool:
    """Whether newest step times batch size is the counter in every run that has one, and one at least has."""
    compared = 0
    for run in runs:
        if counter.metric not in run.metrics:
            continue
        seen = run.metrics[counter.metric]
        step = seen.step if axis.metric is None else run.metrics[axis.metric].value
        a_step = scale.step_of(run, counter.counts)
        if a_step is None or not math.isclose(step * a_step, seen.value, rel_tol=max(tolerance, 1e-9)):
            return False
        # At step 0 every count agrees with every other.
        compared += seen.value > 0
    return compared > 0
