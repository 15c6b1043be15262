"""Choosing all names of a project at once: `choose_names`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from surge_sweeps.counting import counted
from surge_sweeps.curves import Problem
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.axis import choose_axis
from surge_sweeps.trackers.naming.batch import choose_batch
from surge_sweeps.trackers.naming.counters import (
    Counter,
    Scale,
    check_batch_unit,
    counters_of,
    tells_nothing_more,
)
from surge_sweeps.trackers.naming.evidence import ReadSeries
from surge_sweeps.trackers.naming.frameworks import PROCESS_KEYS, Framework
from surge_sweeps.trackers.naming.given_steps import GivenStep
from surge_sweeps.trackers.naming.kinds import OWN_RECORD, LoggedBy, logged_by, others_left_out, vote
from surge_sweeps.trackers.naming.losses import CountPoints, choose_loss, deciding_runs
from surge_sweeps.trackers.naming.names import (
    ReadNames,
    StepAxis,
    number,
    unit_metric,
)
from surge_sweeps.trackers.naming.nested import refuse_maximized, without_curve, without_loss
from surge_sweeps.trackers.naming.parameters import (
    Settings,
    choose_lr,
    choose_seed,
    choose_sequence_length,
)
from surge_sweeps.trackers.naming.schedules import schedule_problems
from surge_sweeps.trackers.stored_runs import StoredRun


def choose_names(
    stored: Sequence[StoredRun],
    options: ReadOptions,
    *,
    own_step: bool,
    read: ReadSeries,
    count: CountPoints | None = None,
    look: bool = False,
) -> ReadNames:
    """What a project's runs call the things that are read.

    What the user named decides; then this tool's own run record, where runs have it; then the framework whose metrics
    most runs have; then names in common use. One set of names serves the whole project: runs that lack them are left
    out by whoever reads.

    Args:
        stored: every run. options: what the user named, and the batch unit.
        own_step: the store's own step is one that the program gave with each point.
        read: the series of some runs, for a look at what the store's own step counts.
        count: how many points of a metric runs have; without it no loss is passed over for having one a run.
        look: at every row of every run, whatever the newest values say.

    Raises:
        UnknownNameError: a name asked for that no run has, or nothing of a known name.
        AmbiguousNameError: several names that are not the same thing; the message lists them and the flag to give.
        SurgeError: nothing tells the optimizer step.
    """
    everything = stored
    parents = without_loss(stored, options.loss)
    stored = [run for run in stored if run.run not in parents]
    kinds = {run.run: logged_by(run) for run in stored}
    kind, voters = vote(stored, kinds, options)
    settings = Settings(voters, kind.own, kind.framework)
    problems: list[Problem] = []
    lr = choose_lr(settings, options.lr, problems)
    seed = choose_seed(settings, options.seed)
    batch = choose_batch(settings, options.batch_size, options.batch_unit, problems)
    length = choose_sequence_length(settings)

    usable = [
        run for run in voters if number(run.params.get(lr)) is not None and batch.of(run.params) is not None
    ]
    loss = choose_loss(usable, kind.framework, options.loss, kind.own, problems, count)
    parents |= without_curve(usable, loss, read, problems)
    usable = [run for run in usable if run.run not in parents]
    decisive = [run for run in deciding_runs(usable) if loss in run.metrics]
    deciding = {run.run for run in decisive}
    scale = Scale(batch, "tokens" if options.batch_unit == "tokens" else "examples", length)
    counters = counters_of(decisive, kind.framework, options.examples, options.batch_unit)
    if options.batch_size is None:
        check_batch_unit(decisive, scale)
    chosen = choose_axis(
        decisive,
        kind.framework,
        options.step,
        counters,
        scale,
        problems,
        own=kind.own,
        given=GivenStep(decisive, loss, kind.framework, kind.record, read) if own_step else None,
        read=read,
        others=[run for run in usable if loss in run.metrics and run.run not in deciding],
        look=look,
    )
    problems += schedule_problems(decisive)
    if kind.framework is not None and kind.framework.caveat and chosen.axis in kind.framework.steps:
        problems.append(Problem(None, kind.framework.caveat))
    if kind.framework is not None and kind.framework.prunes and options.loss is None:
        refuse_maximized(usable, everything, loss)
    problems += _search_problems(usable, loss, kind.framework)
    seen = _seen(decisive, kind.framework, counters, chosen.axis, scale, options)
    names = ReadNames(
        loss=loss,
        lr=lr,
        batch=batch,
        seed=seed,
        step=chosen.axis,
        batch_counts=scale.counts,
        sequence_length=length,
        examples=seen,
        ignored=_ignored(settings, lr, seed, batch.keys),
        foreign=not kind.own,
        problems=tuple(problems),
        left_out=parents
        | (
            {}
            if (own_step and kind.own) or options.step is not None
            else chosen.left_out | others_left_out(kinds, kind)
        ),
        confirmed_by=chosen.confirmed_by,
        doubtful_step=chosen.is_doubtful,
    )
    return replace(names, read_as=_in_words(names, kind, chosen.why, settings)) if stored else names


def _search_problems(runs: Sequence[StoredRun], loss: str, framework: Framework | None) -> list[Problem]:
    """What the framework that ran a search leaves to be known of its trials."""
    if framework is None:
        return []
    found = [Problem(None, framework.note)] if framework.note else []
    trials = [run for run in runs if loss in run.metrics]
    pruned = sum(run.status == "crashed" for run in trials)
    if framework.prunes and pruned:
        what = (
            f"{pruned} of {counted(len(trials), 'trial')} of {framework.name} were pruned, killed or failed: they"
            " count as crashed, and what is fitted is of those that began better. Search without a pruner"
        )
        found.append(Problem(None, what))
    return found


def _seen(
    runs: Sequence[StoredRun],
    framework: Framework | None,
    counters: Sequence[Counter],
    axis: StepAxis,
    scale: Scale,
    options: ReadOptions,
) -> str | None:
    """The metric that counts what was seen; None where steps times batch size say the same.

    A counter that is only called like one may serve to find the step, but is not taken at its word here.
    """
    own = unit_metric(options.batch_unit)
    if options.examples is None and (
        framework is None or own in {name for run in runs for name in run.metrics}
    ):
        return None if axis.metric == own else own
    declared = (*framework.examples, *framework.tokens) if framework else ()
    for counter in counters:
        if counter.counts == scale.counts and counter.metric in (options.examples, *declared):
            return None if tells_nothing_more(runs, counter, axis, scale) else counter.metric
    return None


def _ignored(settings: Settings, lr: str, seed: str, factors: Sequence[str]) -> frozenset[str]:
    """Settings that say again, or in parts, what the learning rate, the batch size and the seed are."""
    again = {name for name in settings.find_all(aliases.LR) if settings.same(lr, name)}
    again |= {name for name in settings.find(aliases.SEED) if settings.same(seed, name)}
    parts = (
        aliases.GLOBAL_BATCH,
        aliases.PLAIN_BATCH,
        aliases.MICRO_BATCH,
        aliases.ACCUMULATION,
        PROCESS_KEYS,
    )
    again |= {name for keys in parts for name in settings.find(keys)}
    return frozenset(again - {lr, seed, *factors, "lr", "batch_size", "seed"})


def _in_words(names: ReadNames, kind: LoggedBy, why: str, settings: Settings) -> dict[str, str]:
    seed = names.seed if names.seed in settings.names else "not recorded"
    written = any(names.examples in run.metrics for run in settings.runs)
    origins = [OWN_RECORD] if kind.own else []
    origins += [kind.framework.name] if kind.framework else []
    return ({"names of": " and ".join(origins)} if origins else {}) | {
        "loss": names.loss,
        "learning rate": names.lr,
        "batch size": str(names.batch),
        "seed": seed,
        "step": why,
        "examples": names.examples if names.examples is not None and written else "step * batch size",
    }
