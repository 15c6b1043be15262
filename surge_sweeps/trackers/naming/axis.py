"""Choosing where a point's optimizer step comes from.

W&B's own step counts calls of `log` unless the program says otherwise, so it is used only where something shows that
it counts optimizer steps: the framework that logged it, or a counter of examples that agrees with it in every row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from surge_sweeps.curves import Problem
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.base import EXAMPLES, TOKENS
from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.counters import SAME_COUNT, Counter, Scale, agree
from surge_sweeps.trackers.naming.evidence import Evidence, ReadSeries, look_at
from surge_sweeps.trackers.naming.frameworks import Framework
from surge_sweeps.trackers.naming.given_steps import GivenStep
from surge_sweeps.trackers.naming.names import OWN_STEP, AmbiguousNameError, StepAxis
from surge_sweeps.trackers.stored_runs import StoredRun


@dataclass(frozen=True)
class ChosenAxis:
    """Where steps come from.

    Attributes:
        axis: the axis. why: in words. confirmed_by: the counter whose newest values alone say so: all its values are to
            be looked at once they are read. is_doubtful: a guess, by its name or from a counter.
        left_out: runs it does not hold for -> why, in words.
    """

    axis: StepAxis
    why: str
    confirmed_by: str | None = None
    is_doubtful: bool = False
    left_out: dict[str, str] = field(default_factory=dict)


def choose_axis(
    runs: Sequence[StoredRun],
    framework: Framework | None,
    asked: str | None,
    counters: Sequence[Counter],
    scale: Scale,
    problems: list[Problem],
    *,
    own: bool,
    given: GivenStep | None,
    read: ReadSeries,
    others: Sequence[StoredRun] = (),
    look: bool = False,
) -> ChosenAxis:
    """The step axis.

    Args:
        runs: the runs that decide, all with the loss. framework: theirs. asked: the user's choice of a metric.
        counters: metrics of theirs that count what was seen, best first. scale: what a step adds to them.
        problems: what is worth telling is added.
        own: they are of this tool's own run record. given: the program gave the store's own step, as on MLflow; None:
            the store may have counted it by itself.
        read: the rows of some runs, to see what the store's own step counts. others: further runs with the loss, which
            do not decide.
        look: at every row, even of this tool's own runs where the newest values agree.

    Raises:
        UnknownNameError: no run has the metric asked for. AmbiguousNameError: two counters of steps differ, or one is
            at odds with what the runs have seen.
        SurgeError: nothing counts optimizer steps.
    """
    names = {name for run in runs for name in run.metrics}
    if asked is not None:
        if asked != OWN_STEP and runs and asked not in names:
            raise UnknownNameError("metric", asked, names)
        return ChosenAxis(StepAxis(None if asked == OWN_STEP else asked), f"{asked}, as asked for")
    if given is not None and own and framework is None:
        given.check()
    if not runs or (given is not None and own and framework is None):
        return ChosenAxis(StepAxis(), "the store's own step")

    whole = set.intersection(*(set(run.metrics) for run in runs))
    if framework is not None:
        for axis in (*framework.steps, *([StepAxis()] if given and framework.given_step else [])):
            if axis.metric is None or axis.metric in whole:
                return ChosenAxis(axis, _of_framework(axis, framework, scale))
    evidence: dict[Counter, Evidence] = {}
    for counter in counters:
        confirmed_by = None
        # The run record's own counter is read in any case, and looked at then.
        is_read = own and counter.metric == (TOKENS if scale.counts == "tokens" else EXAMPLES)
        if is_read and not look and agree(runs, counter, scale, StepAxis()):
            confirmed_by, left_out = counter.metric, dict[str, str]()
        else:
            evidence[counter] = _look(runs, others, counter, scale, read)
            if not evidence[counter].confirms(run.run for run in runs):
                continue
            left_out = _left_out(evidence[counter].differing, counter, scale)
        lacking = sum(counter.metric not in run.metrics for run in runs)
        if lacking:
            what = f"{lacking} of {len(runs)} runs lack {counter.metric}, which confirms {OWN_STEP} in the others"
            problems.append(Problem(None, f"{what}: it is taken for the optimizer step in all"))
        why = f"{OWN_STEP}, which {counter.metric} confirms"
        return ChosenAxis(StepAxis(), why, confirmed_by, left_out=left_out)
    named = (framework is None and not own) or (given is not None and framework is not None)
    if named and (step := _step_metric(runs, whole, counters, scale)) is not None:
        if given is not None and all(run.metrics[step].value == run.metrics[step].step for run in runs):
            return ChosenAxis(StepAxis(), f"{OWN_STEP}, which {step} confirms")
        return ChosenAxis(StepAxis(step), f"{step}, by its name", is_doubtful=True)
    for counter in counters:
        if counter.metric in whole and all(scale.step_of(run, counter.counts) is not None for run in runs):
            return _from_counter(runs, counter, scale, evidence[counter], problems, own, given)
    if given is not None:
        return ChosenAxis(StepAxis(), given.why(problems))
    raise _no_axis(names, framework)


def _look(
    runs: Sequence[StoredRun],
    others: Sequence[StoredRun],
    counter: Counter,
    scale: Scale,
    read: ReadSeries,
) -> Evidence:
    counted = {run.run: run for run in (*runs, *others) if counter.metric in run.metrics}
    a_step = {run: scale.step_of(stored, counter.counts) for run, stored in counted.items()}
    known = {run: size for run, size in a_step.items() if size is not None}
    return look_at(read([counted[run] for run in known], counter.metric) if known else None, known)


def _left_out(runs: Sequence[str], counter: Counter, scale: Scale) -> dict[str, str]:
    what = f"left out: {OWN_STEP} times {scale.batch} is not {counter.metric} there, as it is in other runs"
    return dict.fromkeys(runs, what)


def _from_counter(
    runs: Sequence[StoredRun],
    counter: Counter,
    scale: Scale,
    evidence: Evidence,
    problems: list[Problem],
    own: bool,
    given: GivenStep | None,
) -> ChosenAxis:
    """A counter divided by what a step adds to it, unless the store's own step says that it adds something else.

    Raises:
        AmbiguousNameError: it does, in half of the runs or more.
    """
    divisor = str(scale.batch) + ("" if counter.counts == scale.counts else " and the sequence length")
    decisive = {run.run for run in runs}
    at_odds = sorted(decisive & evidence.per_step.keys())
    of_an_epoch = _of_an_epoch(at_odds, evidence)
    if of_an_epoch is not None and (counter.asked or (given is not None and given.counts_epochs())):
        what = (
            f"a step of {OWN_STEP} adds {of_an_epoch:g} {counter.counts} whatever the batch size, as an epoch does:"
            f" optimizer steps are read from {counter.metric}"
        )
        problems.append(Problem(None, what))
        return ChosenAxis(
            StepAxis(counter.metric, counter.counts), f"{counter.metric} / {divisor}", is_doubtful=True
        )
    if 2 * len(at_odds) >= len(decisive):
        raise _contradiction(at_odds, counter, scale, evidence, epochs=of_an_epoch is not None)
    left_out = {
        run: f"left out: {counter.metric} is {OWN_STEP} times {size:g} throughout, which is not {divisor}"
        for run, size in evidence.per_step.items()
    }
    if evidence.steps_a_row and not own:
        steps = f"{evidence.steps_a_row:g}"
        what = (
            f"rows are {steps} steps of {divisor} apart by {counter.metric}. If the program logged every step, its"
            f" batch was {steps} times as large: --batch-column '{scale.batch} * {steps}'"
        )
        problems.append(Problem(None, what))
    axis = StepAxis(counter.metric, counter.counts)
    return ChosenAxis(axis, f"{counter.metric} / {divisor}", is_doubtful=True, left_out=left_out)


def _of_an_epoch(runs: Sequence[str], evidence: Evidence) -> float | None:
    """What one step of the store adds to a counter in all of these runs, if that is one number for several batches."""
    sizes = {evidence.per_step[run] for run in runs}
    return sizes.pop() if len(sizes) == 1 and len({evidence.a_step[run] for run in runs}) > 1 else None


def _contradiction(
    runs: Sequence[str], counter: Counter, scale: Scale, evidence: Evidence, *, epochs: bool
) -> AmbiguousNameError:
    ratios = {evidence.per_step[run] / evidence.a_step[run] for run in runs}
    size = evidence.per_step[runs[0]]
    ratio = size / evidence.a_step[runs[0]]
    choices = [f"{scale.batch} * {ratio:.12g}" if len(ratios) == 1 else f"{scale.batch} * PROCESSES"]
    if scale.counts == "tokens" and scale.sequence_length not in (None, *scale.batch.keys):
        choices.insert(0, f"{scale.batch} * {scale.sequence_length}")
    return AmbiguousNameError(
        f"{counter.metric} is {OWN_STEP} times {size:g} throughout ({len(runs)} runs), and a step of {scale.batch} adds"
        f" {evidence.a_step[runs[0]]:g}: the batch of an optimizer step is another (processes or accumulation that are"
        f" not recorded), or {counter.metric} is that of one process, or {OWN_STEP} counts log calls.",
        "batch_size",
        choices,
        f" Or --step-column {OWN_STEP} if the batch size is right and {OWN_STEP} counts optimizer steps, or"
        f" --step-column with a metric that does."
        + (f" Or --examples-column {counter.metric} if {OWN_STEP} counts epochs." if epochs else ""),
    )


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
    if comparable and not agree(runs, comparable[0], scale, StepAxis(found[0]), SAME_COUNT):
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
