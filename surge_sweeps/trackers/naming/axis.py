"""Choosing where a point's optimizer step comes from.

W&B's own step counts calls of `log` unless the program says otherwise, so it is used only where something shows that
it counts optimizer steps: the framework that logged it, or a counter of examples that agrees with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from surge_sweeps.curve_cache import Series
from surge_sweeps.curves import Problem
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.base import EXAMPLES, TOKENS
from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.frameworks import Framework
from surge_sweeps.trackers.naming.names import OWN_STEP, AmbiguousNameError, Counts, Product, StepAxis, number
from surge_sweeps.trackers.stored_runs import StoredRun

#: Reads the series of a metric of some runs, by the store's own step.
ReadSeries = Callable[[Sequence[StoredRun], str], Series]

#: So many runs whose newest values do not confirm a step are looked at point by point.
_LOOKED_AT = 5
#: A counter this close to steps times batch size tells nothing more than these; a batch that grew is further off.
_SAME_COUNT = 0.01


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
    """A metric and what it counts: examples or tokens."""

    metric: str
    counts: Counts


def choose_axis(
    runs: Sequence[StoredRun],
    framework: Framework | None,
    asked: str | None,
    counters: Sequence[Counter],
    scale: Scale,
    problems: list[Problem],
    *,
    own: bool,
    trusted: bool,
    read: ReadSeries,
) -> tuple[StepAxis, str]:
    """The step axis, and why in words.

    Args:
        runs: the runs that decide, all with the loss. framework: theirs. asked: the user's choice of a metric.
        counters: metrics of theirs that count what was seen, best first. scale: what a step adds to them.
        problems: what is worth telling is added.
        own: they are of this tool's own run record. trusted: the store's own step is the optimizer step in any case.
        read: looks at a few runs' points, where their newest values leave it open what the store's own step counts.

    Raises:
        UnknownNameError: no run has the metric asked for. AmbiguousNameError: two counters of steps differ, or one is
            at odds with what the runs have seen.
        SurgeError: nothing counts optimizer steps.
    """
    names = {name for run in runs for name in run.metrics}
    if asked is not None:
        if asked != OWN_STEP and runs and asked not in names:
            raise UnknownNameError("metric", asked, names)
        return StepAxis(None if asked == OWN_STEP else asked), f"{asked}, as asked for"
    if trusted or not runs:
        return StepAxis(), "the store's own step"

    whole = set.intersection(*(set(run.metrics) for run in runs))
    if framework is not None:
        for axis in framework.steps:
            if axis.metric is None or axis.metric in whole:
                return axis, _of_framework(axis, framework, scale)
    for counter in counters:
        if _confirms(runs, counter, scale, read):
            lacking = sum(counter.metric not in run.metrics for run in runs)
            if lacking:
                what = f"{lacking} of {len(runs)} runs lack {counter.metric}, which confirms {OWN_STEP} in the others"
                problems.append(Problem(None, f"{what}: it is taken for the optimizer step in all"))
            return StepAxis(), f"{OWN_STEP}, which {counter.metric} confirms"
    if framework is None and not own and (step := _step_metric(runs, whole, counters, scale)) is not None:
        return StepAxis(step), f"{step}, by its name"
    for counter in counters:
        if counter.metric in whole and all(scale.step_of(run, counter.counts) is not None for run in runs):
            divisor = str(scale.batch) + (
                "" if counter.counts == scale.counts else " and the sequence length"
            )
            return StepAxis(counter.metric, counter.counts), f"{counter.metric} / {divisor}"
    raise _no_axis(names, framework)


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
    named = [Counter(asked, unit)] if asked is not None else []
    return [counter for counter in dict.fromkeys(named + found) if counter.metric in names]


def tells_nothing_more(runs: Sequence[StoredRun], counter: Counter, axis: StepAxis, scale: Scale) -> bool:
    """Whether a counter is steps times batch size in every run that has it, as far as the newest points tell."""
    if axis == StepAxis(counter.metric, counter.counts):
        return True
    return axis.counts == "steps" and _agree(runs, counter, scale, axis, _SAME_COUNT)


def _confirms(runs: Sequence[StoredRun], counter: Counter, scale: Scale, read: ReadSeries) -> bool:
    """Whether the store's own step times batch size is the counter in every run that has one.

    The newest values tell, unless a run ended with rows that lack the counter: W&B knows a run's last step alone, not
    that of each metric.
    """
    # At count 0 every step agrees with every other.
    counted = [
        run for run in runs if counter.metric in run.metrics and run.metrics[counter.metric].value != 0
    ]
    open_ = [run for run in counted if not _agree([run], counter, scale, StepAxis())]
    if not open_:
        return bool(counted)
    looked_at = {run.run: run for run in open_[:_LOOKED_AT]}
    series = read(list(looked_at.values()), counter.metric)
    a_step = [scale.step_of(looked_at[run], counter.counts) or math.nan for run in series.runs]
    expected = series.step * np.array(a_step)[series.run_index()]
    return bool((series.value > 0).any()) and np.allclose(expected, series.value, rtol=1e-9, atol=0.0)


def _agree(
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


def _step_metric(
    runs: Sequence[StoredRun], whole: set[str], counters: Sequence[Counter], scale: Scale
) -> str | None:
    found = [
        name
        for name in aliases.STEPS
        if name in whole and all(_is_count(run.metrics[name].value) for run in runs)
    ]
    for other in found[1:]:
        if any(run.metrics[other].value != run.metrics[found[0]].value for run in runs):
            raise AmbiguousNameError(
                f"{found[0]!r} and {other!r} may each count optimizer steps, and they differ.",
                "step",
                [found[0], other, OWN_STEP],
            )
    if not found:
        return None
    comparable = [
        counter for counter in counters if counter.metric in whole and counter.counts == scale.counts
    ]
    if comparable and not _agree(runs, comparable[0], scale, StepAxis(found[0]), _SAME_COUNT):
        raise AmbiguousNameError(
            f"{found[0]!r} times {scale.batch} is not {comparable[0].metric!r}, so one of them is not what it seems.",
            "step",
            [found[0], OWN_STEP],
            f" Or let {comparable[0].metric!r} decide: --examples-column {comparable[0].metric}.",
        )
    return found[0]


def _is_count(value: float) -> bool:
    return math.isfinite(value) and value >= 0 and value == int(value)


def _of_framework(axis: StepAxis, framework: Framework, scale: Scale) -> str:
    name = axis.metric or OWN_STEP
    return (
        f"{name} ({framework.name})"
        if axis.counts == "steps"
        else f"{name} / {scale.batch} ({framework.name})"
    )


def _no_axis(names: set[str], framework: Framework | None) -> SurgeError:
    counters = sorted(name for name in names if aliases.LOOKS_LIKE_COUNTER.search(name))
    why = framework.no_steps if framework and framework.no_steps else "no metric does so for certain"
    listed = f"These look like counters: {', '.join(counters)}. " if counters else ""
    return SurgeError(
        f"nothing tells which optimizer step a row belongs to: {OWN_STEP} may count log calls, and {why}.",
        f"{listed}Give --step-column METRIC, or --examples-column METRIC for one that counts examples, or "
        f"--step-column {OWN_STEP} if the program logs once an optimizer step or gives it as step.",
    )
